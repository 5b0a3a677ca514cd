"""Which implementation multiplies with a weight, by its format and device.

A kernel registers itself for the formats it reads and the devices it runs on; whatever nobody registered goes to
the reference, which reads everything everywhere and is the one that passes gradients on. The model calls these
functions and never names a kernel.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from laguna_agent.backend.kernels import reference
from laguna_agent.backend.kernels.formats import Format, PackedTensor, Plain, Weight


class Kernels(Protocol):
    """The products that an implementation offers; shapes as in `reference.py`."""

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """y = x W^T + b."""
        ...

    def expert_linear(self, x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
        """y[n] = x[n] W[experts[n]]^T."""
        ...

    def embedding(self, ids: Tensor, weight: Weight, dtype: torch.dtype) -> Tensor:
        """Rows of the weight."""
        ...


class _Reference:
    linear = staticmethod(reference.linear)
    expert_linear = staticmethod(reference.expert_linear)
    embedding = staticmethod(reference.embedding)


_REFERENCE: Kernels = _Reference()
_registered: dict[tuple[type[Format], str], Kernels] = {}


def register(format: type[Format], device: str, kernels: Kernels) -> None:
    """Let `kernels` serve weights of that kind of format on devices of that type ("cpu", "cuda")."""
    _registered[format, device] = kernels


def kernels_for(x: Tensor, weight: Weight) -> Kernels:
    """The implementation that multiplies `x` with `weight`; where gradients are asked for, the reference."""
    trained = x.requires_grad or (isinstance(weight, Tensor) and weight.requires_grad)
    if trained and torch.is_grad_enabled():
        return _REFERENCE
    format: type[Format] = type(weight.format) if isinstance(weight, PackedTensor) else Plain
    return _registered.get((format, weight.device.type), _REFERENCE)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: x [..., columns], weight [rows, columns], bias [rows] -> [..., rows] in x's dtype."""
    return kernels_for(x, weight).linear(x, weight, bias)


def expert_linear(x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
    """y[n] = x[n] W[experts[n]]^T: x [N, columns], weight [E, rows, columns], experts int [N] -> [N, rows]."""
    return kernels_for(x, weight).expert_linear(x, weight, experts)


def embedding(ids: Tensor, weight: Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of weight [rows, columns] for ids int [...] -> [..., columns] in `dtype`."""
    return kernels_for(ids, weight).embedding(ids, weight, dtype)
