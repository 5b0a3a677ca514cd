"""Tiles: the bytes are where `native/tiles.h` says, and every way back gives the numbers that went in."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.kernels import reference
from laguna_agent.backend.kernels.formats import GroupInt, PackedTensor, Tiled, bytes_needed, parse_format
from laguna_agent.backend.kernels.quantise import quantise
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.kernels.tiles import padded_tiles, tile, untile
from laguna_agent.backend.laguna.weights import open_weights, packing
from laguna_agent.backend.laguna.weights.opening import open_checkpoint
from laguna_agent.backend.laguna.weights.pack_file import open_pack
from laguna_agent.backend.laguna.weights.packing import write_pack
from laguna_agent.errors import WeightsError
from tests.laguna.weight_files import CONFIG, random_tensors, write_folder

READ = {torch.float32: "<16f", torch.float16: "<16e"}
formats = st.builds(
    GroupInt, st.sampled_from([4, 8]), st.sampled_from([32, 64, 128]), st.sampled_from(list(READ)), st.booleans()
)


def packed_values(format: GroupInt, *shape: int) -> PackedTensor:
    return quantise(torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))), format)


def value_at(stream: bytes, format: GroupInt, columns: int, row: int, column: int) -> float:
    """One value out of the tiles of one matrix, as the text of tiles.h has it, byte by byte."""
    step_bytes = 256 if format.bits == 4 else 512
    scale_bytes = 16 * format.scale_type.itemsize
    group_bytes = format.group // 32 * step_bytes + scale_bytes * (2 if format.minimums else 1)
    groups = -(-columns // format.group)
    group = stream[(row // 16 * groups + column // format.group) * group_bytes :][:group_bytes]
    step, c = divmod(column % format.group, 32)
    half, c = divmod(c, 16) if format.bits == 4 else (0, c)
    byte = group[step * step_bytes + 64 * (c // 4) + 4 * (row % 16) + c % 4]
    code = byte >> 4 if half else byte & 15 if format.bits == 4 else byte
    behind = group[format.group // 32 * step_bytes :]
    scale = struct.unpack(READ[format.scale_type], behind[:scale_bytes])[row % 16]
    if not format.minimums:
        return float((code - (8 if format.bits == 4 else 128)) * scale)
    minimum = struct.unpack(READ[format.scale_type], behind[scale_bytes : 2 * scale_bytes])[row % 16]
    return float((code - (0 if format.bits == 4 else 128)) * scale + minimum)


@settings(max_examples=40)
@given(formats, st.integers(1, 3), st.integers(1, 34), st.integers(1, 140), st.integers(0, 1 << 30))
def test_every_value_lies_where_the_kernels_look_for_it(format, experts, rows, columns, place):
    packed = packed_values(format, experts, rows, columns)
    values, stream = dequantise(packed), bytes(padded_tiles(packed).tolist())
    each = len(stream) // experts
    assert each * experts == len(stream)
    expert, row, column = place % experts, place // 7 % rows, place // 77 % columns
    own = stream[expert * each : (expert + 1) * each]
    found = value_at(own, format, columns, row, column)
    assert found == pytest.approx(values[expert, row, column].item(), rel=1e-6, abs=1e-7)
    # What pads the tiles is worth nothing: rows nothing at all, columns no code.
    if (outside := row | 15) >= rows:
        assert value_at(own, format, columns, outside, column) == 0
    last = -(-columns // format.group) * format.group - 1
    if last >= columns and not format.minimums:
        assert value_at(own, format, columns, row, last) == 0


@settings(max_examples=30)
@given(formats, st.integers(1, 3), st.integers(1, 3), st.integers(1, 3))
def test_tiles_are_read_back_exactly(format, experts, blocks, groups):
    packed = packed_values(format, experts, 16 * blocks, format.group * groups)
    tiled = tile(packed)
    assert tiled.format == Tiled(format) and parse_format(tiled.format.spelling) == tiled.format
    assert tiled.nbytes == packed.nbytes == bytes_needed(tiled.format, tiled.shape)
    back = untile(tiled)
    assert all(torch.equal(back.parts[name], part) for name, part in packed.parts.items())
    assert torch.equal(dequantise(tiled), dequantise(packed))
    x, picked = torch.randn(5, packed.shape[-1]), torch.arange(5) % experts
    assert torch.equal(reference.expert_linear(x, tiled, picked), reference.expert_linear(x, packed, picked))
    ids = torch.tensor([[16 * blocks - 1, 0], [3, 3]])
    assert torch.equal(reference.embedding(ids, tiled[0]), reference.embedding(ids, packed[0]))


def test_rows_of_tiles_are_taken_in_sixteens():
    whole = packed_values(GroupInt(4, 32), 48, 64)
    tiled = tile(whole)
    assert torch.equal(dequantise(tiled[16:48]), dequantise(whole[16:48]))
    assert tiled[48:].shape == (0, 64)
    for wrong in (3, slice(8, 24), slice(0, 40), slice(0, 48, 2), torch.tensor([0, 16])):
        with pytest.raises(ValueError, match="rows lie 16 together"):
            tiled[wrong]


@pytest.mark.parametrize(("rows", "columns", "group"), [(24, 64, 32), (16, 48, 32), (16, 48, 16)])
def test_what_fills_no_tiles_is_refused(rows, columns, group):
    packed = packed_values(GroupInt(8, group), rows, columns)
    assert not Tiled(GroupInt(8, group)).holds((rows, columns)) and not Tiled(GroupInt(8, group)).holds((columns,))
    with pytest.raises(WeightsError, match="no whole tiles"):
        tile(packed)
    with pytest.raises(WeightsError, match="multiple of"):
        PackedTensor(Tiled(GroupInt(8, group)), (rows, columns), {"tiles": torch.zeros(rows, 1, dtype=torch.uint8)})


@pytest.mark.parametrize("spelling", ["tile16:", "tile16:bf16", "tile16:int4:32", "tile16:tile16:int4:32:bf16"])
def test_other_tiles_than_of_group_integers_have_no_spelling(spelling):
    with pytest.raises(WeightsError, match="not a format"):
        parse_format(spelling)


@pytest.mark.parametrize(("expert_size", "chunk"), [(32, 1), (24, 1 << 22), (24, 700)])
def test_experts_whose_halves_fill_no_tiles_are_packed_all_the_same(tmp_path, monkeypatch, expert_size, chunk):
    """Gate and up rows come from matrices of their own; only together they are a multiple of sixteen."""
    tensors = random_tensors(torch.bfloat16)
    for name in [name for name in tensors if ".mlp.experts." in name]:
        tensors[name] = (
            tensors[name][:expert_size] if "down_proj" not in name else tensors[name][:, :expert_size].clone()
        )
    model = write_folder(tmp_path / "model", tensors, {**CONFIG, "moe_intermediate_size": expert_size})
    monkeypatch.setattr(packing, "CHUNK", chunk)
    write_pack(open_checkpoint(model), "int4", tmp_path / "pack")
    found = open_pack(tmp_path / "pack").tensors["model.layers.1.mlp.experts.gate_up_proj"]
    assert isinstance(found, PackedTensor) and found.format == Tiled(GroupInt(4, 32))
    pieces = [
        tensors[f"model.layers.1.mlp.experts.{e}.{part}_proj.weight"] for e in range(3) for part in ("gate", "up")
    ]
    meant = quantise(torch.cat(pieces).float(), GroupInt(4, 32))
    assert torch.equal(dequantise(found).flatten(0, 1), dequantise(meant))


def test_a_pack_of_another_version_is_made_again(tmp_path):
    model = write_folder(tmp_path / "model", random_tensors(torch.bfloat16))
    pack = open_weights(model, "int4", folder=tmp_path).pack
    content = bytearray(Path(pack).read_bytes())
    content[8] = 1
    pack.unlink()
    pack.write_bytes(content)
    with pytest.raises(WeightsError, match="version 1, expected 2"):
        open_pack(pack)
