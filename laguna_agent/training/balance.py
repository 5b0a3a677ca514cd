"""Keeping the experts busy alike: a bias on the router's choice, or a loss; and figures that tell how busy they are.

Loss-free balancing (https://arxiv.org/abs/2408.15664) moves each expert's selection bias against its load once per
step; it changes no gradient. The auxiliary loss (https://arxiv.org/abs/2501.11873) is taken over the global batch: load
is counted over all ranks and all micro-batches of a step so far. Both count real tokens only. Knows the routers and the
process group; must not know the trainer's steps or data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor

from laguna_agent.backend.laguna.layers import SparseMLP
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.errors import DatasetError, UsageError
from laguna_agent.training.sharding import has_group

Scope = Literal["global", "micro"]
FASTEST, SLOWEST = 2e-2, 1e-3
WALK = 0.2


def bias_rate_for(steps: int) -> float:
    """The bias's rate for a run of so many steps: `WALK` / sqrt(steps), between `SLOWEST` and `FASTEST`.

    Through the two points that are known: 1e-3 is the published rate, for runs of some 10^5 steps; at 105 steps it left
    MaxVio at 4.9 of 6.0, where 2e-2 brought it to 0.7. Steps follow a load that sways, to and fro, so what a bias
    covers in a run goes with the root of their number. From 40,000 steps on the rate is the published one.
    """
    return min(FASTEST, max(SLOWEST, WALK / math.sqrt(max(1, steps))))


class BalanceMetrics(msgspec.Struct, frozen=True):
    """How even the load of one step was, for each sparse layer; `layers` are their numbers in the model.

    `max_vio`: largest load / mean load - 1, 0 where all are alike; `dead`: experts that no token picked; `entropy`: of
    the load's distribution, as a part of the most possible, 1 where all are alike. Without tokens: 0, all, 0.
    """

    layers: tuple[int, ...]
    max_vio: tuple[float, ...]
    dead: tuple[int, ...]
    entropy: tuple[float, ...]

    @property
    def worst_max_vio(self) -> float:
        """The largest of any layer; 0 for a model without experts."""
        return max(self.max_vio, default=0.0)

    @property
    def worst_dead(self) -> int:
        """The most dead experts of any layer."""
        return max(self.dead, default=0)

    @property
    def worst_entropy(self) -> float:
        """The smallest of any layer; 1 for a model without experts."""
        return min(self.entropy, default=1.0)


class ExpertBalance:
    """Counts what the routers of a model pick, and acts on it.

    A step, on every rank alike:

        for each micro-batch:
            with balance.counting():            # around the forward pass alone
                loss = token_loss(...)
            (loss + balance.auxiliary_loss(total_tokens=...)).backward()
        balance.update_bias()

    What a router computes again in the backward pass (activation recomputation, `use_reentrant=False`) lies outside of
    `counting` and is not counted twice. `bias_rate` 0 leaves the biases alone; `aux_weight` 0 costs nothing; `scope`
    "micro" is the older loss, whose load is each micro-batch's own. Loads are whole numbers, so every rank gets the
    same bias, bit for bit. Of a model without experts everything is empty.
    """

    def __init__(self, model: CausalLM, *, bias_rate: float, aux_weight: float = 0.0, scope: Scope = "global") -> None:
        for name, value in (("bias_rate", bias_rate), ("aux_weight", aux_weight)):
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"the experts' balance: {name} is {value}, expected 0 or a positive number")
        self.bias_rate, self.aux_weight, self.scope = bias_rate, aux_weight, scope
        found = {index: layer.mlp for index, layer in enumerate(model.model.layers) if isinstance(layer.mlp, SparseMLP)}
        self.layers, self._sparse = tuple(found), tuple(found.values())
        self._experts, self._per_token = model.config.experts, model.config.experts_per_token
        self._device = model.device
        self._step, self._loads = self._zeros(), self._zeros()
        self._begin(None, counting=False)
        for row, mlp in enumerate(self._sparse):
            mlp.gate.observer = partial(self._observe, row)

    def close(self) -> None:
        """Take the observers off the model again."""
        for mlp in self._sparse:
            mlp.gate.observer = None

    @contextmanager
    def counting(self, real: Tensor | None = None) -> Iterator[None]:
        """Count one forward pass. `real` bool [tokens]: which of the pass's tokens are none of padding; None: all."""
        self._begin(real, counting=True)
        try:
            yield
        finally:
            self._counting = False
        self._step += self._micro

    def auxiliary_loss(self, *, total_tokens: float | None = None, group: dist.ProcessGroup | None = None) -> Tensor:
        """`aux_weight` * experts * sum over experts of f * P, over all layers, of the pass counted last; fp32 scalar.

        f: an expert's part of what was picked, in the step so far, over all ranks ("micro": in this pass); P: its mean
        score among the pass's tokens, each token's scores normalised to sum to 1. The loss is 1 * `aux_weight` a layer
        where the load is even. `total_tokens`: the real tokens of the whole step; P is then this pass's part of the
        step's mean, so that the passes' losses add up as `token_loss`es do. Every rank must call it for every pass.
        """
        if not self.aux_weight or not self._sparse:
            return torch.zeros((), device=self._device)
        if any(scores is None for scores in self._scores):
            raise RuntimeError("auxiliary_loss() follows a pass under counting()")
        load = self._micro if self.scope == "micro" else self._summed(self._step, group)
        frequency = load.double() / load.sum(-1, keepdim=True).clamp(min=1)
        sums = torch.stack([scores for scores in self._scores if scores is not None])
        tokens = self._micro.sum(-1, keepdim=True) / self._per_token if total_tokens is None else total_tokens
        means = sums / (tokens.clamp(min=1) if isinstance(tokens, Tensor) else max(1.0, tokens))
        return self.aux_weight * self._experts * (frequency.to(means.dtype) * means).sum()

    @torch.no_grad()
    def update_bias(self, group: dist.ProcessGroup | None = None) -> None:
        """End the step: sum what was counted over `group` (None: all ranks), and move each bias by `bias_rate` towards
        an even load. Every rank must call it. A step without tokens moves nothing."""
        self._loads, self._step = self._summed(self._step, group), self._zeros()
        self._begin(None, counting=False)
        mean = self._loads.double().mean(-1, keepdim=True)
        moves = torch.sign(mean - self._loads) * self.bias_rate
        for mlp, move in zip(self._sparse, moves, strict=True):
            bias = mlp.experts.e_score_correction_bias
            bias += move.to(bias.dtype)

    def metrics(self) -> BalanceMetrics:
        """The figures of the step that `update_bias` ended last."""
        loads = self._loads.double().cpu()
        total = loads.sum(-1, keepdim=True)
        part = loads / total.clamp(min=1)
        entropy = -(part * part.clamp(min=1e-300).log()).sum(-1) / math.log(max(2, self._experts))
        max_vio = (part.amax(-1) * self._experts - 1).clamp(min=0) if len(loads) else loads.sum(-1)
        dead = (loads == 0).sum(-1)
        return BalanceMetrics(
            self.layers, tuple(max_vio.tolist()), tuple(int(count) for count in dead), tuple(entropy.tolist())
        )

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run's figures need between two steps, as JSON can hold it; biases are the model's buffers."""
        return {"loads": self._loads.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises DatasetError where the state is of a model with other experts."""
        loads = torch.tensor(state["loads"], dtype=torch.int64).reshape(-1, max(1, self._experts))
        if loads.shape != self._loads.shape:
            raise DatasetError(
                f"the saved balance is of {len(loads)} layers, the model has {len(self._sparse)} with experts"
            )
        self._loads, self._step = loads.to(self._device), self._zeros()

    def _zeros(self) -> Tensor:
        return torch.zeros(len(self._sparse), max(1, self._experts), dtype=torch.int64, device=self._device)

    def _begin(self, real: Tensor | None, *, counting: bool) -> None:
        self._real, self._counting = None if real is None else real.to(self._device), counting
        self._micro = self._zeros()
        self._scores: list[Tensor | None] = [None] * len(self._sparse)

    def _observe(self, row: int, scores: Tensor, picked: Tensor) -> None:
        real = self._real
        if real is not None and len(real) != len(picked):
            if self._counting:
                raise ValueError(f"counting() was told of {len(real)} tokens, the pass has {len(picked)}")
            real = None
        if self._counting:
            self._micro[row] += self._picks(picked, real)
        # What is computed again must be the graph that was there, though nobody looks at it now.
        if self.aux_weight and (self._counting or scores.requires_grad):
            shares = scores / scores.sum(-1, keepdim=True)
            # Padding may hold anything; a product with 0 would keep what is no number.
            kept = (shares if real is None else shares.masked_fill(~real[:, None], 0)).sum(0)
            if self._counting:
                self._scores[row] = kept

    @torch.no_grad()
    def _picks(self, picked: Tensor, real: Tensor | None) -> Tensor:
        """int64 [experts]: how many real tokens picked each."""
        ones = torch.ones_like(picked) if real is None else real.to(torch.int64)[:, None].expand_as(picked)
        empty = picked.new_zeros(self._experts)
        return empty.scatter_add_(0, picked.flatten(), ones.flatten())

    def _summed(self, counts: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        counts = counts.clone()
        if len(counts) and has_group():
            dist.all_reduce(counts, group=group)
        return counts
