"""Compressed-tensors checkpoints: the golden linears exactly, whole models with mixed groups, and what is refused."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from laguna_agent.backend.kernels.formats import PackedTensor, Tiled
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.laguna.weights import open_weights
from laguna_agent.backend.laguna.weights.compressed import CompressedModule
from laguna_agent.backend.laguna.weights.compressed_config import QuantizationConfig
from laguna_agent.backend.laguna.weights.folder import SafetensorsFolder
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.errors import ConfigError, WeightsError
from tests.laguna.checkpoints import SHARED, canonical
from tests.laguna.weight_files import CONFIG, random_tensors, write_folder

INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
WEIGHTS = {
    "fp8_block128": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
    "fp8_channel": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "fp8_tensor": {"num_bits": 8, "type": "float", "strategy": "tensor"},
    "int4_sym_g128": INT4,
    "int8_sym_g128": {**INT4, "num_bits": 8},
    "int4_asym_g32": {**INT4, "group_size": 32, "symmetric": False},
    "nvfp4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
}


def quantization(*groups, ignore=()):
    return {
        "quant_method": "compressed-tensors",
        "config_groups": {
            f"group_{index}": {"targets": targets, "weights": weights}
            for index, (targets, weights) in enumerate(groups)
        },
        "ignore": list(ignore),
    }


def module(folder, name, rows, columns):
    config = QuantizationConfig(quantization(([name], WEIGHTS[name])), "config.json")
    return CompressedModule(SafetensorsFolder(folder), name, config.scheme(name), rows, columns).matrix()


@pytest.mark.parametrize("name", WEIGHTS)
def test_golden_linears_dequantise_exactly(tmp_path, name):
    path = SHARED / "golden" / "quant" / "quant_linears.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden vectors in {path}; set LAGUNA_SHARED to the folder that holds golden/")
    golden = load_file(path)
    shutil.copy(path, tmp_path / "model.safetensors")
    expected = golden[f"{name}.expected"]
    rows, columns = expected.shape
    matrix = module(tmp_path, name, rows, columns)
    assert torch.equal(dequantise(matrix.packed(0, rows)), expected)
    middle = matrix.packed(3, rows - 5)  # scales of blocks and packed zero points must follow the rows
    assert torch.equal(dequantise(middle), expected[3 : rows - 5])


def pack_words(codes, bits):
    """int codes [rows, columns] -> int32 words: field j is bits [bits*j, bits*(j+1)) (section 6)."""
    per = 32 // bits
    fields = (codes.long() + (1 << (bits - 1))).view(len(codes), -1, per)
    words = sum(fields[..., j] << (bits * j) for j in range(per))
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)


def rounded(weight, bits, group):
    """A weight as stored parts of pack-quantized, and the values that it then has."""
    rows, columns = weight.shape
    groups = weight.float().view(rows, -1, group)
    scales = (groups.abs().amax(-1) / (2 ** (bits - 1) - 1)).to(torch.bfloat16)
    codes = (groups / scales.float()[..., None]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    values = (codes * scales.float()[..., None]).view(rows, columns)
    parts = {"weight_packed": pack_words(codes.view(rows, columns), bits), "weight_scale": scales}
    return {**parts, "weight_shape": torch.tensor([rows, columns])}, values


def mixed_checkpoint(folder, change=lambda tensors, config: None):
    """Experts of layer 1 in INT4, of layer 2 in INT8, the rest BF16: the shape of XS 2.1-INT4."""
    stored, meant = {}, {}
    for name, tensor in random_tensors(torch.bfloat16).items():
        if ".experts." in name and name.endswith("_proj.weight"):
            parts, values = rounded(tensor, 4 if "layers.1." in name else 8, 32)
            stored |= {name.removesuffix("weight") + part: data for part, data in parts.items()}
            meant[name] = values
        else:
            stored[name] = meant[name] = tensor
    groups = (
        ([r"re:model\.layers\.1\.mlp\.experts\..*"], {**INT4, "group_size": 32}),
        ([r"re:.*layers\.2\.mlp\.experts\..*_proj$"], {**INT4, "group_size": 32, "num_bits": 8}),
    )
    config = {**CONFIG, "quantization_config": quantization(*groups, ignore=["lm_head", r"re:.*mlp\.gate$"])}
    config["quantization_config"]["transform_config"] = {
        "config_groups": {"R1": {"apply": [{"location": "weight_input"}, {"location": "weight_output"}]}}
    }
    stored["model.layers.1.self_attn.k_scale"] = torch.ones(1)
    change(stored, config)
    return write_folder(folder, stored, config), canonical({name: tensor.float() for name, tensor in meant.items()})


def test_a_model_of_mixed_groups_is_read_exactly(tmp_path):
    folder, meant = mixed_checkpoint(tmp_path / "model")
    found = read_stored(open_checkpoint(folder))
    experts = found["model.layers.1.mlp.experts.gate_up_proj"], found["model.layers.2.mlp.experts.down_proj"]
    assert [packed.format.spelling for packed in experts] == ["int4:32:bf16", "int8:32:bf16"]
    for name, tensor in meant.items():
        assert torch.equal(dequantise(found[name]), tensor), name


def test_packing_carries_stored_codes_over(tmp_path):
    folder, meant = mixed_checkpoint(tmp_path / "model")
    for quant in ("int8", "int4"):
        weights = open_weights(folder, quant, folder=tmp_path)
        name = "model.layers.1.mlp.experts.gate_up_proj"
        assert torch.equal(dequantise(weights.tensors[name]), meant[name])
        other = weights.tensors["model.layers.2.mlp.experts.gate_up_proj"]
        assert isinstance(other, PackedTensor) and isinstance(other.format, Tiled)
        assert other.format.base.bits == int(quant[-1])


NAME = "model.layers.1.mlp.experts.2.up_proj."


def cut_scale(tensors, config):
    tensors[NAME + "weight_scale"] = tensors[NAME + "weight_scale"][:, :1].contiguous()


def nan_scale(tensors, config):
    tensors[NAME + "weight_scale"][2, 1] = float("nan")


def other_shape(tensors, config):
    tensors[NAME + "weight_shape"] = torch.tensor([32, 65])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, config: tensors.pop(NAME + "weight_scale"), f"tensor '{NAME}weight_scale' is missing"),
        (lambda tensors, config: tensors.pop(NAME + "weight_packed"), f"tensor '{NAME}weight_packed' is missing"),
        (cut_scale, f"{NAME}weight_scale: torch.bfloat16 [32, 1], expected f32 or f16 or bf16 [32, 2]"),
        (nan_scale, f"{NAME}weight_packed: holds NaN or infinite values (scales)"),
        (other_shape, f"{NAME}weight_shape: [32, 65], expected [32, 64]"),
        (
            lambda tensors, config: tensors.update({NAME + "weight_g_idx": torch.arange(64, dtype=torch.int32)}),
            f"{NAME}weight_g_idx: reordered groups",
        ),
        (
            lambda tensors, config: config["quantization_config"]["ignore"].append("re:.*experts.*"),
            "quantised, but no group of quantization_config names it",
        ),
    ],
)
def test_damaged_modules_are_named(tmp_path, change, message):
    folder, _ = mixed_checkpoint(tmp_path / "model", change)
    with pytest.raises(WeightsError, match=re.escape(message)):
        read_stored(open_checkpoint(folder))


def bad_weights(**change):
    return quantization((["Linear"], {**INT4, **change}))


ONLINE = {"R4": {"apply": [{"location": "input"}]}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quant_method": "gptq"}, "quantization_config.quant_method is 'gptq'"),
        ({"quant_method": "compressed-tensors"}, "config_groups"),
        (bad_weights(num_bits=3), "num_bits is 3, expected 4 or 8"),
        (bad_weights(type="complex"), "num_bits is 4"),
        (bad_weights(strategy="block"), "strategy is 'block', expected group or channel"),
        (bad_weights(group_size=None), "group_size"),
        (quantization((["Linear"], {**WEIGHTS["nvfp4"], "group_size": 32})), "group_size is 32, expected 16"),
        (quantization((["Linear"], {**WEIGHTS["fp8_block128"], "block_structure": [0, 1]})), "block_structure"),
        (quantization((["re:("], INT4)), "expected a regular expression"),
        (quantization(([7], INT4)), "targets is 7"),
        (quantization((["Linear"], INT4), ignore=["re:" + "a" * 2000]), "at most 1000 characters"),
        (
            {**bad_weights(), "transform_config": {"config_groups": ONLINE}},
            "location is 'input', expected weight_input",
        ),
    ],
)
def test_a_scheme_that_cannot_be_decoded_is_refused(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        QuantizationConfig(values, "config.json")


def test_a_name_counts_more_than_a_pattern_and_a_pattern_more_than_a_class():
    eight = {**INT4, "num_bits": 8}
    fp8 = WEIGHTS["fp8_tensor"]
    config = QuantizationConfig(
        quantization((["Linear"], fp8), (["re:.*mlp.*"], INT4), (["a.mlp.x"], eight), ignore=["a.mlp.z", "re:.*head"]),
        "config.json",
    )
    assert config.scheme("a.attn").kind == "fp8"
    assert config.scheme("a.mlp.y").bits == 4
    assert config.scheme("a.mlp.x").bits == 8
    assert config.scheme("a.mlp.z") is None and config.scheme("lm_head") is None


def test_int8_of_channels_with_zero_points(tmp_path):
    """The layout of int-quantized files: plain int8 codes, one scale and zero point a row."""
    codes = torch.randint(-128, 128, (5, 12), dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    scales, zeros = torch.rand(5, 1), torch.randint(-9, 9, (5, 1), dtype=torch.int8)
    save_file(
        {"m.weight": codes, "m.weight_scale": scales, "m.weight_zero_point": zeros}, tmp_path / "model.safetensors"
    )
    scheme = QuantizationConfig(
        quantization((["m"], {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False})), "c"
    ).scheme("m")
    matrix = CompressedModule(SafetensorsFolder(tmp_path), "m", scheme, 5, 12).matrix()
    expected = (codes.float() - zeros.float()) * scales
    torch.testing.assert_close(dequantise(matrix.packed(0, 5)), expected, rtol=1e-6, atol=1e-5)
