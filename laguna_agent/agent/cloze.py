"""A function with a gap where one statement's expression was, for a small model to fill in.

Most mistakes are in one line, and a model that sees a wrong line repeats it. With a gap there, the rest of the
function, what it must do and what fails tell what belongs there. The statement keeps its form (`if ____:`): without it
a small model writes the line before or after. Pure text, Python only; it knows neither models nor what else is shown.
"""

from __future__ import annotations

import ast
import copy
import textwrap
from collections.abc import Iterator, Sequence

from laguna_agent.agent.hiding import definition

GAP = "____"
LONGEST = 3
"""Statements of more lines than this get no gap: they are seldom wrong in one place."""
_OPAQUE = (
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal),
    *(ast.Try, ast.TryStar),
)
_BLOCKS = frozenset({"body", "orelse", "finalbody", "handlers", "cases"})


def clozes(text: str, name: str, raised: int = 0) -> list[str]:
    """The function of this qualified name with a gap, once for each line, the most suspicious first; none where there
    is nothing but one line.

    `raised`, a line of the text from 1 on, is where an exception passed through: the line that caused it is that one
    or, mostly, one shortly before. Otherwise lines that compute or decide much come first.
    """
    found = definition(text, name)
    if found is None or GAP in text or "\r" in text.replace("\r\n", ""):
        # To `ast` a lone CR ends a line, to nobody else.
        return []
    owner, node = found
    lines = text.split("\n")
    spans = {first: (last, statement) for statement, first, last in _statements(node, lines)}
    if len(spans) < 2:
        return []
    inside = node.lineno <= raised <= (node.end_lineno or 0)

    def rank(first: int) -> tuple[int, int]:
        if inside:
            return (0, raised - first) if first <= raised else (1, first)
        return (-_weight(spans[first][1]), first)

    described = _docstring_span(node)
    chosen = [first for first in sorted(spans, key=rank) if spans[first][0] - first < LONGEST]
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    codes = []
    for first in chosen:
        shown = {number: lines[number - 1] for number in range(start, (node.end_lineno or 0) + 1)}
        for number in described:
            shown.pop(number, None)
        for expression in reversed(_expressions(spans[first][1])):
            _cut(shown, expression)
        if sum(GAP in line for line in shown.values()) == 1:
            codes.append("\n".join([*_head(owner), *shown.values()]) + "\n")
    return codes


def fill(code: str, answer: str) -> str | None:
    """A cloze with the answer in its gap; None where that makes no sound code. The answer may be the whole function,
    the line (with lines around it, which are cut), or the expression alone."""
    lines = code.rstrip("\n").split("\n")
    at = next((index for index, line in enumerate(lines) if GAP in line), None)
    answer = textwrap.dedent(answer).strip("\n")
    given = [line for line in answer.split("\n") if line.strip()]
    if at is None or not given or GAP in answer:
        return None
    opens = [line.strip() for line in lines[: at + 1] if line.strip().startswith(("def ", "async def "))]
    whole = _sound(answer) if any(line.strip() in opens for line in given) else None
    if whole is not None:
        return whole
    if lines[at].strip() != GAP and lines[at].count(GAP) == 1 and len(given) == 1 and _is_expression(given[0]):
        return _sound(code.rstrip("\n").replace(GAP, given[0].strip()))
    given = given[_overlap(lines[:at], given, len(given) - 1) :]
    given = given[: len(given) - _overlap(given, lines[at + 1 :], len(given) - 1)]
    indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
    new = textwrap.indent(textwrap.dedent("\n".join(given)), indent)
    return _sound("\n".join([*lines[:at], new, *lines[at + 1 :]]))


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
    return code + "\n"


def _is_expression(text: str) -> bool:
    try:
        ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def _expressions(statement: ast.stmt) -> list[ast.expr]:
    """What is cut out of a statement, in order: all that it computes, not where it puts it. Where its block stands on
    the same line, that of the block too."""
    match statement:
        case ast.If(test=test) | ast.While(test=test) | ast.Assert(test=test):
            found = [test]
        case ast.For(iter=over) | ast.AsyncFor(iter=over):
            found = [over]
        case ast.With(items=items) | ast.AsyncWith(items=items):
            found = [item.context_expr for item in items]
        case ast.Match(subject=subject):
            found = [subject]
        case ast.Raise(exc=value) | ast.Return(value=value) | ast.Expr(value=value):
            found = [value] if value is not None else []
        case ast.Assign(value=value) | ast.AugAssign(value=value) | ast.AnnAssign(value=value):
            found = [value] if value is not None else []
        case _:
            found = []
    inner = [each for each in getattr(statement, "body", []) if each.lineno == statement.lineno]
    return [*found, *(expression for each in inner for expression in _expressions(each))]


def _cut(shown: dict[int, str], expression: ast.expr) -> None:
    """Put a gap in the place of the expression; `shown` are lines by their number, columns are counted in bytes."""
    first, last = expression.lineno, expression.end_lineno or expression.lineno
    before = shown[first].encode()[: expression.col_offset].decode()
    after = shown[last].encode()[expression.end_col_offset or 0 :].decode()
    shown[first] = f"{before}{GAP}{after}"
    for number in range(first + 1, last + 1):
        del shown[number]


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


def _head(owner: ast.ClassDef | None) -> list[str]:
    """The line that opens the class: a method alone might be any class's."""
    if owner is None:
        return []
    bare = copy.copy(owner)
    bare.body, bare.decorator_list = [ast.Pass()], []
    return ast.unparse(bare).split("\n")[:1]
