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
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from laguna_agent.errors import UsageError
from laguna_agent.training.optim.exchange import Exchange
from laguna_agent.training.optim.muon import Muon, Update
from laguna_agent.training.optim.newton_schulz import default_dtype
from laguna_agent.training.optim.owners import Shape, plan, rows_held
from laguna_agent.training.optim.parameters import MatrixParameter

LEAST = 1 << 19
"""Elements that a bucket should hold: 2 MB of fp32, of which small models have several. On two gloo ranks that exchange
3 million, anything from 1 to all of them took the same time; large models are cut finer by the number of ranks."""


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
        self._plans: dict[tuple[int, ...], list[Exchange]] = {}
        self.stats = Stats()

    def _orthogonalised(self, updates: Sequence[Update]) -> list[Tensor]:
        local = [_local(update) for update in updates]
        travelling = [update for update in local if self._travels(update.parameter)]
        home = [update for update in local if not self._travels(update.parameter)]
        if travelling:
            travelled, stayed = self._exchanged(travelling, home)
        else:
            self.stats = Stats()
            travelled, stayed = [], super()._orthogonalised(home)
        there, here = iter(travelled), iter(stayed)
        return [
            _placed(update.parameter, next(there if self._travels(update.parameter) else here)) for update in updates
        ]

    def _exchanged(self, travelling: Sequence[Update], home: Sequence[Update]) -> tuple[list[Tensor], list[Tensor]]:
        """This rank's rows of what travelled, orthogonal, and what stayed, in these orders."""
        exchanges = self._exchanges(travelling, home)
        rows = [update.direction for update in travelling]
        outward = deque([exchanges[0].send(rows)])
        # Nobody waits for the experts: they fill the time of the first journey.
        stayed = super()._orthogonalised(home)
        homeward = []
        # What was computed in fewer bits travels home in them.
        exact = rows[0].dtype
        narrow = min(exact, self.dtype or default_dtype(rows[0].device), key=lambda dtype: dtype.itemsize)
        for at, exchange in enumerate(exchanges):
            if at + 1 < len(exchanges):
                outward.append(exchanges[at + 1].send(rows))
            whole = exchange.arrived(outward.popleft())
            owned = [
                travelling[one.place]._replace(direction=matrix)
                for one, matrix in zip(exchange.owned, whole, strict=True)
            ]
            made = [result.to(narrow) for result in super()._orthogonalised(owned)]
            homeward.append(exchange.send_back(made, rows[0].new_empty(0, dtype=narrow)))
        for exchange, flight in zip(exchanges, homeward, strict=True):
            for one, found in zip(exchange.members, exchange.returned(flight), strict=True):
                rows[one.place] = found.to(exact)
        self.stats = Stats(
            sum(exchange.bytes_sent(exact.itemsize, narrow.itemsize) for exchange in exchanges),
            len(exchanges),
            len(travelling),
            sum(len(exchange.owned) for exchange in exchanges),
        )
        return rows, stayed

    def _travels(self, parameter: Tensor) -> bool:
        return isinstance(parameter, DTensor) and parameter.dim() == 2 and dist.get_world_size(self._group) > 1

    def _exchanges(self, travelling: Sequence[Update], home: Sequence[Update]) -> list[Exchange]:
        """The plan for these parameters; made once, for the same ones have gradients in nearly every step."""
        key = tuple(id(update.parameter) for update in (*travelling, *home))
        if key not in self._plans:
            assert self._group is not None
            ranks = dist.get_world_size(self._group)
            shapes = [
                Shape(update.parameter.shape[0], update.parameter.shape[1], update.parts) for update in travelling
            ]
            at_home = [0] * ranks
            for parameter, parts, _ in home:
                # What is whole on every rank costs all of them the same.
                if isinstance(parameter, DTensor):
                    experts, rows, columns = parameter.shape
                    for rank, count in enumerate(rows_held(experts, ranks)):
                        at_home[rank] += count * Shape(rows, columns, parts).work
            self._plans[key] = [Exchange(bucket, self._group) for bucket in plan(shapes, at_home, self._least)]
        return self._plans[key]


def _group(name: str, parameter: DTensor) -> dist.ProcessGroup:
    """The ranks that a parameter is cut up over along its first axis. Raises UsageError where it is cut otherwise."""
    cut = [axis for axis, placement in enumerate(parameter.placements) if not placement.is_replicate()]
    if len(cut) != 1 or parameter.placements[cut[0]] != Shard(0):
        raise UsageError(f"{name} is placed as {parameter.placements}, expected whole rows or experts on every rank")
    return parameter.device_mesh.get_group(cut[0])


def _local(update: Update) -> Update:
    direction = update.direction
    return update._replace(direction=direction.to_local()) if isinstance(direction, DTensor) else update


def _placed(parameter: Tensor, local: Tensor) -> Tensor:
    """This rank's part of a result as the parameter's is: a DTensor of the same placement, or itself."""
    if not isinstance(parameter, DTensor):
        return local
    mesh, shape, stride = parameter.device_mesh, parameter.shape, parameter.stride()
    return DTensor.from_local(local, mesh, parameter.placements, shape=shape, stride=stride, run_check=False)
