"""The journey of matrices' rows to the ranks that own the matrices, and of the results back.

Both ways are one asynchronous all-to-all for a whole bucket; what a rank sends to another lies behind one another in
the bucket's order. Knows tensors and processes; must not know what is done with the matrices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from laguna_agent.training.optim.owners import Bucket, Owned, rows_held


class Flight(NamedTuple):
    """Rows under way; `sent` is kept alive until they are there."""

    work: dist.Work
    sent: Tensor
    received: Tensor

    def landed(self) -> Tensor:
        """What was received, once it is there."""
        self.work.wait()
        return self.received


class Exchange:
    """One bucket's two journeys. Every rank makes its exchanges in the same order."""

    def __init__(self, bucket: Bucket, group: dist.ProcessGroup) -> None:
        self._group, self._rank, self._ranks = group, dist.get_rank(group), dist.get_world_size(group)
        # Sorted by owner, for what goes to one rank must lie together.
        self.members = sorted(bucket, key=lambda owned: owned.owner)
        self.owned = [owned for owned in self.members if owned.owner == self._rank]

    def _held(self, owned: Owned) -> list[int]:
        """Elements of it that each rank holds."""
        return [rows * owned.shape.columns for rows in rows_held(owned.shape.rows, self._ranks)]

    def _to_owners(self) -> list[int]:
        """Elements of this rank's rows by the rank that they go to."""
        counts = [0] * self._ranks
        for owned in self.members:
            counts[owned.owner] += self._held(owned)[self._rank]
        return counts

    def _to_owner(self) -> list[int]:
        """Elements of the matrices that this rank owns by the rank that they come from."""
        return [sum(self._held(owned)[rank] for owned in self.owned) for rank in range(self._ranks)]

    def bytes_sent(self, size: int) -> int:
        """Bytes that this rank sends to others, both ways together, with elements of `size` bytes."""
        both = [there + back for there, back in zip(self._to_owners(), self._to_owner(), strict=True)]
        return size * (sum(both) - both[self._rank])

    def send(self, rows: Sequence[Tensor]) -> Flight:
        """This rank's rows of every parameter (`Owned.index` into them) set out for the owners."""
        flat = torch.cat([rows[owned.index].reshape(-1) for owned in self.members])
        return self._set_out(flat, self._to_owners(), self._to_owner())

    def arrived(self, flight: Flight) -> list[Tensor]:
        """The whole matrices [rows, columns] that this rank owns, in the order of `owned`."""
        parts: list[list[Tensor]] = [[] for _ in self.owned]
        for rank, sender in enumerate(flight.landed().split(self._to_owner())):
            for at, rows in enumerate(sender.split([self._held(owned)[rank] for owned in self.owned])):
                parts[at].append(rows)
        return [
            torch.cat(rows).view(owned.shape.rows, owned.shape.columns)
            for owned, rows in zip(self.owned, parts, strict=True)
        ]

    def send_back(self, results: Sequence[Tensor], like: Tensor) -> Flight:
        """The results for `owned` set out for where the rows came from; `like` has their type and device."""
        cut = [result.reshape(-1).split(self._held(owned)) for owned, result in zip(self.owned, results, strict=True)]
        rows = [pieces[rank] for rank in range(self._ranks) for pieces in cut]
        flat = torch.cat(rows) if rows else like.new_empty(0)
        return self._set_out(flat, self._to_owner(), self._to_owners())

    def returned(self, flight: Flight) -> list[Tensor]:
        """This rank's rows of the results, in the order of `members`."""
        rows = flight.landed().split([self._held(owned)[self._rank] for owned in self.members])
        return [found.view(-1, owned.shape.columns) for owned, found in zip(self.members, rows, strict=True)]

    def _set_out(self, flat: Tensor, out: list[int], into: list[int]) -> Flight:
        received = flat.new_empty(sum(into))
        journey = dist.all_to_all_single(received, flat, into, out, group=self._group, async_op=True)
        assert journey is not None
        return Flight(journey, flat, received)
