"""What the kernels of `experts.py` mean, in plain torch on the same tensors: the expected values of their cases in
fp64, and in fp32 what runs in a kernel's place on a GPU where that is found wrong.

Every function takes a launch's arguments by name and returns what it would write, by name; nothing is written and
nothing waits for the device. Knows matrices; must not know kernels.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import silu

from laguna_agent.backend.kernels.cuda.linear_torch import Given, matrix_of
from laguna_agent.backend.kernels.cuda.matrices import MatrixKind
from laguna_agent.backend.kernels.reference import dequantise, linear


def _of(given: Given, name: str, *shape: int) -> Tensor:
    """The first elements of a tensor, which may have more."""
    found = cast(Tensor, given[name])
    return found.reshape(-1)[: torch.Size(shape).numel()].view(shape)


def pick(
    given: Given, tokens: int, experts: int, per_token: int, *, normalize: bool, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """`experts.pick`. The choice is among scores in fp32, for there they may be equal."""
    logits, softcap = _of(given, "logits", tokens, experts).to(dtype), cast(float, given["softcap"])
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    scores = torch.sigmoid(logits)
    wanted = scores.float() + _of(given, "bias", experts)
    # A stable sort leaves equal ones in the order of experts, and takes what is no number for the largest.
    picked = torch.argsort(wanted, dim=-1, descending=True, stable=True)[:, :per_token]
    share = scores.gather(-1, picked)
    return {"picked": picked.int(), "share": share / share.sum(-1, keepdim=True) if normalize else share}


def expert_gate_up(
    given: Given, tokens: int, per_token: int, weights: MatrixKind, *, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """`experts.expert_gate_up`."""
    x = _of(given, "x", tokens, 1, weights.columns).expand(-1, per_token, -1)
    gate, up = _products(given, x.to(dtype), weights).chunk(2, dim=-1)
    return {"out": silu(gate) * up}


def expert_down(
    given: Given,
    tokens: int,
    per_token: int,
    weights: MatrixKind,
    shared: MatrixKind | None,
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """`experts.expert_down`."""
    act = _of(given, "act", tokens, per_token, weights.columns).to(dtype)
    share = _of(given, "share", tokens, per_token, 1).to(dtype)
    more = cast(float, given["scale"]) * (_products(given, act, weights) * share).sum(1)
    if shared is not None:
        more = more + linear(
            _of(given, "shared_act", tokens, shared.columns).to(dtype), matrix_of(given, "shared", shared)
        )
    return {"out": _of(given, "out", tokens, weights.rows).to(dtype) + more}


def _products(given: Given, x: Tensor, weights: MatrixKind) -> Tensor:
    """x [tokens, per_token, columns] with each its expert -> [tokens, per_token, rows]. One expert's values at a time:
    those of all that are picked would take gigabytes."""
    stack, picked = matrix_of(given, "weights", weights), _of(given, "picked", *x.shape[:2]).flatten().long()
    # A slice is looked up on the device, a number would be fetched from it.
    each = [
        row @ dequantise(stack[picked[at : at + 1]], x.dtype)[0].mT for at, row in enumerate(x.flatten(0, 1).unbind())
    ]
    return torch.stack(each).view(*x.shape[:2], -1)
