"""Deltas folded into one reply: the message for the history, why it ended, what it cost.

This is where it is decided whether a call's arguments are whole. Arguments that do not parse as one JSON object are
never completed, patched or guessed at: the call keeps the raw text, carries an error, and must not run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from laguna_agent.backend.base import (
    Delta,
    Finished,
    FinishReason,
    ReasoningDelta,
    Request,
    RetryDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from laguna_agent.backend.call_values import parse_arguments
from laguna_agent.messages import Message, TextBlock, ToolCall


class Reply(msgspec.Struct, frozen=True):
    """One whole answer. `finish` is None while the stream has not ended."""

    message: Message
    finish: FinishReason | None
    usage: Usage


class _Building:
    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []


class Assembler:
    """Folds the deltas of one request, in order, into a `Reply`.

    Call ids are made unique: a server's own id is kept unless it is absent, or taken by the request or in `taken`, else
    the call becomes `call_<n>`, the same in every run. Thought that a server left in the content becomes reasoning.
    """

    def __init__(self, request: Request, taken: Collection[str] = ()) -> None:
        self._request, self._taken = request, taken
        self._start_over()

    def _start_over(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._details: list[dict[str, Any]] = []
        self._calls: dict[int, _Building] = {}
        self._usage = Usage()
        self._finish: FinishReason | None = None

    @property
    def begun(self) -> bool:
        """Whether anything of an answer has come."""
        return bool(self._text or self._reasoning or self._calls)

    def feed(self, delta: Delta) -> None:
        """Take the next delta; a RetryDelta voids all before it."""
        if isinstance(delta, TextDelta):
            self._text.append(delta.text)
        elif isinstance(delta, ReasoningDelta):
            self._reasoning.append(delta.text)
            self._details += delta.details
        elif isinstance(delta, ToolCallDelta):
            call = self._calls.setdefault(delta.index, _Building())
            call.id = call.id or delta.id
            call.name = call.name or delta.name
            call.arguments.append(delta.arguments)
        elif isinstance(delta, UsageDelta):
            self._usage = delta.usage
        elif isinstance(delta, Finished):
            self._finish = delta.reason
        elif isinstance(delta, RetryDelta):
            self._start_over()

    def reply(self) -> Reply:
        """The reply as far as it has come."""
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        if not reasoning:
            reasoning, text = _split_thought(text)
        calls = [self._whole(self._calls[index]) for index in sorted(self._calls)]
        message = Message(
            role="assistant",
            content=(TextBlock(text),) if text else (),
            tool_calls=self._with_ids(calls),
            reasoning=reasoning,
            reasoning_details=_merged(self._details),
        )
        return Reply(message, self._finish, self._usage)

    def _whole(self, built: _Building) -> ToolCall:
        raw = "".join(built.arguments)
        if not raw.strip():
            # No arguments at all is how many servers spell {}, but also how a cut-off call looks.
            error = "the call was cut off before its arguments" if self._finish in {None, "length"} else ""
            return ToolCall(built.id, built.name.strip(), error=error)
        parsed = parse_arguments(raw)
        if isinstance(parsed, str):
            return ToolCall(built.id, built.name.strip(), raw=raw, error=parsed)
        return ToolCall(built.id, built.name.strip(), parsed)

    def _with_ids(self, calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
        if not calls:
            return ()
        taken = {call.id for message in self._request.messages for call in message.tool_calls}.union(self._taken)
        kept, numbers = [], itertools.count(len(taken) + 1)
        for call in calls:
            call_id = call.id
            while not call_id or call_id in taken:
                call_id = f"call_{next(numbers)}"
            taken.add(call_id)
            kept.append(msgspec.structs.replace(call, id=call_id))
        return tuple(kept)


def _split_thought(text: str) -> tuple[str, str]:
    """Thought and answer of a content whose thought the server left in.

    Where the prompt already opens the thought (Laguna, Qwen, DeepSeek), only the closing tag is in the content; one
    that is quoted belongs to the answer.
    """
    start = text.lstrip()
    found = re.search(r"(?<![`'\"])</think>(?![`'\"])", start)
    if found is None:
        return "", text
    return start[: found.start()].removeprefix("<think>").strip(), start[found.end() :].lstrip("\n")


def _merged(details: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """Streamed `reasoning_details` as whole items: fragments of one item follow each other and share type and index."""
    merged: list[dict[str, Any]] = []
    for item in details:
        last = merged[-1] if merged else None
        if last is None or (item.get("type"), item.get("index")) != (last.get("type"), last.get("index")):
            merged.append(dict(item))
            continue
        for key, value in item.items():
            if key in {"text", "summary", "data"} and isinstance(value, str) and isinstance(last.get(key), str):
                last[key] += value
            elif value is not None:
                last[key] = value
    return tuple(merged)
