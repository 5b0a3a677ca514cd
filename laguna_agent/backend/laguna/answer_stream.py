"""A model's output text, read as it comes: reasoning, content and tool calls (spec section 10, and the hermes form).

Knows the tags and how a value is typed; must not know token ids, a tokenizer or a template. Both call syntaxes are read
whatever the family, for models mix them:

    poolside    <tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>
    hermes      <tool_call>{"name": ..., "arguments": {...}}</tool_call>

What comes out depends on the whole text only, never on how it was split. A call that breaks or is cut off keeps its
name and gives arguments that are no JSON object, so that it is answered with an error and never runs. A tag that starts
no call stays text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from laguna_agent.backend.base import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from laguna_agent.backend.laguna.call_bodies import CALL_END, CALL_START, Body, HermesBody, PoolsideBody, held_back
from laguna_agent.messages import ToolSpec

THINK, THINK_END, TURN_END = "<think>", "</think>", "</assistant>"
_TAGS = (THINK, THINK_END, CALL_START, TURN_END)
_TAG = re.compile("|".join(_TAGS))
_NAME = re.compile(r"[\w.:/-]{1,128}")
_NAME_END = re.compile(r"\n|<arg_key>|</tool_call>")
_NAME_SPACE = 200
"""Characters after a tag within which a call's name must end; more is prose that mentions the tag."""


class _Channel:
    """The text of one kind, less the white space that is none: all of it where nothing else comes, and what pads the
    tags where the family writes them on lines of their own."""

    def __init__(self, padded: bool) -> None:
        self.padded = padded
        self.written = False
        self._space = ""

    def add(self, text: str) -> str:
        """`text` as far as it can be shown now."""
        text = self._space + text
        self._space = ""
        if not self.written:
            if not text.strip():
                self._space = text
                return ""
            self.written = True
            text = text.lstrip() if self.padded else text
        if self.padded:
            shown = text.rstrip()
            text, self._space = shown, text[len(shown) :]
        return text


class AnswerStream:
    """Turns pieces of output text into deltas.

    `in_thought` says that the prompt left a `<think>` open. `padded` is true for the families that put line breaks
    inside the tags (newline style, hermes): white space around reasoning and content is not theirs then; in the compact
    style it is, and is kept, so that the turn renders again as it was written.
    """

    def __init__(self, tools: Sequence[ToolSpec] = (), *, in_thought: bool = False, padded: bool = False) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._buffer = ""
        self._out: list[Delta] = []
        self._thought = in_thought
        self._at_start = True  # nothing but white space so far in this stretch of thought
        self._line_blank = True
        self._content, self._reasoning = _Channel(padded), _Channel(padded)
        self._body: Body | None = None
        self._lead = ""  # what is shown in place of a call that turns out to be none
        self._ended = False
        self.calls = 0
        """How many calls have begun."""

    @property
    def in_thought(self) -> bool:
        """Whether what comes next is reasoning: a reasoning budget counts while this holds."""
        return self._thought and self._body is None

    def feed(self, text: str) -> list[Delta]:
        """Take more output; the deltas that it completes."""
        self._buffer += text
        return self._read(last=False)

    def finish(self) -> list[Delta]:
        """There is no more output; what was held back."""
        return self._read(last=True)

    def _read(self, last: bool) -> list[Delta]:
        while not self._ended and (self._inside(last) if self._body else self._prose(last)):
            pass
        if last or self._ended:
            self._buffer = ""
        out, self._out = self._out, []
        return out

    def _inside(self, last: bool) -> bool:
        body = self._body
        assert body is not None
        pieces, self._buffer, done = body.read(self._buffer, last)
        self._arguments("".join(pieces))
        if done:
            self._body = None
            self._line_blank = True
            if isinstance(body, HermesBody) and body.no_call:
                self._show(self._lead)
        return done

    def _prose(self, last: bool) -> bool:
        """Read up to and over the next tag; False where that needs more text."""
        found = _TAG.search(self._buffer)
        if found is None:
            keep = 0 if last else held_back(self._buffer, _TAGS)
            self._show(self._buffer[: len(self._buffer) - keep])
            self._buffer = self._buffer[len(self._buffer) - keep :]
            return False
        self._show(self._buffer[: found.start()])
        self._buffer = self._buffer[found.start() :]
        tag = found[0]
        if tag == CALL_START:
            return self._call(last)
        self._buffer = self._buffer[len(tag) :]
        if tag == TURN_END:
            self._ended = True
        elif not self._turns(tag):
            self._show(tag)
        return True

    def _turns(self, tag: str) -> bool:
        """Whether a thinking tag here is one; if so it is obeyed."""
        if tag == THINK_END:
            obeyed = self._thought or not self._content.written
            self._thought = False
            self._line_blank = self._line_blank or obeyed
            return obeyed
        if self._thought:
            return self._at_start
        if self._line_blank:
            self._thought = self._at_start = True
            if self._reasoning.written:
                self._say_reasoning("\n")
        return self._thought

    def _call(self, last: bool) -> bool:
        """A call tag leads the buffer: begin the call, or show the tag where there is none."""
        rest = self._buffer[len(CALL_START) :]
        body = rest.lstrip()
        if body.startswith("{"):
            self._lead = CALL_START + rest[: len(rest) - len(body)]
            self._buffer, self._body = body, HermesBody(self._begin)
            return True
        end = _NAME_END.search(body, 0, _NAME_SPACE)
        if end is None and len(body) < _NAME_SPACE and not last:
            return False
        name = body[: end.start() if end else _NAME_SPACE].strip()
        if name or end is None:
            starts = self._starts_call(name, body[end.start() :] if end else "", last)
            if starts is None:
                return False
            if not starts:
                self._show(CALL_START)
                self._buffer = rest
                return True
        self._buffer = body[end.start() :] if end else ""
        self._body = PoolsideBody(self._tools.get(name), named=bool(name))
        if name:
            self._begin(name)
        return True

    def _starts_call(self, name: str, after: str, last: bool) -> bool | None:
        """Whether `name` and what follows it make a call; None where more text must say. A known tool's name does; any
        other must be followed by what only a call has, and counts in no thought."""
        if name in self._tools and (after or last):
            return True
        if self._thought or not after or not _NAME.fullmatch(name):
            return False
        follows = after.lstrip()
        if follows.startswith(("<arg_key>", CALL_END)):
            return True
        return None if not last and ("<arg_key>".startswith(follows) or CALL_END.startswith(follows)) else False

    def _begin(self, name: str) -> None:
        self._out.append(ToolCallDelta(self.calls, name=name))
        self.calls += 1

    def _arguments(self, text: str) -> None:
        if text:
            self._out.append(ToolCallDelta(self.calls - 1, arguments=text))

    def _show(self, text: str) -> None:
        if not text:
            return
        line = text.rpartition("\n")
        self._line_blank = not line[2].strip() and (bool(line[1]) or self._line_blank)
        self._at_start = self._at_start and not text.strip()
        if self._thought:
            self._say_reasoning(text)
        elif shown := self._content.add(text):
            self._out.append(TextDelta(shown))

    def _say_reasoning(self, text: str) -> None:
        if shown := self._reasoning.add(text):
            self._out.append(ReasoningDelta(shown))
