"""Whether an edit broke a file: the first syntax error that the new text has and the old one had not.

Knows grammars and Python's own compiler; it must not know tools, files on disk, or what the edit was. Nothing is
ever executed.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from laguna_agent.code.languages import TEXT_CAP, language_of, parse, utf8

if TYPE_CHECKING:
    from tree_sitter import Node

ERRORS_CAP = 200
"""Errors counted in one text: beyond that many it is not a text of its language."""


class SyntaxProblem(msgspec.Struct, frozen=True):
    """A syntax error: the line, from 1, and what is wrong there, without a final stop."""

    line: int
    text: str


def new_error(path: str, before: str | None, after: str) -> SyntaxProblem | None:
    """The first syntax error of `after` that `before` (None for a new file) had not.

    None for unknown languages, for texts over 1 MiB, and where `before` had as many errors.
    """
    found = _problem(path, after)
    if found is None or before is None or _problem(path, before) is None:
        return found
    old, new = _errors(path, before), _errors(path, after)
    if len(new) <= len(old):
        return None
    known = Counter(line for _, line in old)
    for problem, line in new:
        if not known[line]:
            return problem
        known[line] -= 1
    return None


def _problem(path: str, text: str) -> SyntaxProblem | None:
    if len(utf8(text)) > TEXT_CAP:
        return None
    if language_of(path) == "python":
        return _compiler_error(text)
    return next((problem for problem, _ in _errors(path, text)), None)


def _compiler_error(text: str) -> SyntaxProblem | None:
    """What Python's compiler says, which is clearer than a parser that recovers."""
    try:
        with warnings.catch_warnings():
            # An escape like "\d" is a warning, and no syntax error.
            warnings.simplefilter("ignore")
            compile(text, "<text>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return SyntaxProblem(max(1, error.lineno or 1), error.msg)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return SyntaxProblem(1, str(error) or "too deeply nested for the compiler")
    return None


def _errors(path: str, text: str) -> list[tuple[SyntaxProblem, str]]:
    """The outermost errors in order, each with the text of its line, by which it is known again after an edit."""
    data = utf8(text)
    tree = parse(path, data)
    if tree is None or not tree.root_node.has_error:
        return []
    lines = data.split(b"\n")
    found: list[tuple[SyntaxProblem, str]] = []
    for node in _broken(tree.root_node):
        row = node.start_point.row
        source = lines[row].decode("utf-8", "replace").strip() if row < len(lines) else ""
        found.append((SyntaxProblem(row + 1, _words(node, data)), source))
        if len(found) == ERRORS_CAP:
            break
    return found


def _broken(root: Node) -> Iterator[Node]:
    """ERROR and MISSING nodes from the top, none inside another; by cursor, as trees can be deeper than the stack."""
    pending = [root]
    while pending:
        node = pending.pop()
        if node.is_error or node.is_missing:
            yield node
        elif node.has_error:
            pending.extend(reversed(node.children))


def _words(node: Node, data: bytes) -> str:
    if node.is_missing:
        return f"missing {node.type!r}"
    text = data[node.start_byte : node.end_byte].decode("utf-8", "replace").strip()
    first = text.partition("\n")[0]
    return f"unexpected {first[:60]!r}" if first else "invalid syntax"
