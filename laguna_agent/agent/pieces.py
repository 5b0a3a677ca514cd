"""The deltas of an answer as the log keeps them: runs of small ones as one.

A model sends a word at a time, and each spelled out takes ten times its length. A replay needs them as they came, so
nothing is joined: a run is a list of its pieces. Knows deltas; must not know what they say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal

import msgspec

from laguna_agent.backend.base import Delta, ReasoningDelta, TextDelta, ToolCallDelta

Kind = Literal["text", "reasoning", "arguments"]


class Pieces(msgspec.Struct, frozen=True, omit_defaults=True, tag="pieces"):
    """Deltas of one kind behind one another, each of nothing but this text; `index` is that of a call's arguments."""

    kind: Kind
    texts: tuple[str, ...]
    index: int = 0


def packed(deltas: Iterable[Delta]) -> tuple[Delta | Pieces, ...]:
    """The deltas with runs of small ones as `Pieces`."""
    kept: list[Delta | Pieces] = []
    for run, group in groupby(deltas, _run):
        found = list(group)
        if run is None or len(found) == 1:
            kept += found
        else:
            kept.append(Pieces(run[0], tuple(map(_text, found)), run[1]))
    return tuple(kept)


def unpacked(stored: Iterable[Delta | Pieces]) -> Iterator[Delta]:
    """The deltas as they came."""
    for each in stored:
        if not isinstance(each, Pieces):
            yield each
        elif each.kind == "text":
            yield from map(TextDelta, each.texts)
        elif each.kind == "reasoning":
            yield from map(ReasoningDelta, each.texts)
        else:
            yield from (ToolCallDelta(each.index, arguments=text) for text in each.texts)


def _run(delta: Delta) -> tuple[Kind, int] | None:
    """What the delta may stand in one run with; None for one that stands alone."""
    match delta:
        case TextDelta():
            return "text", 0
        case ReasoningDelta(details=()):
            return "reasoning", 0
        case ToolCallDelta(id="", name=""):
            return "arguments", delta.index
    return None


def _text(delta: Delta) -> str:
    return delta.arguments if isinstance(delta, ToolCallDelta) else getattr(delta, "text", "")
