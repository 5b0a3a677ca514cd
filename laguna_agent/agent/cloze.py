"""A function with one line left out, for a small model to fill in.

Most mistakes are in one line, and a model that sees a wrong line repeats it. Without it, the rest of the function, what
it must do and what fails tell what belongs there; and as the answer is one line, several of them take the time of one
whole function. Pure text, Python only; it knows neither models nor what else is shown.
"""

from __future__ import annotations

import ast
import copy
import textwrap
from collections.abc import Iterator, Sequence

from laguna_agent.agent.hiding import definition

MARK = "# the missing line"
LONGEST = 3
"""Statements of more lines than this are not left out: the answer is to be short."""
_OPAQUE = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal),
    *(ast.Try, ast.TryStar),
)
_BLOCKS = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})


def clozes(text: str, name: str, raised: int = 0) -> list[str]:
    """The function of this qualified name with one line left out, once for each line, the most suspicious first; none
    where there is nothing but one line.

    `raised`, a line of the text from 1 on, is where an exception passed through: the line that caused it is that one
    or, mostly, one shortly before. Otherwise lines that compute or decide much come first.
    """
    found = definition(text, name)
    if found is None:
        return []
    owner, node = found
    lines = text.split("\n")
    spans = {first: (last, _weight(statement)) for statement, first, last in _statements(node, lines)}
    if len(spans) < 2:
        return []
    inside = node.lineno <= raised <= (node.end_lineno or 0)

    def rank(first: int) -> tuple[int, int]:
        if inside:
            return (0, raised - first) if first <= raised else (1, first)
        return (-spans[first][1], first)

    described = _docstring_span(node)
    chosen = [first for first in sorted(spans, key=rank) if spans[first][0] - first < LONGEST]
    return [_without(lines, owner, node, described, first, spans[first][0]) for first in chosen]


def fill(code: str, answer: str) -> str | None:
    """A cloze with the answer in the place of the missing line; None where that makes no sound code. An answer that
    repeats lines around it is cut to what is new, and one that is the whole function is taken as it is."""
    lines = code.rstrip("\n").split("\n")
    at = next((index for index, line in enumerate(lines) if line.strip() == MARK), None)
    given = [line for line in textwrap.dedent(answer).split("\n") if line.strip() and line.strip() != MARK]
    if at is None or not given:
        return None
    opens = [line.strip() for line in lines[:at] if line.strip().startswith(("def ", "async def "))]
    whole = _sound("\n".join(given) + "\n") if any(line.strip() in opens for line in given) else None
    if whole is not None:
        return whole
    given = given[_overlap(lines[:at], given, len(given) - 1) :]
    given = given[: len(given) - _overlap(given, lines[at + 1 :], len(given) - 1)]
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    new = textwrap.indent(textwrap.dedent("\n".join(given)), indent)
    return _sound("\n".join([*lines[:at], new, *lines[at + 1 :]]) + "\n")


def _overlap(left: Sequence[str], right: Sequence[str], most: int) -> int:
    """How many of the last lines of `left` are the first of `right`, at most `most`."""
    ends, starts = ([line.strip() for line in lines if line.strip()] for lines in (left, right))
    sizes = range(min(len(ends), len(starts), most), 0, -1)
    return next((size for size in sizes if ends[-size:] == starts[:size]), 0)


def _sound(code: str) -> str | None:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return None
    return code


def _statements(
    node: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]
) -> Iterator[tuple[ast.stmt, int, int]]:
    """The statements inside, each with its first and last line; of one with a block its head alone. What stands on the
    line of another statement belongs to that."""
    seen: set[int] = set()
    for statement in ast.walk(node):
        if not isinstance(statement, ast.stmt) or isinstance(statement, _OPAQUE) or statement.lineno in seen:
            continue
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        first, last = statement.lineno, statement.end_lineno or statement.lineno
        body = getattr(statement, "body", [])
        if body and body[0].lineno > first:
            last = body[0].lineno - 1
            while last > first and lines[last - 1].strip()[:1] in ("", "#"):
                last -= 1
        seen.update(range(first, last + 1))
        yield statement, first, last


def _weight(statement: ast.stmt) -> int:
    """How much a statement, or its head, computes and decides."""
    heads = [value for field, value in ast.iter_fields(statement) if field not in _BLOCKS]
    roots = [each for value in heads for each in (value if isinstance(value, list) else [value])]
    nodes = [inner for root in roots if isinstance(root, ast.AST) for inner in ast.walk(root)]
    counted = (ast.operator, ast.boolop, ast.unaryop, ast.cmpop, ast.Call, ast.Subscript, ast.Constant)
    # On a condition hangs all that it guards.
    return sum(isinstance(each, counted) for each in nodes) + 2 * isinstance(statement, ast.If | ast.While)


def _docstring_span(node: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    if ast.get_docstring(node, clean=False) is None or node.body[0].lineno == node.lineno:
        return range(0)
    return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def _without(
    lines: Sequence[str],
    owner: ast.ClassDef | None,
    node: ast.FunctionDef | ast.AsyncFunctionDef,
    described: range,
    first: int,
    last: int,
) -> str:
    line = lines[first - 1]
    indent = line[: len(line) - len(line.lstrip())]
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    kept = [
        f"{indent}{MARK}" if number == first else lines[number - 1]
        for number in range(start, (node.end_lineno or last) + 1)
        if number not in described and not first < number <= last
    ]
    return "\n".join([*_head(owner), *kept]) + "\n"


def _head(owner: ast.ClassDef | None) -> list[str]:
    """The line that opens the class: a method alone might be any class's."""
    if owner is None:
        return []
    bare = copy.copy(owner)
    bare.body, bare.decorator_list = [ast.Pass()], []
    return ast.unparse(bare).split("\n")[:1]
