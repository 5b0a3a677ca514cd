"""What the trainer learns from in one go, and where it comes from.

There is no padding anywhere: sequences lie behind one another and see only themselves, as in the model
(`backend/laguna/model.py`). Knows tensors; must not know where data is stored nor how it is learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from laguna_agent.backend.laguna.model import Piece


class Pack(NamedTuple):
    """Some sequences behind one another, as many as fit what is learned from at a time.

    ids int64 [tokens]; targets int64 [tokens], the id that each token must predict; weights fp32 [tokens], 0 where
    nothing is learned (a last token, a question, a tool's output); lengths: the tokens of each sequence, which sum to
    all. `origin` names the pack in its dataset version: (version, shard, row).
    """

    ids: Tensor
    targets: Tensor
    weights: Tensor
    lengths: tuple[int, ...]
    origin: tuple[str, int, int] = ("", 0, 0)

    def pieces(self) -> list[Piece]:
        """The sequences, as the model takes them."""
        return [Piece(ids) for ids in torch.split(self.ids, list(self.lengths))]


def joined(packs: Sequence[Pack]) -> Pack:
    """Several packs as one; the origin is the first one's."""
    return Pack(
        torch.cat([pack.ids for pack in packs]),
        torch.cat([pack.targets for pack in packs]),
        torch.cat([pack.weights for pack in packs]),
        tuple(length for pack in packs for length in pack.lengths),
        packs[0].origin,
    )


class Stream(Protocol):
    """An endless supply of packs in one order, which does not depend on how many ranks share the work: every rank
    takes the packs of a whole step and computes its own part of them."""

    def take(self, count: int) -> list[Pack]:
        """The next `count` packs; the cursor moves on."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where the cursor is, as JSON can hold it: an equal stream that loads it goes on with the same packs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises DatasetError where the state is of other data."""
        ...
