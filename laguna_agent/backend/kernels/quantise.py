"""Making group-integer weights: from floats by rounding, from another quantised format by moving its codes.

Formats whose values already lie on a grid of 4 or 8 bits are carried over code by code (`carried`), because rounding
such values a second time would lose what the first rounding kept. Knows formats and numbers; which tensor gets which
format is the caller's decision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import Ggml, GroupInt, PackedTensor
from laguna_agent.backend.kernels.ggml_blocks import (
    as_blocks,
    half,
    k_factors,
    k_nibbles,
    nibbles,
    q5_0_codes,
    q8_0_codes,
)

# How far the largest value of a group may be clipped: each step is tried, the smallest squared error wins.
CLIPS = (1.0, 0.93, 0.86)
_AT_ONCE = 1 << 18
"""Values rounded together: what the search reads again and again stays in a core's cache."""


def quantise(values: Tensor, format: GroupInt) -> PackedTensor:
    """fp32 [..., columns] -> the nearest codes found, same shape. Values that are not finite give such scales.

    The scale is rounded to `scale_type` before the codes are chosen. Columns past the last whole group are a short one.
    """
    columns = values.shape[-1]
    short = -columns % format.group
    padded = torch.nn.functional.pad(values, (0, short)) if short else values
    groups = padded.reshape(-1, format.group)
    step = max(1, _AT_ONCE // format.group)
    found = [_round_groups(groups[start : start + step], format) for start in range(0, len(groups), step)]
    lead = values.shape[:-1]
    codes = torch.cat([codes for codes, _, _ in found]).reshape(*lead, -1)[..., :columns]
    parts = {"codes": codes.contiguous() if format.bits == 8 else pack_nibbles(codes)}
    parts["scales"] = torch.cat([scales for _, scales, _ in found]).reshape(*lead, -1)
    if format.minimums:
        parts["minimums"] = torch.cat([minimums for _, _, minimums in found]).reshape(*lead, -1)
    return PackedTensor(format, tuple(values.shape), parts)


def _round_groups(groups: Tensor, format: GroupInt) -> tuple[Tensor, Tensor, Tensor]:
    """[n, group] -> codes [n, group], scales [n, 1], minimums [n, 1] of the least squared error among `CLIPS`."""
    least, most = groups.amin(1, True), groups.amax(1, True)
    scales, minimums = _grid(least, most, format, 1.0)
    if format.bits == 4:
        errors = _error(groups, scales, minimums, format)
        for clip in CLIPS[1:]:
            other = _grid(least, most, format, clip)
            error = _error(groups, *other, format)
            better = error < errors
            errors = torch.where(better, error, errors)
            scales, minimums = torch.where(better, other[0], scales), torch.where(better, other[1], minimums)
    codes = _codes(groups, scales, minimums, format)
    if format.bits == 4 and not format.minimums:
        codes += 8
    return codes.to(torch.int8 if format.bits == 8 else torch.uint8), scales, minimums


def _grid(least: Tensor, most: Tensor, format: GroupInt, clip: float) -> tuple[Tensor, Tensor]:
    """Scales and minimums, [n, 1], of groups that reach from `least` to `most`."""
    if format.minimums:
        lowest, highest = _codes_of(format)
        wide = (most - least) * (clip / (highest - lowest))
        offset = least + (most - least) * ((1 - clip) / 2) - wide * lowest
        return wide.to(format.scale_type), offset.to(format.scale_type)
    # Codes of 4 bits reach one step further below zero than above it: the value of largest size gets that step.
    largest = torch.where(-least >= most, least, most)
    wide = largest * (-clip / 8) if format.bits == 4 else largest.abs() / 127
    return wide.to(format.scale_type), torch.zeros_like(wide, dtype=format.scale_type)


def _codes_of(format: GroupInt) -> tuple[int, int]:
    if format.bits == 8:
        return -127, 127
    return (0, 15) if format.minimums else (-8, 7)


def _codes(groups: Tensor, scales: Tensor, minimums: Tensor, format: GroupInt) -> Tensor:
    step = scales.float()
    # A group of equal values has no step: its codes are zero and the minimum says it all.
    inverse = torch.where(step == 0, torch.zeros(()), 1 / step)
    scaled = (groups - minimums.float()) * inverse if format.minimums else groups * inverse
    return scaled.round_().clamp_(*_codes_of(format))


def _error(groups: Tensor, scales: Tensor, minimums: Tensor, format: GroupInt) -> Tensor:
    """Squared error of each group, [n, 1]."""
    codes = _codes(groups, scales, minimums, format)
    missed = torch.addcmul(groups, codes, scales.float(), value=-1)
    if format.minimums:
        missed -= minimums.float()
    # A product with ones sums short rows several times faster than a sum over them.
    return missed.square_() @ torch.ones(format.group, 1)


def pack_nibbles(codes: Tensor) -> Tensor:
    """uint8 [..., columns] of 0..15 -> uint8 [..., ceil(columns/2)], low nibble = even column."""
    even, odd = codes[..., 0::2], codes[..., 1::2]
    packed = even.clone()
    packed[..., : odd.shape[-1]] |= odd << 4
    return packed


def carried_format(stored: object) -> GroupInt | None:
    """The group-integer format that takes over `stored`'s own codes; None where there is none.

    Exact, but for Q4_K: its scale and offset are products, which are rounded to fp16 (2^-11 of a scale).
    """
    if isinstance(stored, GroupInt):
        return stored
    if isinstance(stored, Ggml):
        return _CARRIED.get(stored.kind)
    return None


_CARRIED = {
    "Q4_0": GroupInt(4, 32, torch.float16),
    "Q4_1": GroupInt(4, 32, torch.float16, minimums=True),
    "Q4_K": GroupInt(4, 32, torch.float16, minimums=True),
    "Q5_0": GroupInt(8, 32, torch.float16),
    "Q8_0": GroupInt(8, 32, torch.float16),
}


def carried(packed: PackedTensor) -> PackedTensor:
    """`packed` in its `carried_format`, which must exist; same shape."""
    if isinstance(packed.format, GroupInt):
        return packed
    assert isinstance(packed.format, Ggml)
    kind, lead = packed.format.kind, packed.shape[:-1]
    blocks = as_blocks(kind, packed.parts["blocks"])
    minimums = None
    match kind:
        case "Q4_0":
            codes, scales = nibbles(blocks[:, 2:]), half(blocks, 0)
        case "Q4_1":
            codes, scales, minimums = nibbles(blocks[:, 4:]), half(blocks, 0), half(blocks, 2)
        case "Q4_K":
            scales, offsets = k_factors(blocks)
            codes, minimums = k_nibbles(blocks[:, 16:]), -offsets
        case "Q5_0":
            codes, scales = q5_0_codes(blocks), half(blocks, 0)
        case _:
            codes, scales = q8_0_codes(blocks), half(blocks, 0)
    format = _CARRIED[kind]
    codes = codes.reshape(*lead, -1)
    parts = {"codes": codes if format.bits == 8 else pack_nibbles(codes)}
    parts["scales"] = scales.reshape(*lead, -1).to(format.scale_type)
    if minimums is not None:
        parts["minimums"] = minimums.reshape(*lead, -1).to(format.scale_type)
    return PackedTensor(format, packed.shape, parts)
