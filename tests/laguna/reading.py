"""Output text put through the parser in pieces, and what came of it in the oracle's terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from laguna_agent.backend.base import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from laguna_agent.backend.call_values import parse_arguments
from laguna_agent.backend.laguna.answer_stream import AnswerStream
from laguna_agent.messages import ToolSpec
from tests.laguna.call_oracle import Calls

Answer = tuple[str, str, Calls]


def deltas(pieces: Iterable[str], stream: AnswerStream) -> list[Delta]:
    """All that the pieces give."""
    found = [delta for piece in pieces for delta in stream.feed(piece)]
    return found + stream.finish()


def read(pieces: Iterable[str], tools: Sequence[ToolSpec], in_thought: bool, padded: bool) -> Answer:
    """Reasoning, content and calls of an output in pieces; a broken call's arguments are None."""
    out = deltas(pieces, AnswerStream(tools, in_thought=in_thought, padded=padded))
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for delta in out:
        if isinstance(delta, ToolCallDelta):
            names[delta.index] = names.get(delta.index, "") + delta.name
            arguments[delta.index] = arguments.get(delta.index, "") + delta.arguments
    parsed = {index: parse_arguments(raw) for index, raw in arguments.items()}
    calls: Calls = [
        (names[index], value if isinstance(value, dict) else None) for index, value in sorted(parsed.items())
    ]
    reasoning = "".join(delta.text for delta in out if isinstance(delta, ReasoningDelta))
    return reasoning, "".join(delta.text for delta in out if isinstance(delta, TextDelta)), calls
