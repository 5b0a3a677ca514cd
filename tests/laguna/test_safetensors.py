"""Safetensors checkpoints: both layouts read to the same tensors, and every kind of damage named."""

from __future__ import annotations

import json
import re
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from laguna_agent.backend.laguna.weights.opening import open_checkpoint, read_stored
from laguna_agent.backend.laguna.weights.safetensors_file import SafetensorsFile
from laguna_agent.errors import ConfigError, WeightsError
from tests.laguna.checkpoints import CASES, SHARED, canonical
from tests.laguna.weight_files import CONFIG, fused, random_tensors, write_folder

EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"


def same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("layout", ["hub", "fused"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_checkpoint_is_read_in_either_layout(tmp_path, layout, shards, dtype):
    tensors = random_tensors(dtype)
    folder = write_folder(tmp_path, fused(tensors) if layout == "fused" else tensors, shards=shards)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.stored_bytes == sum(tensor.nbytes for tensor in tensors.values())
    same(read_stored(checkpoint), canonical(tensors))


@pytest.mark.parametrize("case", CASES)
def test_the_golden_checkpoints_are_read(case):
    folder = SHARED / "golden" / case
    if not folder.is_dir():
        pytest.skip(f"no golden vectors in {folder}; set LAGUNA_SHARED to the folder that holds golden/")
    same(read_stored(open_checkpoint(folder)), canonical(load_file(folder / "model.safetensors")))


def test_a_missing_selection_bias_is_zeros_and_tied_embeddings_need_no_head(tmp_path):
    tensors = {name: tensor for name, tensor in random_tensors().items() if "e_score" not in name}
    del tensors["lm_head.weight"]
    found = read_stored(open_checkpoint(write_folder(tmp_path, tensors, {**CONFIG, "tie_word_embeddings": True})))
    assert torch.equal(found["model.layers.1.mlp.experts.e_score_correction_bias"], torch.zeros(3))
    assert "lm_head.weight" not in found


def test_the_gate_is_what_its_shape_says(tmp_path):
    tensors = random_tensors()
    name = "model.layers.0.self_attn.g_proj.weight"
    tensors[name] = torch.randn(64, 64)
    checkpoint = open_checkpoint(write_folder(tmp_path, tensors))
    assert [layer.gate for layer in checkpoint.config.layers] == ["per-element", "per-head", "per-head"]
    tensors[name] = torch.randn(5, 64)
    with pytest.raises(ConfigError, match="5 rows, expected 4"):
        open_checkpoint(write_folder(tmp_path, tensors))


def broken(change):
    """The tensors after `change`."""
    tensors = random_tensors()
    change(tensors)
    return tensors


def renamed(tensors):
    tensors["transformer." + EXPERT] = tensors.pop(EXPERT)


def transposed(tensors):
    tensors[EXPERT] = tensors[EXPERT].T.contiguous()


def surplus(tensors):
    tensors["model.layers.1.mlp.experts.3.up_proj.weight"] = tensors[EXPERT].clone()


def integers(tensors):
    tensors[EXPERT] = torch.zeros(32, 64, dtype=torch.int32)


def scaleless(tensors):
    tensors[EXPERT] = tensors[EXPERT].to(torch.float8_e4m3fn)


def unnamed_scale(tensors):
    scaleless(tensors)
    tensors[EXPERT + "_scale"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(EXPERT), f"tensor '{EXPERT}' [32, 64] is missing"),
        (renamed, f"tensor '{EXPERT}' [32, 64] is missing; there is 'transformer.{EXPERT}'"),
        (transposed, f"model.safetensors: {EXPERT}: shape [64, 32], expected [32, 64]"),
        (surplus, "experts.3.up_proj.weight: the model has no such tensor"),
        (integers, f"{EXPERT}: torch.int32 without a scale, expected bf16, f16 or f32"),
        (scaleless, f"{EXPERT}: torch.float8_e4m3fn without a scale"),
        (unnamed_scale, f"{EXPERT}_scale: quantised, but no group of quantization_config names it"),
        (lambda tensors: tensors.pop("model.norm.weight"), "tensor 'model.norm.weight' [64] is missing"),
    ],
)
def test_a_wrong_set_of_tensors_is_named(tmp_path, change, message):
    with pytest.raises(WeightsError, match=re.escape(message)) as caught:
        open_checkpoint(write_folder(tmp_path, broken(change)))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(tmp_path, bad):
    tensors = random_tensors()
    tensors[EXPERT][3, 4] = bad
    checkpoint = open_checkpoint(write_folder(tmp_path, tensors))
    with pytest.raises(WeightsError, match=f"model.safetensors: {re.escape(EXPERT)}: holds NaN or infinite values"):
        read_stored(checkpoint)


def raw_file(path, header, data=b"", length=None):
    """A file with that header: JSON, or bytes as they are."""
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(body) if length is None else length) + body + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "length", "message"),
    [
        ({}, 1 << 63, "a header of 9223372036854775808 bytes"),
        ({}, 200, "a header of 200 bytes, expected at most"),
        (b"\xff\xfe", None, "not JSON"),
        (b"[" * 100000, None, "not JSON"),
        (b"[]", None, "its header is a list"),
        (b'{"a": 1, "a": 2}', None, "a name appears twice"),
        ({"a": 5}, None, "'a' has no dtype, shape and two data_offsets"),
        ({"a": entry("F4")}, None, "'a' has dtype 'F4'"),
        ({"a": entry(["F32"])}, None, "'a' has dtype"),
        ({"a": entry(shape=[-2])}, None, "expected sizes"),
        ({"a": entry(shape=[2.0])}, None, "expected sizes"),
        ({"a": entry(shape="ab")}, None, "expected sizes"),
        ({"a": entry(shape=[True, 2])}, None, "expected sizes"),
        ({"a": entry(shape=[1 << 40, 1 << 40])}, None, "has 8 bytes, expected"),
        ({"a": entry(offsets=[8, 0])}, None, "has -8 bytes, expected 8"),
        ({"a": entry(offsets=[0, "8"])}, None, "expected sizes"),
        ({"a": entry(), "b": entry()}, None, "overlaps the tensor before it"),
        ({"a": entry(offsets=[4, 12])}, None, "leaves a hole before it"),
        ({"a": entry(shape=[4], offsets=[0, 16])}, None, "truncated"),
        ({"a": entry(shape=[1], offsets=[0, 4])}, None, "longer than its header says"),
    ],
)
def test_a_hostile_header_is_refused(tmp_path, header, length, message):
    path = raw_file(tmp_path / "model.safetensors", header, bytes(8), length)
    with pytest.raises(WeightsError, match=re.escape(message)) as caught:
        SafetensorsFile(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"short", bytes(8), struct.pack("<Q", 3) + b"{} "])
def test_tiny_files_are_refused_or_empty(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    if content.endswith(b"{} "):
        assert SafetensorsFile(path).entries == {}
        return
    with pytest.raises(WeightsError):
        SafetensorsFile(path)


@given(data=st.data())
def test_a_damaged_file_is_read_right_or_refused(tmp_path, data):
    """Any cut and any changed byte of the header: the error is ours, or the file still means something whole."""
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(5, dtype=torch.bfloat16)}, path)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        whole[data.draw(st.integers(0, len(whole) - 35))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        file = SafetensorsFile(path)
    except WeightsError as error:
        assert str(path) in str(error)
    else:
        assert all(file.tensor(name).shape == entry.shape for name, entry in file.entries.items())


def test_a_truncated_shard_is_named(tmp_path):
    folder = write_folder(tmp_path, random_tensors(), shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model-00002-of-00003.safetensors: .*truncated"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "shard",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "a/../../b.safetensors",
        "C:\\outside.safetensors",
        "\\\\host\\share.safetensors",
        "..\\outside.safetensors",
        "no\0.safetensors",
        "config.json",
        ["x"],
        7,
        None,
    ],
)
def test_an_index_cannot_lead_outside_the_folder(tmp_path, shard):
    folder = write_folder(tmp_path / "model", random_tensors(), shards=2)
    save_file(random_tensors(), tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["model.norm.weight"] = shard
    index.write_text(json.dumps(values))
    with pytest.raises(
        WeightsError, match=r"'model.norm.weight' is said to be in .*, expected a file inside the folder"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("weight_map"), "weight_map is missing"),
        (lambda values: values["weight_map"].update({"model.norm.weight": "gone.safetensors"}), "the file is missing"),
        (
            lambda values: values["weight_map"].update({"ghost": "model-00001-of-00002.safetensors"}),
            "'ghost' is missing",
        ),
        (lambda values: values["weight_map"].pop("model.norm.weight"), "'model.norm.weight' \\[64\\] is missing"),
    ],
)
def test_an_index_that_is_wrong_is_named(tmp_path, change, message):
    folder = write_folder(tmp_path, random_tensors(), shards=2)
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    change(values)
    index.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(folder)


def test_shards_may_be_links_as_in_the_cache_of_hugging_face(tmp_path):
    tensors = random_tensors()
    folder = write_folder(tmp_path / "models--x" / "snapshots" / "0123", tensors)
    blob = tmp_path / "models--x" / "blobs" / "4567"
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    same(read_stored(open_checkpoint(folder)), canonical(tensors))
    outside = tmp_path / "elsewhere.safetensors"
    blob.rename(outside)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    with pytest.raises(WeightsError, match="leads out of the folder"):
        open_checkpoint(folder)


def test_a_place_without_a_model_says_so(tmp_path):
    with pytest.raises(WeightsError, match="there is no such file or folder"):
        open_checkpoint(tmp_path / "nothing")
    with pytest.raises(WeightsError, match=r"no config.json, and 0 GGUF files"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(WeightsError, match=r"no model.safetensors and no model.safetensors.index.json"):
        open_checkpoint(tmp_path)
