"""What is learned: to predict each token's target; and how well that is done on texts that were held out.

Logits are made a few hundred tokens at a time, their gradients at once, and then forgotten: [tokens, vocabulary] never
exists. Knows the model and packs; must not know optimizers, steps or where packs come from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from laguna_agent.backend.kernels.formats import Weight
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.training.batch import Pack
from laguna_agent.training.sharding import has_group

LOGITS_AT_ONCE = 1 << 20
"""Logits that exist at a time on a CPU: 4 MiB in fp32 stay in its cache."""
LOGITS_AT_ONCE_ELSEWHERE = 1 << 27


def token_loss(model: CausalLM, pack: Pack, *, total_weight: float) -> Tensor:
    """The sum of weight * -log p(target) over the pack's tokens, divided by `total_weight`: a scalar, fp32 or wider.

    `total_weight` is that of a whole step, so that the losses of its micro-batches and ranks, and their gradients, add
    up to those of the step. Log-probabilities are computed in fp32. Tokens of weight 0 are left out altogether: their
    targets may be anything. A pack of no weight gives 0, with gradients of 0.
    """
    if not total_weight > 0:
        raise ValueError(f"total_weight is {total_weight}, expected a positive number")

    def reader(h: Tensor, head: Weight) -> Tensor:
        assert isinstance(head, Tensor), "packed weights do not learn"
        h, targets, weights = _counted(h, pack)
        total: Tensor = _HeadLoss.apply(h, head, targets, weights)  # type: ignore[no-untyped-call]
        return total / total_weight

    return model(pack.pieces(), reader=reader)  # type: ignore[no-any-return]


class HeldOut(msgspec.Struct, frozen=True):
    """How well tokens were predicted: the mean of -log p over `weight`, and the part of it that was most likely."""

    loss: float
    accuracy: float
    weight: float

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is no number."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def held_out(model: CausalLM, packs: Iterable[Pack]) -> HeldOut:
    """Loss and accuracy over the packs, by their weights; over no weight both are NaN.

    With several ranks each gives as many packs as the others, its own or the same, and all get the whole's figures.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=model.device)
    for pack in packs:
        sums += model(pack.pieces(), reader=lambda h, head, pack=pack: _figures(h, head, pack))
    if has_group():
        dist.all_reduce(sums)
    loss, right, weight = sums.tolist()
    return HeldOut(loss / weight if weight else math.nan, right / weight if weight else math.nan, weight)


def _counted(h: Tensor, pack: Pack) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of h that have weight, with targets and weights. A weight that is no number stays, and shows."""
    weights, targets = pack.weights.to(h.device), pack.targets.to(h.device)
    kept = (weights != 0).nonzero()[:, 0]
    if len(kept) == len(h):
        return h, targets, weights
    return h.index_select(0, kept), targets[kept], weights[kept]


def _figures(h: Tensor, head: Weight, pack: Pack) -> Tensor:
    """fp64 [3]: the sums of weighted loss, weight of right guesses, and weight."""
    assert isinstance(head, Tensor), "packed weights do not learn"
    h, targets, weights = _counted(h, pack)
    sums = torch.zeros(3, dtype=torch.float64, device=h.device)
    for rows in _chunks(len(h), len(head), h.device):
        logits = _wide(F.linear(h[rows], head.to(h.dtype)))
        right = logits.argmax(-1) == targets[rows]
        losses = F.cross_entropy(logits, targets[rows], reduction="none")
        weight = weights[rows].double()
        sums += torch.stack(((losses * weight).sum(), (right * weight).sum(), weight.sum()))
    return sums


class _HeadLoss(torch.autograd.Function):
    """The weighted sum of -log softmax(h W^T)[target]. A sum's gradient is known while its logits are at hand, up to
    the factor that comes from behind: so they are made once, not kept and not made again."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        cast = head.to(h.dtype)
        d_h = torch.empty_like(h) if wanted else None
        # Summed over chunks in fp32 where the products are narrower.
        d_head = torch.zeros_like(head) if wanted else None
        total = torch.zeros((), dtype=_wide(h[:0]).dtype, device=h.device)
        for rows in _chunks(len(h), len(head), h.device):
            logs = F.log_softmax(_wide(h[rows] @ cast.T), dim=-1)
            weight, target = weights[rows, None].to(logs.dtype), targets[rows, None]
            total -= (logs.gather(-1, target) * weight).sum()
            if d_h is None or d_head is None:
                continue
            d_logits = logs.exp_().mul_(weight).scatter_add_(-1, target, -weight).to(h.dtype)
            torch.mm(d_logits, cast, out=d_h[rows])
            if d_head.dtype == h.dtype:
                d_head.addmm_(d_logits.T, h[rows])
            else:
                d_head += d_logits.T @ h[rows]
        ctx.save_for_backward(d_h, d_head)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_h, d_head = ctx.saved_tensors
        return d_h * gradient.to(d_h.dtype), d_head * gradient.to(d_head.dtype), None, None


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _chunks(tokens: int, vocabulary: int, device: torch.device) -> list[slice]:
    at_once = LOGITS_AT_ONCE if device.type == "cpu" else LOGITS_AT_ONCE_ELSEWHERE
    size = max(16, at_once // vocabulary)
    return [slice(at, min(at + size, tokens)) for at in range(0, tokens, size)]
