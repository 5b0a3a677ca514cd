"""Group integers in the layout that the CPU kernels read: sixteen rows together (`cpu/native/tiles.h` has the bytes).

Codes only change their places, so both directions are exact. Knows layouts; must not know what is multiplied.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from laguna_agent.backend.kernels.formats import GroupInt, PackedTensor, Tiled
from laguna_agent.errors import WeightsError

ROWS = Tiled.rows_together
STEP = Tiled.STEP


def tile(packed: PackedTensor) -> PackedTensor:
    """GroupInt [*, rows, columns] -> the same codes as Tiled. Raises WeightsError for a shape without whole tiles."""
    assert isinstance(packed.format, GroupInt)
    format = Tiled(packed.format)
    if not format.holds(packed.shape):
        raise WeightsError(f"a {format.base.spelling} tensor {list(packed.shape)} has no whole tiles")
    return PackedTensor(format, packed.shape, {"tiles": padded_tiles(packed).view(*packed.shape[:-1], -1)})


def untile(packed: PackedTensor) -> PackedTensor:
    """Tiled -> the same codes as GroupInt, parts contiguous."""
    assert isinstance(packed.format, Tiled)
    base, columns, lead = packed.format.base, packed.shape[-1], packed.shape[:-1]
    groups = columns // base.group
    blocks = packed.parts["tiles"].reshape(-1, groups, ROWS * packed.format.group_bytes)
    at, scale_bytes = ROWS * base.group * base.bits // 8, ROWS * base.scale_type.itemsize
    parts = {"codes": _codes_of(blocks[..., :at], base).view(*lead, -1)}
    for name in ("scales", "minimums") if base.minimums else ("scales",):
        stored = blocks[..., at : at + scale_bytes].contiguous().view(base.scale_type)
        parts[name] = stored.transpose(1, 2).reshape(*lead, groups)
        at += scale_bytes
    return PackedTensor(base, packed.shape, parts)


def padded_tiles(packed: PackedTensor) -> Tensor:
    """Tiles of GroupInt [*, rows, columns], padded to whole tiles and groups with codes of value 0: uint8, flat.

    Every matrix of a stack is padded by itself. The group must be a multiple of 32.
    """
    base, columns = packed.format, packed.shape[-1]
    assert isinstance(base, GroupInt) and base.group % STEP == 0
    groups = -(-columns // base.group)
    codes = _padded_codes(packed, base, groups * base.group)
    pieces = [_tiled_codes(codes.view(-1, ROWS, *codes.shape[-1:]), base, groups)]
    for name in ("scales", "minimums") if base.minimums else ("scales",):
        values = _padded_rows(packed.parts[name])
        # As bytes: concatenation takes one type.
        by_group = values.reshape(-1, ROWS, groups).transpose(1, 2).contiguous()
        pieces.append(by_group.view(torch.uint8))
    return torch.cat(pieces, -1).flatten()


def rows_of(packed: PackedTensor, ids: Tensor) -> PackedTensor:
    """Rows of a Tiled matrix [rows, columns] for ids int [n]: GroupInt [n, columns]."""
    assert isinstance(packed.format, Tiled)
    lines = packed.parts["tiles"].view(-1, ROWS * packed.parts["tiles"].shape[-1])
    tiles = lines[ids // ROWS].view(-1, packed.parts["tiles"].shape[-1])
    blocks = untile(PackedTensor(packed.format, (len(tiles), packed.shape[-1]), {"tiles": tiles}))
    return blocks[torch.arange(len(ids), device=ids.device) * ROWS + ids % ROWS]


def _padded_rows(part: Tensor, value: int = 0) -> Tensor:
    """[*, rows, n] -> [*, rows padded to whole tiles, n]."""
    missing = -part.shape[-2] % ROWS
    return F.pad(part, (0, 0, 0, missing), value=value) if missing else part


def _padded_codes(packed: PackedTensor, base: GroupInt, columns: int) -> Tensor:
    """Codes as the tiles have them, but in order: uint8 [*, padded rows, columns], for int4 two in a byte."""
    codes = packed.parts["codes"]
    if base.bits == 8:
        codes = codes.view(torch.uint8) ^ 128
        return _padded_rows(F.pad(codes, (0, columns - codes.shape[-1]), value=128), 128)
    zero = 0 if base.minimums else 8
    if packed.shape[-1] % 2 and zero:
        codes = codes.clone()
        codes[..., -1] |= zero << 4
    both = zero | zero << 4
    return _padded_rows(F.pad(codes, (0, columns // 2 - codes.shape[-1]), value=both), both)


def _tiled_codes(codes: Tensor, base: GroupInt, groups: int) -> Tensor:
    """Codes in order, uint8 [blocks, 16, bytes of a row] -> [blocks, groups, bytes of a group's codes]."""
    blocks = len(codes)
    if base.bits == 4:
        # Of 32 columns the first 16 go into low nibbles, the others into high ones.
        halves = codes.reshape(blocks, -1, 2, STEP // 4)
        first, second = halves[..., 0, :], halves[..., 1, :]
        even, odd = (first & 15) | (second << 4), (first >> 4) | (second & 240)
        codes = torch.stack((even, odd), -1)
    words = codes.reshape(blocks, ROWS, -1).view(torch.int32)
    return words.transpose(1, 2).contiguous().view(torch.uint8).view(blocks, groups, -1)


def _codes_of(tiles: Tensor, base: GroupInt) -> Tensor:
    """What `_tiled_codes` made, back, as GroupInt has it: [blocks * 16, bytes of a row]."""
    blocks = len(tiles)
    words = tiles.reshape(blocks, -1).view(torch.int32).view(blocks, -1, ROWS)
    codes = words.transpose(1, 2).contiguous().view(torch.uint8)
    if base.bits == 8:
        return (codes ^ 128).view(torch.int8).view(blocks * ROWS, -1)
    pairs = codes.reshape(blocks, -1, STEP // 4, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    halves = torch.stack(((even & 15) | (odd << 4), (even >> 4) | (odd & 240)), -2)
    return halves.reshape(blocks * ROWS, -1)
