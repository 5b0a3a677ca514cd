"""Answers that have run away: a stream that repeats itself, a thought without end.

Both are cut off while they stream instead of running to the token limit, and what they said is not kept: a model that
sees its own repetition goes on with it. The request is made once more, a little differently; then the run ends by name.
Knows deltas and sampling; must not know the conversation, the tape or the face. It depends on nothing but the deltas,
so that a replay cuts where the run did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from laguna_agent.backend.base import Delta, ReasoningDelta, RetryDelta, Sampling, TextDelta, ToolCallDelta
from laguna_agent.errors import LagunaError, LoopDetected, ModelStopped
from laguna_agent.messages import Message, text_message

Kind = Literal["repeats", "thinks"]

PROSE, ARGUMENTS = 3_000, 20_000
"""Characters of pure repetition that cut an answer, and one that writes a file: files do hold tables of zeros."""
ROUNDS = 5
"""How often the same must have come; two long paragraphs alike are no loop."""
WINDOW = 4
"""Times the limit: as much is kept, so that long pieces are known too."""
EVERY = 500
"""Characters between two looks."""
ANCHOR = 48
"""Characters at the end whose last occurrence tells the period."""
WARM = 0.7
"""The temperature of the second try: at zero the model would say the same."""
CUTS = 2
"""How often in a row a request may be cut before the run ends."""
THOUGHT_OUT = 3
"""How many endless thoughts of a prompt close thinking for the rest of it."""
OPENING, CLOSING = "<think>", "</think>"
ANSWER_NOW = "You have thought about this long enough. Act on what you have: call a tool, or give your answer."


class Runaway(LagunaError):
    """The answer was cut off. Never ends a run: whoever asks deals with it (`Restraint`)."""

    def __init__(self, kind: Kind, words: str) -> None:
        super().__init__(words)
        self.kind: Kind = kind


class Repeating:
    """Looks for a text whose end is one piece again and again. Costs two searches per `EVERY` characters."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = ""
        self._new: list[str] = []
        self._fresh = 0

    def feed(self, text: str) -> str | None:
        """Take more text; the piece that it repeats, where it has done so for `limit` characters."""
        self._new.append(text)
        self._fresh += len(text)
        if self._fresh < EVERY:
            return None
        tail = self._tail = "".join([self._tail, *self._new])[-WINDOW * self._limit :]
        self._new, self._fresh = [], 0
        at = tail.rfind(tail[-ANCHOR:], 0, -1)
        period = len(tail) - ANCHOR - at
        length = max(self._limit, ROUNDS * period)
        if at < 0 or length > len(tail):
            return None
        end = tail[-length:]
        return end[-period:] if end[period:] == end[:-period] else None


class StreamWatch:
    """Watches one answer as it comes. `tokens` estimates those of a number of bytes; `budget` is for the thought (None:
    as long as it likes)."""

    def __init__(self, budget: int | None, tokens: Callable[[int], int]) -> None:
        self._budget = budget
        self._tokens = tokens
        self._start_over()

    def _start_over(self) -> None:
        self._watching = {"text": Repeating(PROSE), "thought": Repeating(PROSE)}
        self._thought = self.output = 0
        self._acting = False
        self._head = ""
        self._tagged: bool | None = None

    def feed(self, delta: Delta) -> None:
        """Take the next delta; raises Runaway where the stream is to be cut after it."""
        match delta:
            case RetryDelta():
                self._start_over()
            case TextDelta(text=text) if text:
                if self._in_tags(text):
                    self._thinks(text)
                self._repeats("text", text, "answer")
            case ReasoningDelta(text=text) if text:
                self._thinks(text)
                self._repeats("thought", text, "thought")
            case ToolCallDelta(index=index, arguments=arguments):
                self._acting = True
                self._watching.setdefault(f"call {index}", Repeating(ARGUMENTS))
                self._repeats(f"call {index}", arguments, "call")

    def _repeats(self, channel: str, text: str, what: str) -> None:
        self.output += len(text.encode("utf-8", "replace"))
        piece = self._watching[channel].feed(text)
        if piece is not None:
            shown = " ".join(piece.split())[:60] or repr(piece[:10])
            raise Runaway("repeats", f"the {what} repeated itself without end ({shown!r}) and was cut off")

    def _in_tags(self, text: str) -> bool:
        """Whether this text is thought that a server left in the content."""
        if self._tagged is False:
            return False
        self._head = (self._head + text)[-max(len(text) + len(CLOSING), len(OPENING)) :]
        if self._tagged is None:
            start = self._head.lstrip()
            if len(start) < len(OPENING) and OPENING.startswith(start):
                return True
            self._tagged = start.startswith(OPENING)
        self._tagged = self._tagged and CLOSING not in self._head
        return self._tagged

    def _thinks(self, text: str) -> None:
        self._thought += len(text.encode("utf-8", "replace"))
        if self._budget is not None and not self._acting and self._tokens(self._thought) > self._budget:
            words = (
                f"the model thought for {self._budget:,} tokens without an answer and was cut off (reasoning_budget)"
            )
            raise Runaway("thinks", words)


class Restraint:
    """What follows a cut in one prompt: how the request is made anew, and when that ends."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._thoughts = 0
        self._told = False
        self._cut: Kind | None = None
        self._closing_refused = False

    def sampling(self, usual: Sampling) -> Sampling:
        """The sampling for the next request."""
        if self._cut == "repeats":
            # A seed would bring the same again.
            cold = usual.temperature is not None and usual.temperature < WARM
            return msgspec.structs.replace(usual, seed=None, temperature=WARM if cold else usual.temperature)
        if self.closes_thought:
            return msgspec.structs.replace(usual, reasoning_effort="off")
        return usual

    @property
    def closes_thought(self) -> bool:
        """Whether the next request asks the server to leave thinking out."""
        return not self._closing_refused and (self._cut == "thinks" or self._thoughts >= THOUGHT_OUT)

    def refused(self) -> None:
        """The server knows no such wish; it is not made again."""
        self._closing_refused = True

    def after(self, cut: Runaway) -> Message | None:
        """The request was cut; what the model is told before the next one, which is once in a prompt and only of
        thinking. Raises LoopDetected or ModelStopped where it was cut too often."""
        self._cut, self._in_a_row = cut.kind, self._in_a_row + 1
        self._thoughts += cut.kind == "thinks"
        if self._in_a_row >= CUTS:
            words = f"{cut}, {CUTS} times in a row"
            raise LoopDetected(words) if cut.kind == "repeats" else ModelStopped(words, reason="thinking")
        if cut.kind == "repeats" or self._told:
            return None
        self._told = True
        return text_message("user", ANSWER_NOW)

    def answered(self) -> None:
        """An answer came to its end."""
        self._cut, self._in_a_row = None, 0
