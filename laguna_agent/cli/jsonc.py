"""JSON with comments and trailing commas, as editors keep their settings in: read, and added to as text.

Every comment, blank line and spelling of the person's stays; what was added is proved by reading the result. Knows no
editor and no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_SCALAR = re.compile(r"-?\d[\d.eE+-]*|true|false|null")
_DEEPEST = 200
"""Nesting that no settings file has; deeper ones are refused instead of met by Python's own limit."""


class JsoncError(ValueError):
    """The text is no JSON with comments, or cannot be added to without changing something else."""


@dataclass
class Node:
    """A value and where it stands. Of an object also its members, and whether a comma follows the last one."""

    start: int
    end: int
    value: Any
    members: dict[str, Node] = field(default_factory=dict)
    open_comma: bool = False


def parse(text: str) -> Node | None:
    """The value that `text` holds, None where it holds only comments. Raises JsoncError."""
    return _Reader(text).document()


def comments(text: str) -> list[str]:
    """The comments of `text`, in order. Raises JsoncError."""
    reader = _Reader(text)
    reader.document()
    return reader.comments


def merged(text: str, wanted: Mapping[str, Any]) -> str:
    """`text` with the members of `wanted` put in, objects member by member. Raises JsoncError where the result would
    not differ in exactly that."""
    root = parse(text)
    if root is None:
        head = text.rstrip()
        new = (head + "\n" if head else "") + written(wanted) + "\n"
    else:
        unit = _unit(text, root)
        new, line_end = text, "\r\n" if "\r\n" in text else "\n"
        for start, end, piece in sorted(_edits(text, root, wanted, unit), key=lambda edit: edit[0], reverse=True):
            new = new[:start] + piece.replace("\n", line_end) + new[end:]
    proof = parse(new)
    if proof is None or proof.value != _together(root.value if root else {}, wanted) or comments(new) != comments(text):
        raise JsoncError("adding to it would change something else in it")
    return new


def _together(old: Any, wanted: Mapping[str, Any]) -> Any:
    result = dict(old)
    for key, value in wanted.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), dict)
        result[key] = _together(result[key], value) if both else value
    return result


Edit = tuple[int, int, str]


def _edits(text: str, node: Node, wanted: Mapping[str, Any], unit: str) -> Iterator[Edit]:
    """What to replace in `text` so that the object at `node` has the members of `wanted`."""
    if not isinstance(node.value, dict):
        raise JsoncError("something else stands where an object is expected")
    base = _indentation(text, node.start)
    for key, value in wanted.items():
        found = node.members.get(key)
        if found is None or found.value == value:
            continue
        if isinstance(value, Mapping):
            yield from _edits(text, found, value, unit)
        else:
            yield found.start, found.end, written(value, _indentation(text, found.start), unit)
    missing = {key: value for key, value in wanted.items() if key not in node.members}
    if missing:
        yield from _insertion(text, node, missing, base, unit)


def _insertion(text: str, node: Node, missing: Mapping[str, Any], base: str, unit: str) -> Iterator[Edit]:
    closing = node.end - 1
    free = len(text[:closing].rstrip())
    piece = written(missing, base, unit).removeprefix("{").removesuffix("}")
    last = max((member.end for member in node.members.values()), default=None)
    if last is None or node.open_comma:
        yield free, closing, piece
    elif last == free:
        yield free, closing, "," + piece
    else:  # A comment stands between the last member and the end.
        yield last, last, ","
        yield free, closing, piece


def written(value: Any, indentation: str = "", unit: str = "  ") -> str:
    """A value as people write settings: objects over lines, lists on one. `indentation` is that of its first line."""
    if not isinstance(value, Mapping) or not value:
        return json.dumps(value, ensure_ascii=False)
    inner = indentation + unit
    lines = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {written(value[key], inner, unit)}" for key in value]
    return "{\n" + ",\n".join(lines) + f"\n{indentation}}}"


def _unit(text: str, root: Node) -> str:
    """The indentation of one level, as the file has it."""
    first = next(iter(root.members.values()), None)
    lead = _indentation(text, first.start) if first and "\n" in text[root.start : first.start] else ""
    return lead or "  "


def _indentation(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


class _Reader:
    """One reading of a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.comments: list[str] = []
        self._open_comma = False

    def document(self) -> Node | None:
        self._skip()
        node = self._value(0) if self.at < len(self.text) else None
        self._skip()
        if self.at < len(self.text):
            raise self._wrong("the end")
        return node

    def _skip(self) -> None:
        while True:
            self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches nothing too
            found = _COMMENT.match(self.text, self.at)
            if found is None:
                return
            self.comments.append(found[0].rstrip("\r"))
            self.at = found.end()

    def _value(self, depth: int) -> Node:
        if depth > _DEEPEST:
            raise JsoncError("it is nested too deeply")
        start = self.at
        opening = self.text[start : start + 1]
        if opening == "{":
            return self._object(start, depth)
        if opening == "[":
            return self._list(start, depth)
        found = (_STRING if opening == '"' else _SCALAR).match(self.text, start)
        if found is None:
            raise self._wrong("a value")
        self.at = found.end()
        return Node(start, self.at, self._decoded(found[0], start))

    def _decoded(self, text: str, at: int) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            self.at = at
            raise self._wrong("a value") from None

    def _object(self, start: int, depth: int) -> Node:
        node = Node(start, start, {})
        for _ in self._items("}"):
            at = self.at
            found = _STRING.match(self.text, at)
            if found is None:
                raise self._wrong("a key in quotes")
            key = self._decoded(found[0], at)
            self.at = found.end()
            self._skip()
            self._take(":")
            self._skip()
            if key in node.members:
                self.at = at
                raise self._wrong(f"no second {key!r}")
            node.members[key] = self._value(depth + 1)
            node.value[key] = node.members[key].value
        node.end, node.open_comma = self.at, self._open_comma
        return node

    def _list(self, start: int, depth: int) -> Node:
        items = []
        for _ in self._items("]"):
            items.append(self._value(depth + 1).value)
        return Node(start, self.at, items)

    def _items(self, closing: str) -> Iterator[None]:
        """Stop at each item of a list or an object; whoever asks reads it."""
        self.at += 1
        comma = False
        while True:
            self._skip()
            if self.text.startswith(closing, self.at):
                self.at += 1
                self._open_comma = comma
                return
            yield
            self._skip()
            comma = self.text.startswith(",", self.at)
            if comma:
                self.at += 1
            elif not self.text.startswith(closing, self.at):
                raise self._wrong(f"a comma or {closing}")

    def _take(self, character: str) -> None:
        if not self.text.startswith(character, self.at):
            raise self._wrong(character)
        self.at += 1

    def _wrong(self, expected: str) -> JsoncError:
        line = self.text.count("\n", 0, self.at) + 1
        return JsoncError(f"line {line}: expected {expected}")
