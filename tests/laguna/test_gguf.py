"""GGUF checkpoints: read as the gguf package wrote them, keys of all ages, and every kind of damage named."""

from __future__ import annotations

import math
import re
import struct

import gguf
import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.backend.kernels.formats import Ggml, PackedTensor, Plain
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.weights.gguf_config import gguf_config
from laguna_agent.backend.laguna.weights.gguf_file import GgufFile
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, open_weights, read_stored
from laguna_agent.errors import ConfigError, WeightsError
from tests.laguna.checkpoints import canonical
from tests.laguna.weight_files import CONFIG, gguf_keys, gguf_tensors, random_tensors, write_gguf


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An F32 file that no test changes."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", gguf_tensors(random_tensors()))


def test_a_file_is_read_as_it_was_written(small):
    checkpoint = open_checkpoint(small)
    found, expected = read_stored(checkpoint), canonical(random_tensors())
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    # GGUF numbers are fp32.
    known = parse_config(CONFIG)
    near = msgspec.structs.replace(checkpoint.config, norm_eps=known.norm_eps, rope=known.rope)
    assert near == known
    rope = checkpoint.config.rope
    assert rope["full_attention"].attention_factor == pytest.approx(1.3465735902799727)
    assert rope["sliding_attention"] == known.rope["sliding_attention"]


def test_keys_and_table_are_what_the_gguf_package_reads(small):
    file, reader = GgufFile(small), gguf.GGUFReader(small)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert file.keys == fields
    assert {name: entry.begin for name, entry in file.entries.items()} == {
        tensor.name: tensor.data_offset for tensor in reader.tensors
    }


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_every_tensor_type_dequantises_as_the_gguf_package_does(tmp_path, kind):
    hidden = 256 if kind.endswith("K") else 64
    tensors, keys = gguf_tensors(random_tensors(hidden=hidden)), {**gguf_keys(), "embedding_length": hidden}
    packed = ("token_embd", "attn_q.", "ffn_gate_exps", "ffn_up_exps")
    kinds = {name: kind for name in tensors if any(part in name for part in packed)}
    path = write_gguf(tmp_path / "model.gguf", tensors, keys, kinds)
    found = read_stored(open_checkpoint(path))
    meant = {
        tensor.name: torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in gguf.GGUFReader(path).tensors
    }
    stacked = torch.cat((meant["blk.1.ffn_gate_exps.weight"], meant["blk.1.ffn_up_exps.weight"]), 1)
    assert torch.equal(dequantise(found["model.layers.1.mlp.experts.gate_up_proj"]), stacked)
    assert torch.equal(dequantise(found["model.layers.2.self_attn.q_proj.weight"]), meant["blk.2.attn_q.weight"])
    assert torch.equal(dequantise(found["model.embed_tokens.weight"]), meant["token_embd.weight"])
    format = Plain({"F16": torch.float16, "BF16": torch.bfloat16}[kind]) if kind in ("F16", "BF16") else Ggml(kind)
    embedding = found["model.embed_tokens.weight"]
    assert (embedding.format if isinstance(embedding, PackedTensor) else Plain(embedding.dtype)) == format


def test_experts_of_two_types_are_stacked_as_values(tmp_path):
    """Official mixes give one layer's gate and up different types."""
    tensors = gguf_tensors(random_tensors())
    kinds = {"blk.1.ffn_gate_exps.weight": "Q8_0", "blk.1.ffn_up_exps.weight": "Q4_0"}
    path = write_gguf(tmp_path / "model.gguf", tensors, kinds=kinds)
    meant = {
        tensor.name: torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        for tensor in gguf.GGUFReader(path).tensors
    }
    stacked = torch.cat([meant[name] for name in kinds], 1)
    found = read_stored(open_checkpoint(path))["model.layers.1.mlp.experts.gate_up_proj"]
    assert torch.equal(found, stacked.bfloat16())
    packed = open_weights(path, "int8", folder=tmp_path).tensors["model.layers.1.mlp.experts.gate_up_proj"]
    assert (dequantise(packed) - stacked).abs().max() < stacked.abs().max() / 200


def config(changes=None, **options):
    keys = {"general.architecture": "laguna", **{f"laguna.{key}": value for key, value in gguf_keys().items()}}
    for key, value in (changes or {}).items():
        keys.pop(f"laguna.{key}", None) if value is None else keys.update({f"laguna.{key}": value})
    return gguf_config(keys, "m.gguf", vocab_size=50, tied=False, **options)


def full_factor(*args, **options):
    return config(*args, **options).rope["full_attention"].attention_factor


def test_the_attention_factor_is_the_one_that_llama_cpp_computes():
    """`yarn_attn_factor` is read by nobody and official files have 1.0 there; `attn_factor` multiplies; a person may
    say better."""
    own = 1 + 0.1 * math.log(32)
    assert full_factor() == pytest.approx(own)
    assert full_factor({"rope.scaling.yarn_attn_factor": 1.0}) == pytest.approx(own)
    assert full_factor({"rope.scaling.yarn_attn_factor": 1.5}) == pytest.approx(own)
    assert full_factor({"rope.scaling.attn_factor": 0.5}) == pytest.approx(own / 2)
    assert full_factor({"rope.scaling.attn_factor": 0.5}, attention_factor=1.0) == 1.0
    assert full_factor({"rope.scaling.factor": 1.0}) == 1.0


def test_an_overridden_attention_factor_needs_no_second_pack(small, tmp_path):
    plain, other = (open_weights(small, "int8", folder=tmp_path, attention_factor=factor) for factor in (None, 1.0))
    assert plain.pack == other.pack
    assert other.config.rope["full_attention"].attention_factor == 1.0 != plain.config.rope["full_attention"]


def test_older_spellings_mean_the_same():
    older = {
        "rope.freq_base_swa": None,
        "rope.swa.freq_base": 10000.0,
        "rope.dimension_count_swa": None,
        "rope.swa.dimension_count": 16,
        "rope.scaling.yarn_beta_fast": None,
        "rope.scaling.beta_fast": 64.0,
        "rope.scaling.yarn_beta_slow": None,
        "rope.scaling.beta_slow": 1.0,
        "attention.sliding_window_pattern": None,
        "attention.layer_types": [0, 1, 0],
        "leading_dense_block_count": None,
        "dense_layers": [0],
        "attention.gating_type": 1,
        "attention.qk_norm": True,
        "attention.sink_enabled": False,
    }
    assert config(older) == config()


@pytest.mark.parametrize(
    ("pattern", "kinds"),
    [(None, "fss"), (2, "fsf"), (1, "fff"), ([True, False, True], "sfs"), (3, "fss")],
)
def test_which_layers_slide(pattern, kinds):
    found = config({"attention.sliding_window_pattern": pattern})
    assert "".join(layer.attention[0] for layer in found.layers) == kinds
    assert all(layer.attention == "full_attention" for layer in config({"attention.sliding_window": 0}).layers)


def test_other_keys_that_may_be_written_in_two_ways():
    assert config({"attention.head_count": 4}).layers[1].heads == 4
    assert config({"attention.head_count_kv": [2, 2, 2], "feed_forward_length": [96, 0, 0]}) == config()
    assert config({"expert_shared_count": 0}).shared_expert_size == 0
    assert config({"rope.scaling.type": None}).rope["full_attention"].kind == "default"
    for size in range(2, 257, 2):
        keys = {"attention.key_length": 256, "attention.value_length": 256, "rope.dimension_count": size}
        assert config({**keys, "rope.dimension_count_swa": size}).rope["full_attention"].rotary_dim == size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_count": None}, "laguna.block_count is missing"),
        ({"block_count": 1 << 30}, "laguna.block_count is 1073741824"),
        ({"attention.head_count": [4, 6]}, "laguna.attention.head_count"),
        ({"attention.head_count_kv": [2, 2, 1]}, "laguna.attention.head_count_kv is [2, 2, 1], expected the same"),
        ({"attention.value_length": 8}, "laguna.attention.value_length"),
        ({"expert_gating_func": 1}, "laguna.expert_gating_func is 1, expected 2 (sigmoid)"),
        ({"expert_shared_count": 2}, "laguna.expert_shared_count is 2"),
        ({"attention.sink_enabled": True}, "laguna.attention.sink_enabled is True"),
        ({"attention.qk_norm": False}, "laguna.attention.qk_norm is False"),
        ({"rope.scaling.type": "linear"}, "laguna.rope.scaling.type is 'linear'"),
        ({"rope.dimension_count": 99}, "laguna.rope.dimension_count is 99"),
        ({"attention.sliding_window_pattern": [True]}, "laguna.attention.sliding_window_pattern is [True]"),
        ({"rope.scaling.factor": float("nan")}, "laguna.rope.scaling.factor is nan"),
    ],
)
def test_keys_that_cannot_be_computed_are_refused(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config(changes)


def test_another_architecture_is_refused():
    with pytest.raises(ConfigError, match=r"general.architecture is 'llama', expected 'laguna' or 'qwen2'"):
        gguf_config({"general.architecture": "llama"}, "m.gguf", vocab_size=5, tied=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("blk.1.ffn_up_exps.weight"), "tensor 'blk.1.ffn_up_exps.weight' [3, 32, 64] is missing"),
        (
            lambda t: t.update({"blk.9.attn_q.weight": torch.ones(1)}),
            "blk.9.attn_q.weight: the model has no such tensor",
        ),
        (
            lambda t: t.update({"blk.0.attn_q.weight": torch.ones(64, 63)}),
            "attn_q.weight: shape [64, 63], expected [64",
        ),
        (lambda t: t.pop("token_embd.weight"), "tensor 'token_embd.weight' of two dimensions is missing"),
        (lambda t: t["blk.1.attn_k.weight"].fill_(math.nan), "blk.1.attn_k.weight: holds NaN or infinite values"),
    ],
)
def test_a_wrong_set_of_tensors_is_named(tmp_path, change, message):
    tensors = gguf_tensors(random_tensors())
    change(tensors)
    with pytest.raises(WeightsError, match=re.escape(message)):
        read_stored(open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors)))


def string(text):
    return struct.pack("<Q", len(text)) + text.encode()


def header(tensors=0, keys=0, version=3, body=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + body


def tensor_line(name="a", shape=(32,), kind=0, offset=0):
    line = string(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in shape)
    return line + struct.pack("<IQ", kind, offset)


PAD = bytes(400)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"GGU", "truncated"),
        (b"GGML" + PAD, "does not start with GGUF"),
        (header(version=1, body=PAD), "version 1, expected 2 or 3"),
        (header(version=3 << 24, body=PAD), "little-endian"),
        (header(tensors=1 << 60, body=PAD), "more than its"),
        (header(keys=1 << 60, body=PAD), "more than its"),
        (header(keys=1, body=struct.pack("<Q", 1 << 62) + PAD), "header is truncated"),
        (header(keys=1, body=string("k") + struct.pack("<I", 77) + PAD), "key 'k' has a value of unknown type 77"),
        (header(keys=1, body=string("k") + struct.pack("<IIQ", 9, 8, 1 << 50) + PAD), "1125899906842624 strings"),
        (header(keys=1, body=string("k") + struct.pack("<IIQ", 9, 0, 1 << 50) + PAD), "header is truncated"),
        (header(keys=1, body=string("k") + struct.pack("<IIQ", 9, 9, 1) + PAD), "an array of unknown type 9"),
        (header(keys=2, body=(string("k") + struct.pack("<IB", 0, 1)) * 2 + PAD), "key 'k' appears twice"),
        (header(tensors=1, body=tensor_line(shape=(1,) * 9) + PAD), "has 9 dimensions"),
        (header(tensors=1, body=tensor_line(kind=16) + PAD), "the ggml type 16, expected one of F32"),
        (header(tensors=1, body=tensor_line(shape=(0,)) + PAD), "expected positive sizes"),
        (header(tensors=1, body=tensor_line(shape=(1 << 63,)) + PAD), "expected positive sizes"),
        (header(tensors=1, body=tensor_line(shape=(1 << 40, 1 << 40)) + PAD), "truncated: tensor 'a' ends at byte"),
        (header(tensors=1, body=tensor_line(shape=(33, 1), kind=2) + PAD), "a Q4_0 matrix has 33 columns"),
        (header(tensors=1, body=tensor_line(offset=1 << 63) + PAD), "truncated: tensor 'a'"),
        (header(tensors=1, body=tensor_line(offset=4) + PAD), "not aligned (offset 4)"),
        (header(tensors=2, body=tensor_line() + tensor_line("b") + PAD), "overlaps"),
        (header(tensors=2, body=tensor_line() + tensor_line(offset=128) + PAD), "appears twice"),
        (header(tensors=1, body=tensor_line(shape=(99,)) + PAD), "truncated: tensor 'a'"),
        (
            header(tensors=0, keys=1, body=string("general.alignment") + struct.pack("<II", 4, 0) + PAD),
            "general.alignment is 0",
        ),
    ],
)
def test_a_hostile_header_is_refused(tmp_path, content, message):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=re.escape(message)) as caught:
        GgufFile(path)
    assert str(path) in str(caught.value)


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(small, tmp_path, data):
    whole = bytearray(small.read_bytes())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        for _ in range(3):
            whole[data.draw(st.integers(0, 6000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    try:
        checkpoint = open_checkpoint(path)
    except (WeightsError, ConfigError) as error:
        assert str(path) in str(error)
    else:
        assert checkpoint.tensors


def test_a_part_of_a_split_model_is_refused(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "laguna")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(WeightsError, match="part of a split model"):
        open_checkpoint(tmp_path / "m.gguf")
