"""A definition's text brought to another place: other indentation, other indentation step, a docstring put back.

Knows syntax nodes and lines; it must not know why something is moved.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from laguna_agent.code.outline import Definition, Outline, first_named

if TYPE_CHECKING:
    from tree_sitter import Node


def step_of(source: Outline) -> str:
    """One level of indentation, as most bodies of a text's definitions have it; "" where none stands on a line of its
    own."""
    steps: Counter[str] = Counter()
    for definition in source.every():
        outer, inner = line_indent(source.data, definition.node.start_byte), _body_indent(source, definition)
        if inner.startswith(outer) and inner != outer:
            steps[inner[len(outer) :]] += 1
    return max(steps, key=lambda step: steps[step], default="")


def _body_indent(source: Outline, definition: Definition) -> str:
    body = definition.body
    if body is None:
        # A struct's fields, say, are no body to the grammar.
        inside = re.match(rb"[^\n]*\n+([ \t]*)\S", source.data[definition.node.start_byte : definition.end])
        return inside[1].decode() if inside else ""
    first = first_named(body)
    if first is None or first.start_point.row == definition.node.start_point.row:
        return ""
    return line_indent(source.data, first.start_byte)


def line_indent(data: bytes, at: int) -> str:
    """The indentation of the line that holds an offset."""
    line = data[data.rfind(b"\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())].decode("utf-8", "replace")


def moved(source: Outline, start: int, definition: Definition, indent: str, steps: tuple[str, str]) -> str:
    """The text of `definition` from `start` on, as it reads at `indent`; its first line has none.

    `steps` are one level of indentation in the source and at the new place ("" where unknown). Lines inside of
    strings stay as they are; docstrings move along.
    """
    before = line_indent(source.data, start)
    text = source.text(start, definition.end)
    if before == indent and (steps[0] == steps[1] or not all(steps)):
        return text
    first = source.data.count(b"\n", 0, start)
    fixed = _string_lines(definition.node)
    lines = text.split("\n")
    for number, line in enumerate(lines[1:], 1):
        if first + number not in fixed:
            lines[number] = _placed(line, before, indent, steps)
    return "\n".join(lines)


def _placed(line: str, before: str, indent: str, steps: tuple[str, str]) -> str:
    if not line.strip():
        return ""
    if not line.startswith(before):
        return indent + line.lstrip()
    line = line[len(before) :]
    code = line.lstrip(" \t")
    inner = line[: len(line) - len(code)]
    old, new = steps
    if not old or not new or old == new or set(inner) - set(old):
        return indent + line
    levels, rest = divmod(len(inner), len(old))
    # A rest of alignment must not reach the next level, or lines that stood apart would stand together.
    return indent + new * levels + " " * (rest if new == "\t" else min(rest, len(new) - 1)) + code


def _string_lines(root: Node) -> set[int]:
    """The rows that begin inside a string whose text would change if they moved."""
    rows: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if node.start_point.row == node.end_point.row:
            continue
        if node.type != "concatenated_string" and ("string" in node.type or "heredoc" in node.type):
            if not is_docstring(node):
                rows.update(range(node.start_point.row + 1, node.end_point.row + 1))
            continue
        pending.extend(node.children)
    return rows


def is_docstring(node: Node) -> bool:
    """Whether a string is the first statement of a Python body."""
    statement = node.parent
    if statement is None or statement.type != "expression_statement" or statement.parent is None:
        return False
    return statement.parent.type == "block" and statement.prev_named_sibling is None


def docstring(definition: Definition) -> Node | None:
    """The docstring's node of a Python definition."""
    body = definition.body
    first = first_named(body) if body is not None else None
    string = first_named(first) if first is not None and first.type == "expression_statement" else None
    return string if string is not None and string.type == "string" and is_docstring(string) else None


def with_docstring(
    new: str, source: Outline, start: int, definition: Definition, old: Outline, former: Definition
) -> str:
    """`new`, which is `definition` of `source` moved from `start` on, with the docstring of `former` in `old` as its
    own; unchanged where it has one, `former` has none, or its body does not begin on a line of its own."""
    kept, body = docstring(former), definition.body
    if kept is None or body is None or docstring(definition) is not None:
        return new
    row = source.data.count(b"\n", start, body.start_byte)
    if source.text(definition.head, body.start_byte).rstrip(" \t")[-1:] != "\n":
        return new
    lines = new.split("\n")
    indent = lines[row][: len(lines[row]) - len(lines[row].lstrip())]
    there = line_indent(old.data, kept.start_byte)
    text = old.text(kept.start_byte, kept.end_byte).split("\n")
    if indent != there:
        text[1:] = [indent + line.removeprefix(there) if line.strip() else "" for line in text[1:]]
    lines[row:row] = (indent + "\n".join(text)).split("\n")
    return "\n".join(lines)
