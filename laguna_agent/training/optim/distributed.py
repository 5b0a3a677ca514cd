"""Muon over several ranks that each hold shards: every matrix is made orthogonal once, by the rank that owns it.

Experts' matrices lie whole on their ranks and stay there. Of every other matrix each rank holds some rows: they travel
to its owner, and the owner's result travels back, in buckets of which one travels while another is computed. The naive
way, that every rank gathers every matrix and all compute the same, is in `benchmarks/redundant_muon.py`. The idea is
that of the Laguna report (arXiv:2605.27605, section 3.1.2) and of Dion's and torchtitan's optimizers. Knows shards and
processes; must not know models nor data.

The result is the single process's, bit for bit: momentum is elementwise, and a matrix's Newton-Schulz depends on the
matrix alone. With NCCL the exchanges run on its own stream; nobody has run that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from laguna_agent.errors import UsageError
from laguna_agent.training.optim.exchange import Exchange
from laguna_agent.training.optim.muon import Muon, Update
from laguna_agent.training.optim.owners import Bucket, Shape, plan, rows_held
from laguna_agent.training.optim.parameters import MatrixParameter

LEAST = 1 << 21
"""Elements that a bucket should hold: 8 MB of fp32, so that what is in flight stays small beside the model."""


class Stats(NamedTuple):
    """What this rank did in the last step: bytes that it sent to other ranks, buckets that travelled there and back,
    the parameters in them, and those of them that it owned."""

    bytes_sent: int = 0
    buckets: int = 0
    travelled: int = 0
    owned: int = 0


class DistributedMuon(Muon):
    """Muon for parameters that `sharding.shard` has cut up; whole ones are computed where they are.

    Options as for Muon; `least`: elements in a bucket. All ranks must have gradients for the same parameters. `group`:
    the ranks that share the parameters, by default those of the parameters' mesh. `stats` tells of the last step.
    """

    def __init__(
        self,
        parameters: Sequence[MatrixParameter],
        *,
        lr: float,
        group: dist.ProcessGroup | None = None,
        least: int = LEAST,
        **options: Any,
    ) -> None:
        super().__init__(parameters, lr=lr, **options)
        groups = [_group(at.name, at.parameter) for at in parameters if isinstance(at.parameter, DTensor)]
        self._group = group or (groups[0] if groups else None)
        if any(found != self._group for found in groups):
            raise UsageError("the matrices are cut up over different groups of ranks; shard the model over one mesh")
        self._least = least
        self._plans: dict[tuple[int, ...], list[Bucket]] = {}
        self.stats = Stats()

    def _orthogonalised(self, updates: Sequence[Update]) -> list[Tensor]:
        travelling = [update for update in updates if self._travels(update.parameter)]
        home = [update for update in updates if not self._travels(update.parameter)]
        if not travelling:
            self.stats = Stats()
            return self._at_home(home)
        assert self._group is not None
        exchanges = [Exchange(bucket, self._group) for bucket in self._buckets(travelling, home)]
        rows = [update.direction for update in travelling]
        outward = deque([exchanges[0].send(rows)])
        # Nobody waits for the experts: they fill the time of the first journey.
        stayed = iter(self._at_home(home))
        homeward = []
        for at, exchange in enumerate(exchanges):
            if at + 1 < len(exchanges):
                outward.append(exchanges[at + 1].send(rows))
            whole = exchange.arrived(outward.popleft())
            owned = [
                travelling[one.index]._replace(direction=matrix)
                for one, matrix in zip(exchange.owned, whole, strict=True)
            ]
            homeward.append(exchange.send_back(super()._orthogonalised(owned), rows[0]))
        for exchange, flight in zip(exchanges, homeward, strict=True):
            for owned, found in zip(exchange.members, exchange.returned(flight), strict=True):
                rows[owned.index] = found
        self.stats = Stats(
            sum(exchange.bytes_sent(rows[0].element_size()) for exchange in exchanges),
            len(exchanges),
            len(travelling),
            sum(len(exchange.owned) for exchange in exchanges),
        )
        travelled = iter(rows)
        return [next(travelled if self._travels(update.parameter) else stayed) for update in updates]

    def _at_home(self, updates: Sequence[Update]) -> list[Tensor]:
        """Of whole matrices, and of the experts that this rank holds, which may be none."""
        found = iter(super()._orthogonalised([update for update in updates if update.direction.numel()]))
        return [next(found) if update.direction.numel() else update.direction for update in updates]

    def _travels(self, parameter: nn.Parameter) -> bool:
        return isinstance(parameter, DTensor) and parameter.dim() == 2 and dist.get_world_size(self._group) > 1

    def _buckets(self, travelling: Sequence[Update], home: Sequence[Update]) -> list[Bucket]:
        """The plan for these parameters; made once, for the same ones have gradients in nearly every step."""
        key = tuple(id(update.parameter) for update in (*travelling, *home))
        if key not in self._plans:
            ranks = dist.get_world_size(self._group)
            shapes = [Shape(*update.parameter.shape, update.parts) for update in travelling]
            at_home = [0] * ranks
            for parameter, parts, _ in home:
                # What is whole on every rank costs all of them the same.
                if isinstance(parameter, DTensor):
                    experts, rows, columns = parameter.shape
                    for rank, count in enumerate(rows_held(experts, ranks)):
                        at_home[rank] += count * Shape(rows, columns, parts).work
            self._plans[key] = plan(shapes, at_home, self._least)
        return self._plans[key]


def _group(name: str, parameter: DTensor) -> dist.ProcessGroup:
    """The ranks that a parameter is cut up over along its first axis. Raises UsageError where it is cut otherwise."""
    cut = [axis for axis, placement in enumerate(parameter.placements) if not placement.is_replicate()]
    if len(cut) != 1 or parameter.placements[cut[0]] != Shard(0):
        raise UsageError(f"{name} is placed as {parameter.placements}, expected whole rows or experts on every rank")
    return parameter.device_mesh.get_group(cut[0])
