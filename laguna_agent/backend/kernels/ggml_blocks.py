"""ggml's block formats, decoded value by value: what the bytes of a GGUF tensor mean.

Each function takes `blocks`, uint8 [n, bytes of a block], and gives fp32 [n, values of a block], rounded exactly as
ggml's own reference does (scale products first, then the codes, then the offset). Knows bytes and floats only.
The layouts are those of ggml's `ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import GGML_BLOCKS


def half(blocks: Tensor, start: int) -> Tensor:
    """The fp16 number at that byte of each block, as fp32 [n, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def nibbles(packed: Tensor) -> Tensor:
    """uint8 [n, k] -> [n, 2k]: all the low nibbles of a block, then all the high ones."""
    return torch.cat((packed & 15, packed >> 4), 1)


def fifth_bits(blocks: Tensor) -> Tensor:
    """Q5_0's bit field: 4 bytes -> uint8 [n, 32], bit j of the little-endian word belongs to value j."""
    shifts = torch.arange(8, dtype=torch.uint8)
    return ((blocks.unsqueeze(-1) >> shifts) & 1).flatten(1)


def k_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The 12 bytes of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minimums, each uint8 [n, 8]."""
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = torch.cat((low & 63, (high & 15) | ((low >> 6) << 4)), 1)
    minimums = torch.cat((middle & 63, (high >> 4) | ((middle >> 6) << 4)), 1)
    return scales, minimums


def k_nibbles(packed: Tensor) -> Tensor:
    """128 bytes -> uint8 [n, 8, 32]: each 32 bytes hold one group of 32 in the low nibbles, the next in the high."""
    quarters = packed.view(-1, 4, 32)
    return torch.stack((quarters & 15, quarters >> 4), 2).view(-1, 8, 32)


def _q4_0(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * (nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * nibbles(blocks[:, 4:]).float() + half(blocks, 2)


def q5_0_codes(blocks: Tensor) -> Tensor:
    """Signed codes of Q5_0, int8 [n, 32], -16..15."""
    return (nibbles(blocks[:, 6:]) | (fifth_bits(blocks[:, 2:6]) << 4)).to(torch.int8) - 16


def _q5_0(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * q5_0_codes(blocks).float()


def q8_0_codes(blocks: Tensor) -> Tensor:
    """Signed codes of Q8_0, int8 [n, 32]."""
    return blocks[:, 2:].contiguous().view(torch.int8)


def _q8_0(blocks: Tensor) -> Tensor:
    return half(blocks, 0) * q8_0_codes(blocks).float()


def k_factors(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and offset of each group of 32 of Q4_K or Q5_K, fp32 [n, 8]: value = scale * code - offset."""
    scales, minimums = k_scales(blocks[:, 4:16])
    return half(blocks, 0) * scales.float(), half(blocks, 2) * minimums.float()


def _q4_k(blocks: Tensor) -> Tensor:
    scales, offsets = k_factors(blocks)
    return (scales.unsqueeze(-1) * k_nibbles(blocks[:, 16:]).float() - offsets.unsqueeze(-1)).flatten(1)


def _q5_k(blocks: Tensor) -> Tensor:
    scales, offsets = k_factors(blocks)
    # Bit g of byte j is the fifth bit of value j of group g.
    groups = torch.arange(8, dtype=torch.uint8).view(1, 8, 1)
    fifth = (blocks[:, 16:48].unsqueeze(1) >> groups) & 1
    codes = k_nibbles(blocks[:, 48:]) | (fifth << 4)
    return (scales.unsqueeze(-1) * codes.float() - offsets.unsqueeze(-1)).flatten(1)


def _q6_k(blocks: Tensor) -> Tensor:
    halves = blocks[:, :128].view(-1, 2, 64)
    low = torch.cat((halves & 15, halves >> 4), 2).view(-1, 2, 4, 32)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8).view(1, 1, 4, 1)
    high = (blocks[:, 128:192].view(-1, 2, 1, 32) >> shifts) & 3
    codes = (low | (high << 4)).to(torch.int8) - 32
    scales = half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8).float()
    return (scales.unsqueeze(-1) * codes.reshape(-1, 16, 16).float()).flatten(1)


_DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


def as_blocks(kind: str, stored: Tensor) -> Tensor:
    """uint8 [..., bytes of a row] -> uint8 [n, bytes of a block]."""
    return stored.reshape(-1, GGML_BLOCKS[kind][1])


def decode(kind: str, stored: Tensor) -> Tensor:
    """uint8 [..., bytes of a row] -> fp32 [..., values of a row]."""
    values = _DECODERS[kind](as_blocks(kind, stored))
    return values.reshape(*stored.shape[:-1], -1)
