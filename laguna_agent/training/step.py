"""The arithmetic of one step: which packs are whose, forward and backward over micro-batches, what all ranks agree on.

Knows model, loss and ranks; must not know files, schedules nor what follows from the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.errors import ConfigError
from laguna_agent.training.balance import ExpertBalance
from laguna_agent.training.batch import Pack, joined
from laguna_agent.training.loss import token_loss
from laguna_agent.training.sharding import Ranks, has_group


class Work(NamedTuple):
    """One rank's part of a step: `batches` are passed one at a time; `weight` and `tokens` are those of all ranks."""

    batches: list[Pack]
    weight: float
    tokens: int


class Agreed(NamedTuple):
    """What all ranks know of a step after its gradients are there: the whole loss, the norm of all gradients, and how
    many ranks were asked to stop by SIGINT and by SIGTERM."""

    loss: float
    norm: float
    interrupted: int
    terminated: int


def work_of(packs: Sequence[Pack], ranks: Ranks, micro_packs: int) -> Work:
    """This rank's part of a step's packs: packs rank, rank + size, ... in micro-batches, as many as on every rank.

    Raises ConfigError where the ranks cannot have equally many.
    """
    if len(packs) % ranks.size:
        raise ConfigError(
            f"a step of {len(packs)} packs cannot be shared by {ranks.size} processes; make run.packs_per_step a "
            "multiple of them, or start fewer with --nproc"
        )
    mine = packs[ranks.rank :: ranks.size]
    batches = [joined(mine[at : at + micro_packs]) for at in range(0, len(mine), micro_packs)]
    weight = math.fsum(float(pack.weights.double().sum()) for pack in packs)
    return Work(batches, weight, sum(len(pack.ids) for pack in packs))


def backward(model: CausalLM, work: Work, balance: ExpertBalance) -> Tensor:
    """Put the gradients of this rank's part into the parameters; returns its part of the step's loss, a scalar.

    With several ranks gradients are exchanged once, in the last micro-batch's backward pass.
    """
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    for at, batch in enumerate(work.batches):
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(at == len(work.batches) - 1)
        with balance.counting():
            loss = token_loss(model, batch, total_weight=work.weight)
        (loss + balance.auxiliary_loss(total_tokens=work.tokens)).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def agree(loss: Tensor, squares: Tensor, *, interrupted: bool, terminated: bool) -> Agreed:
    """Sum what each rank has of a step: its loss, its squared gradients, its signals. One exchange of four numbers, and
    every rank has the same bits."""
    known = torch.stack(
        (loss, squares.to(loss.device), *(loss.new_full((), flag) for flag in (interrupted, terminated)))
    )
    if has_group():
        dist.all_reduce(known)
    whole, square, *asked = known.tolist()
    return Agreed(whole, math.sqrt(square) if square >= 0 else square, int(asked[0]), int(asked[1]))


def held_out_part(packs: Sequence[Pack], ranks: Ranks) -> list[Pack]:
    """This rank's part of the held-out packs; where they do not divide, ranks take one more that counts nothing, for
    all must make equally many passes."""
    rounds = -(-len(packs) // ranks.size)
    mine = list(packs[ranks.rank :: ranks.size])
    return mine + [packs[0]._replace(weights=torch.zeros_like(packs[0].weights))] * (rounds - len(mine))
