"""The inside of one `<tool_call>`, read as it comes, as pieces of JSON arguments.

Knows the two syntaxes and nothing of reasoning or content. A body is read by `read(buffer, last)`, which gives the
pieces of argument text that are certain, the part of the buffer that is left, and whether the call is over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from laguna_agent.backend.call_values import (
    argument_schemas,
    call_from,
    claimed_call,
    declared_types,
    read_json,
    typed_value,
)
from laguna_agent.messages import ToolSpec

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_AFTER_KEY = re.compile(f"{_KEY_END}|{_VALUE}|{CALL_END}")
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\<]{1,128})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{[^{])')
_HEAD_SPACE = 400
_STRUCTURE = re.compile(r'["{}]|</tool_call>')
_STRING_END = re.compile(r'\\(?:.|$)|"', re.DOTALL)

Progress = tuple[list[str], str, bool]


class Body(Protocol):
    """See the module."""

    def read(self, buffer: str, last: bool) -> Progress:
        """The certain pieces, what is left of the buffer, and whether the call is over."""
        ...


def held_back(text: str, tags: Sequence[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of `tags`."""
    for size in range(min(len(text), max(map(len, tags)) - 1), 0, -1):
        if any(tag.startswith(text[-size:]) for tag in tags):
            return size
    return 0


class PoolsideBody:
    """Keys and values after a name. String values are passed on as they come, others when they are whole.

    A key without a value is dropped; of a key given twice the last counts, as JSON readers have it. Anything else than
    keys and values breaks the call: its arguments are left open, and the text up to `</tool_call>` is dropped. `named`
    is false for a call without a name, of which nothing is kept.
    """

    def __init__(self, tool: ToolSpec | None, *, named: bool = True) -> None:
        self._schemas = argument_schemas(tool)
        self._named = named
        self._state = self._between if named else self._skip
        self._key = ""
        self._lead = "{"
        self._pieces: list[str] = []
        self._buffer = ""
        self._done = False

    def read(self, buffer: str, last: bool) -> Progress:
        """See `Body`."""
        self._buffer, self._pieces = buffer, []
        while not self._done and self._state(last):
            pass
        if last and not self._done:
            # The call was cut off: what has come is no whole object, and must not become one.
            self._done, self._buffer = True, ""
            if self._lead == "{" and self._named:
                self._pieces.append("{")
        return self._pieces, self._buffer, self._done

    def _next(self, *tags: str) -> str | None:
        """Go over white space and the one of `tags` that follows; "" where none can, None where more text must say."""
        self._buffer = self._buffer.lstrip()
        for tag in tags:
            if self._buffer.startswith(tag):
                self._buffer = self._buffer[len(tag) :]
                return tag
        return None if any(tag.startswith(self._buffer) for tag in tags) else ""

    def _between(self, last: bool) -> bool:
        tag = self._next(_KEY, CALL_END)
        if tag is None:
            return False
        self._go_on(tag)
        return True

    def _go_on(self, tag: str) -> None:
        """Another argument, the end of the call, or something that has no place here."""
        if tag == _KEY:
            self._state = self._in_key
        elif tag == CALL_END:
            self._close()
        else:
            self._break()

    def _in_key(self, last: bool) -> bool:
        found = _AFTER_KEY.search(self._buffer)
        if found is None:
            return False
        if found[0] != _KEY_END:
            self._break()
            return True
        self._key = self._buffer[: found.start()].strip()
        self._buffer = self._buffer[found.end() :]
        self._state = self._after_key
        return True

    def _after_key(self, last: bool) -> bool:
        tag = self._next(_VALUE, _KEY, CALL_END)
        if tag is None:
            return False
        if tag == _VALUE:
            types = declared_types(self._schemas.get(self._key))
            self._pieces.append(f"{self._lead}{json.dumps(self._key, ensure_ascii=False)}: ")
            self._lead = ", "
            if "string" in types and "null" not in types:
                self._pieces.append('"')
                self._state = self._in_string
            else:
                self._state = self._in_value
        else:
            self._go_on(tag)
        return True

    def _in_string(self, last: bool) -> bool:
        text, tag, rest = self._buffer.partition(_VALUE_END)
        if not tag:
            keep = held_back(text, (_VALUE_END,))
            text, rest = text[: len(text) - keep], text[len(text) - keep :]
        if text:
            self._pieces.append(json.dumps(text, ensure_ascii=False)[1:-1])
        self._buffer = rest
        if tag:
            self._pieces.append('"')
            self._state = self._between
        return bool(tag)

    def _in_value(self, last: bool) -> bool:
        text, tag, rest = self._buffer.partition(_VALUE_END)
        if not tag:
            return False
        value = typed_value(text, self._schemas.get(self._key))
        self._pieces.append(json.dumps(value, ensure_ascii=False))
        self._buffer = rest
        self._state = self._between
        return True

    def _break(self) -> None:
        if self._lead == "{":
            self._pieces.append("{")
            self._lead = ""
        self._state = self._skip

    def _skip(self, last: bool) -> bool:
        _, tag, rest = self._buffer.partition(CALL_END)
        self._buffer = rest if tag else self._buffer[-(len(CALL_END) - 1) :]
        self._done = bool(tag)
        return False

    def _close(self) -> None:
        self._pieces.append("{}" if self._lead == "{" else "}")
        self._done = True


class HermesBody:
    """One JSON object. Where it begins as the form says, its arguments are passed on as they come; else it is read when
    a closing tag or the end has come, by the rules for calls found in text. `no_call` says that what is left of the
    buffer, all of it, was none."""

    def __init__(self, begin: Callable[[str], None]) -> None:
        self._begin = begin
        self._streaming = False
        self._depth = 0
        self._quoted = False
        self._searched = 0
        self._after = False
        self.no_call = False

    def read(self, buffer: str, last: bool) -> Progress:
        """See `Body`."""
        if not self._streaming and not self._searched:
            # No head is searched for beyond this, else it would depend on the split whether one is found.
            head = _HEAD.match(buffer, 0, _HEAD_SPACE)
            if head:
                self._begin(head[1].strip())
                self._streaming = True
                buffer = buffer[head.end() :]
            elif len(buffer) < _HEAD_SPACE and CALL_END not in buffer and not last:
                return [], buffer, False
        return self._stream(buffer, last) if self._streaming else self._whole(buffer, last)

    def _stream(self, buffer: str, last: bool) -> Progress:
        pieces: list[str] = []
        while not self._after:
            if self._quoted:
                at = self._string(buffer)
            else:
                found = _STRUCTURE.search(buffer)
                if found is None:
                    at = len(buffer) - (0 if last else held_back(buffer, (CALL_END,)))
                elif found[0] == CALL_END:
                    return [*pieces, buffer[: found.start()]], buffer[found.end() :], True
                else:
                    at = found.end()
                    self._quoted = found[0] == '"'
                    self._depth += {"{": 1, "}": -1}.get(found[0], 0)
                    self._after = self._depth == 0 and not self._quoted
            if at == 0:
                break
            pieces.append(buffer[:at])
            buffer = buffer[at:]
        if not self._after:
            return pieces, "" if last else buffer, last
        return self._ending(pieces, buffer, last)

    def _string(self, buffer: str) -> int:
        """How much of the string that `buffer` is inside of can be passed on."""
        for found in _STRING_END.finditer(buffer):
            if found[0] == '"':
                self._quoted = False
                return found.end()
            if found[0] == "\\":
                return found.start()
        return len(buffer)

    def _ending(self, pieces: list[str], buffer: str, last: bool) -> Progress:
        """The arguments have closed: go over the outer brace and the closing tag, where they are."""
        rest = buffer.lstrip()
        after = rest.removeprefix("}").lstrip()
        if after.startswith(CALL_END):
            return pieces, after[len(CALL_END) :], True
        if not last and CALL_END.startswith(after):
            return pieces, buffer, False
        # The call is whole even where the model forgot the closing tag.
        return pieces, after if rest.startswith("}") else buffer, True

    def _whole(self, buffer: str, last: bool) -> Progress:
        while (end := buffer.find(CALL_END, self._searched)) >= 0 or last:
            inside = buffer[: end if end >= 0 else len(buffer)]
            value, stop = read_json(buffer, 0, len(inside))
            if value is not None:
                return self._found(value, buffer, stop)
            if end >= 0 and _ends_in_string(inside):
                # The tag is inside a string: the object may go on after it.
                self._searched = end + 1
                continue
            call = claimed_call(inside)
            if call is None:
                self.no_call = True
                return [], buffer, True
            self._begin(call.name)
            return [inside], buffer[len(inside) + len(CALL_END) :], True
        self._searched = max(self._searched, len(buffer) - len(CALL_END) + 1, 1)
        return [], buffer, False

    def _found(self, value: object, buffer: str, stop: int) -> Progress:
        call = call_from(value)
        if call is None:
            self.no_call = True
            return [], buffer, True
        rest = buffer[stop:].lstrip()
        rest = rest[len(CALL_END) :] if rest.startswith(CALL_END) else buffer[stop:]
        self._begin(call.name)
        return [call.raw if call.error else json.dumps(call.arguments, ensure_ascii=False)], rest, True


def _ends_in_string(text: str) -> bool:
    return re.sub(r"\\.", "", text, flags=re.DOTALL).count('"') % 2 == 1
