"""Weights, plain or packed, and the three things done with them: a linear map, one expert of many, rows by index.

A packed format is any class with the methods of `PackedWeight`; the modules of the model call the functions here and
never ask which kind they hold. A plain weight is computed in the dtype of its input, so bf16 weights can stay bf16 in
memory while the model computes in fp32.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class PackedWeight(Protocol):
    """A quantised weight: logically [out, in], or [experts, out, in] for the stacked experts of one layer."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape."""
        ...

    def linear(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] in x's dtype; only for a weight of two dimensions."""
        ...

    def expert(self, index: int) -> PackedWeight:
        """The [out, in] weight of one expert; only for a weight of three dimensions."""
        ...

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """index int64 [...] -> those rows dequantised, [..., in] in `dtype`; only for two dimensions."""
        ...


Weight = Tensor | PackedWeight


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in] transposed, plus bias [out]: [..., out] in x's dtype."""
    if isinstance(weight, Tensor):
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    y = weight.linear(x)
    return y if bias is None else y + bias.to(y.dtype)


def expert_weight(stacked: Weight, index: int) -> Weight:
    """Expert `index` of a stacked weight [experts, out, in]: its [out, in] weight, without a copy."""
    return stacked[index] if isinstance(stacked, Tensor) else stacked.expert(index)


def embedding(ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
    """Rows `ids` (int64 [...]) of weight [rows, width]: [..., width] in `dtype`."""
    return F.embedding(ids, weight).to(dtype) if isinstance(weight, Tensor) else weight.rows(ids, dtype)


class WeightHolder(nn.Module):
    """A module whose named weights may be plain parameters or packed formats."""

    def put(self, name: str, weight: Weight) -> None:
        """Replace the weight `name` by one of the same logical shape. Raises ValueError where the shape differs."""
        old = getattr(self, name)
        if tuple(weight.shape) != tuple(old.shape):
            raise ValueError(f"{name} has shape {tuple(weight.shape)}, expected {tuple(old.shape)}")
        # A packed weight is no Parameter; torch refuses it under a name that is registered as one.
        delattr(self, name)
        if isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter):
            weight = nn.Parameter(weight, requires_grad=False)
        setattr(self, name, weight)


class Linear(WeightHolder):
    """y = x W^T + b. `weight` is [out, in], plain or packed; `bias` [out] or None."""

    weight: Weight
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], same dtype."""
        return linear(x, self.weight, self.bias)


class Embedding(WeightHolder):
    """A table of rows. `weight` is [rows, width], plain or packed."""

    weight: Weight

    def __init__(self, rows: int, width: int, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, dtype=dtype))

    def forward(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """ids int64 [...] -> [..., width] in `dtype`."""
        return embedding(ids, self.weight, dtype)
