"""Which implementation multiplies with a weight, by its format and device.

A kernel registers itself for the formats it reads and the devices it runs on; whatever nobody registered goes to
the reference, which reads everything everywhere and passes gradients on. Plain experts that are learned from have
their own (`training.py`). The model calls these functions and never names a kernel.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from laguna_agent.backend.kernels import reference, training
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


class Experts(Protocol):
    """All of the picked experts' work in one call; shapes as in `reference.experts`."""

    def __call__(self, x: Tensor, gate_up: Weight, down: Weight, picked: Tensor, share: Tensor) -> Tensor: ...


class _Reference:
    linear = staticmethod(reference.linear)
    expert_linear = staticmethod(reference.expert_linear)
    embedding = staticmethod(reference.embedding)


_REFERENCE: Kernels = _Reference()
_registered: dict[tuple[type[Format], str], Kernels] = {}
_fused: dict[tuple[type[Format], str], Experts] = {}
APART = "apart"
"""The device for which those register who multiply where x lies elsewhere than the weight."""


def register(format: type[Format], device: str, kernels: Kernels) -> None:
    """Let `kernels` serve weights of that kind of format on devices of that type ("cpu", "cuda")."""
    _registered[format, device] = kernels


def register_experts(format: type[Format], device: str, experts: Experts) -> None:
    """Let `experts` serve stacks whose gates are of that kind of format; down may be of any that has a kernel."""
    _fused[format, device] = experts


def kernels_for(x: Tensor, weight: Weight) -> Kernels:
    """The implementation that multiplies `x` with `weight`; where gradients are asked for, the reference."""
    return _REFERENCE if _trained(x, weight) else _registered.get(_key(x, weight), _REFERENCE)


def _trained(x: Tensor, *weights: Weight) -> bool:
    given = (x, *(weight for weight in weights if isinstance(weight, Tensor)))
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)


def _key(x: Tensor, weight: Weight) -> tuple[type[Format], str]:
    here = weight.device.type
    format: type[Format] = type(weight.format) if isinstance(weight, PackedTensor) else Plain
    return format, here if here == x.device.type else APART


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b: x [..., columns], weight [rows, columns], bias [rows] -> [..., rows] in x's dtype."""
    return kernels_for(x, weight).linear(x, weight, bias)


def expert_linear(x: Tensor, weight: Weight, experts: Tensor) -> Tensor:
    """y[n] = x[n] W[experts[n]]^T: x [N, columns], weight [E, rows, columns], experts int [N] -> [N, rows]."""
    return kernels_for(x, weight).expert_linear(x, weight, experts)


def experts(x: Tensor, gate_up: Weight, down: Weight, picked: Tensor, share: Tensor) -> Tensor:
    """Sum over each token's picked experts of share * down(silu(gate x) * up x): shapes as in `reference.experts`.

    Where nobody offers all of it in one, two products of `expert_linear`.
    """
    trained = _trained(x, gate_up, down)
    if trained and isinstance(gate_up, Tensor) and isinstance(down, Tensor):
        return training.experts(x, gate_up, down, picked, share)
    fused = None if trained else _fused.get(_key(x, gate_up))
    if fused is not None:
        return fused(x, gate_up, down, picked, share)
    return reference.experts(x, gate_up, down, picked, share, expert_linear)


def embedding(ids: Tensor, weight: Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of weight [rows, columns] for ids int [...] -> [..., columns] in `dtype`."""
    return kernels_for(ids, weight).embedding(ids, weight, dtype)
