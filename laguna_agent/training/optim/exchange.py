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
    """One bucket's two journeys, as often as wanted. Every rank makes its exchanges in the same order."""

    def __init__(self, bucket: Bucket, group: dist.ProcessGroup) -> None:
        self._group, rank, ranks = group, dist.get_rank(group), dist.get_world_size(group)
        # Sorted by owner, for what goes to one rank must lie together.
        self.members = sorted(bucket, key=lambda owned: owned.owner)
        self.owned = [owned for owned in self.members if owned.owner == rank]
        # In numbers, not rows: of each matrix here what every rank holds, and of every member what this rank holds.
        self._of_owned = [_numbers(owned, ranks) for owned in self.owned]
        self._here = [_numbers(owned, ranks)[rank] for owned in self.members]
        self._to_owners = [0] * ranks
        for owned, held in zip(self.members, self._here, strict=True):
            self._to_owners[owned.owner] += held
        self._from_others = [sum(held[other] for held in self._of_owned) for other in range(ranks)]
        self._abroad = (
            sum(self._to_owners) - self._to_owners[rank],
            sum(self._from_others) - self._from_others[rank],
        )

    def bytes_sent(self, out: int, back: int) -> int:
        """Bytes that this rank sends to others, with `out` bytes for a number on the way to its owner, `back` home."""
        return out * self._abroad[0] + back * self._abroad[1]

    def send(self, rows: Sequence[Tensor]) -> Flight:
        """This rank's rows of every parameter (`Owned.place` into them) set out for the owners."""
        flat = torch.cat([rows[owned.place].reshape(-1) for owned in self.members])
        return self._set_out(flat, self._to_owners, self._from_others)

    def arrived(self, flight: Flight) -> list[Tensor]:
        """The whole matrices [rows, columns] that this rank owns, in the order of `owned`."""
        parts: list[list[Tensor]] = [[] for _ in self.owned]
        for rank, sender in enumerate(torch.split(flight.landed(), self._from_others)):
            for at, rows in enumerate(torch.split(sender, [held[rank] for held in self._of_owned])):
                parts[at].append(rows)
        return [
            torch.cat(rows).view(owned.shape.rows, owned.shape.columns)
            for owned, rows in zip(self.owned, parts, strict=True)
        ]

    def send_back(self, results: Sequence[Tensor], like: Tensor) -> Flight:
        """The results for `owned` set out for where the rows came from; `like` has their type and device."""
        cut = [torch.split(result.reshape(-1), held) for held, result in zip(self._of_owned, results, strict=True)]
        rows = [pieces[rank] for rank in range(len(self._from_others)) for pieces in cut]
        flat = torch.cat(rows) if rows else like.new_empty(0)
        return self._set_out(flat, self._from_others, self._to_owners)

    def returned(self, flight: Flight) -> list[Tensor]:
        """This rank's rows of the results, in the order of `members`."""
        rows = torch.split(flight.landed(), self._here)
        return [found.view(-1, owned.shape.columns) for owned, found in zip(self.members, rows, strict=True)]

    def _set_out(self, flat: Tensor, out: list[int], into: list[int]) -> Flight:
        received = flat.new_empty(sum(into))
        journey = dist.all_to_all_single(received, flat, into, out, group=self._group, async_op=True)
        assert journey is not None
        return Flight(journey, flat, received)


def _numbers(owned: Owned, ranks: int) -> list[int]:
    return [rows * owned.shape.columns for rows in rows_held(owned.shape.rows, ranks)]
