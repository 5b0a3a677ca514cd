"""Whether a change broke a file's syntax.

Reports only what the change brought: a file that was broken before is not the change's fault. Python's own parser is
asked as well, for it knows indentation and gives better words. Knows sources; it must not know files.
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter

import msgspec

from laguna_agent.code.languages import parse

SOURCE_CAP = 2 * 1024 * 1024
"""Bytes up to which a source is checked."""
_PROBLEMS_CAP = 1000

# What Python's parser refuses although tree-sitter accepts it. Anything else may be syntax of a newer Python.
_CERTAIN = ("positional argument follows", "Missing parentheses in call", "cannot assign to", "cannot delete")


class Problem(msgspec.Struct, frozen=True):
    """A syntax error: its line from 1, the line's text, and what is wrong ("" where only the place is known)."""

    line: int
    text: str
    message: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.message or 'syntax error'}: {self.text}"


def first_new_problem(language: str, before: bytes | None, after: bytes) -> Problem | None:
    """The first syntax error of `after` (UTF-8) that `before` (None: there was no file) did not have."""
    if len(after) > SOURCE_CAP:
        return None
    new = problems(language, after)
    if not new:
        return None
    old = Counter((each.text, each.message) for each in (problems(language, before) if before else ()))
    for problem in new:
        key = (problem.text, problem.message)
        if not old[key]:
            return problem
        old[key] -= 1
    return None


def problems(language: str, source: bytes) -> list[Problem]:
    """The syntax errors of a source, in order; at most a thousand."""
    lines = source.split(b"\n")
    found = [Problem(row + 1, _shown(lines, row), message) for row, message in _tree_problems(language, source)]
    if language == "python" and (problem := _python_problem(source, lines, certain_only=not found)):
        return [problem, *(each for each in found if each.line != problem.line)]
    return found


def _tree_problems(language: str, source: bytes) -> list[tuple[int, str]]:
    root = parse(language, source).root_node
    found: list[tuple[int, str]] = []
    waiting = [root] if root.has_error else []
    while waiting and len(found) < _PROBLEMS_CAP:
        node = waiting.pop()
        if node.is_missing:
            found.append((node.start_point.row, f"missing {node.type!r}"))
        elif node.is_error:
            found.append((_error_row(node.start_point.row, node.end_point.row, source), ""))
        elif node.has_error:
            waiting += reversed(node.children)
    return found


def _error_row(first: int, last: int, source: bytes) -> int:
    """An ERROR node may begin with blank lines."""
    lines = source.split(b"\n")[first : last + 1]
    return first + next((index for index, line in enumerate(lines) if line.strip()), 0)


def _python_problem(source: bytes, lines: list[bytes], *, certain_only: bool) -> Problem | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
    except SyntaxError as error:
        certain = isinstance(error, IndentationError) or error.msg.startswith(_CERTAIN)
        if certain_only and not certain:
            return None
        row = max(0, min((error.lineno or 1) - 1, len(lines) - 1))
        return Problem(row + 1, _shown(lines, row), error.msg)
    except (ValueError, RecursionError, MemoryError):
        # NUL bytes, or nesting that the parser cannot follow: tree-sitter's word has to do.
        return None
    return None


def _shown(lines: list[bytes], row: int) -> str:
    text = lines[row].decode("utf-8", "replace").strip() if row < len(lines) else ""
    return text if len(text) <= 160 else f"{text[:160]}..."
