"""Rotary position embedding: half-split pairing, partial rotation, default and yarn frequencies (section 3).

Tables are always computed in fp32 and only then cast to the compute dtype. Knows positions; must not know layers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laguna_agent.backend.laguna.config import RopeConfig

Rotation = tuple[Tensor, Tensor]
"""cos and sin, each [tokens, rotary_dim / 2] in the compute dtype, the attention factor included."""


def inverse_frequencies(rope: RopeConfig) -> Tensor:
    """fp32 [rotary_dim / 2]: the angle per position of each rotated pair."""
    dim = rope.rotary_dim
    # The device is named because a model is built under torch.device("meta") when its weights are mapped in later.
    plain = 1.0 / (rope.theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim))
    if rope.kind == "default":
        return plain
    low, high = _correction_range(rope)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
    return plain / rope.factor * ramp + plain * (1 - ramp)


def _correction_range(rope: RopeConfig) -> tuple[float, float]:
    """The pair indices between which yarn goes over from the plain frequencies to the stretched ones."""

    def pair(rotations: float) -> float:
        turns = rope.original_length / (rotations * 2 * math.pi)
        return rope.rotary_dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    return low, high + 0.001 if low == high else high


def rotation(frequencies: Tensor, factor: float, positions: Tensor, dtype: torch.dtype) -> Rotation:
    """cos and sin for `positions` (int64 [tokens]), each times `factor`, in `dtype`."""
    angles = positions[:, None].float() * frequencies.to(positions.device)
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


class RotationTable:
    """cos and sin of positions from 0 on, as far as they were ever needed: two fp32 [positions, rotary / 2]. `most`:
    how many positions the model has."""

    def __init__(self, rope: RopeConfig, most: int) -> None:
        self._frequencies, self._factor, self._most = inverse_frequencies(rope), rope.attention_factor, most
        self._tables = self._computed(0)

    def rows(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Those of `count` positions from `first` on; they must not be changed."""
        if first + count > len(self._tables[0]):
            self._tables = self._computed(max(first + count, min(2 * (first + count), self._most)))
        cos, sin = self._tables
        return cos[first : first + count], sin[first : first + count]

    def _computed(self, positions: int) -> tuple[Tensor, Tensor]:
        return rotation(self._frequencies, self._factor, torch.arange(positions), torch.float32)


def rotate(x: Tensor, turn: Rotation) -> Tensor:
    """Rotate the first rotary_dim values of every head: x [tokens, heads, head_dim] -> same shape and dtype."""
    cos, sin = turn[0][:, None, :], turn[1][:, None, :]
    half = cos.shape[-1]
    a, b, rest = torch.split(x, [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)
