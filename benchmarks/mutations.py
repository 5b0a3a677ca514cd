"""Single realistic mistakes, made in Python source as text edits so that everything around them stays byte for byte.

Knows Python's syntax tree and which slips people make (HumanEvalPack's classes: operator, value, variable, function
misuse, missing and excess logic). Knows no task, no test and no selection rule: `make_bugs.py` has those.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Mod: ("%", "//"),
    ast.FloorDiv: ("//", "%"),
    ast.Div: ("/", "*"),
}
MIXED_UP_FUNCTIONS = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "upper": "lower",
    "lower": "upper",
    "isupper": "islower",
    "islower": "isupper",
    "startswith": "endswith",
    "endswith": "startswith",
    "floor": "ceil",
    "ceil": "floor",
    "append": "extend",
    "sum": "len",
    "isdigit": "isalpha",
    "isalpha": "isalnum",
}


@dataclass(frozen=True)
class Mutation:
    """Replace `source[start:end]` (characters) of one file by `text`; `category` names the kind of mistake."""

    category: str
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """Return the source with the mistake in it."""
        return source[: self.start] + self.text + source[self.end :]


class _Locator:
    """Turns syntax-tree positions (line, UTF-8 byte column) into character offsets."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def text(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.source[start:end]


def mutations(source: str, function: str) -> list[Mutation]:
    """Every single mistake that can be made in the body (not the docstring) of the top-level `function`."""
    tree = ast.parse(source)
    target = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
    at = _Locator(source)
    body = target.body[1:] if ast.get_docstring(target) is not None else target.body
    variables = _variables(target)
    found: list[Mutation] = []
    for statement in body:
        for node in ast.walk(statement):
            found.extend(_operators(node, at))
            found.extend(_values(node, at))
            found.extend(_calls(node, at))
            found.extend(_wrong_variable(node, at, variables))
            found.extend(_missing_logic(node, at))
    return [m for m in found if source[m.start : m.end] != m.text]


def _variables(function: ast.FunctionDef) -> list[str]:
    names = [a.arg for a in function.args.args]
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id not in names:
            names.append(node.id)
    return names


def _between(left: ast.expr, right: ast.expr, old: str, new: str, at: _Locator) -> tuple[int, int, str] | None:
    start, end = at.span(left)[1], at.span(right)[0]
    found = at.source.find(old, start, end)
    return None if found < 0 else (found, found + len(old), new)


def _operators(node: ast.AST, at: _Locator) -> Iterator[Mutation]:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        edit = _between(node.left, node.comparators[0], *COMPARISONS[type(node.ops[0])], at)
        if edit:
            yield Mutation("comparison", *edit)
    elif (
        isinstance(node, ast.BinOp)
        and type(node.op) in ARITHMETIC
        and not isinstance(node.left, ast.Constant | ast.List)
    ):
        edit = _between(node.left, node.right, *ARITHMETIC[type(node.op)], at)
        if edit:
            yield Mutation("arithmetic", *edit)
    elif isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        edit = _between(node.values[0], node.values[1], old, new, at)
        if edit:
            yield Mutation("logic", *edit)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield Mutation("logic", *at.span(node), at.text(node.operand))
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
        old, new = ("+=", "-=") if isinstance(node.op, ast.Add) else ("-=", "+=")
        edit = _between(node.target, node.value, old, new, at)
        if edit and isinstance(node.value, ast.Constant | ast.Name):
            yield Mutation("arithmetic", *edit)


def _values(node: ast.AST, at: _Locator) -> Iterator[Mutation]:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield Mutation("value", *at.span(node), str(node.value + 1))
        if node.value > 0:
            yield Mutation("value", *at.span(node), str(node.value - 1))
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield Mutation("wrong return", *at.span(node), str(not node.value))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        stop = node.args[0] if len(node.args) == 1 else node.args[1]
        text = at.text(stop)
        if (
            isinstance(stop, ast.BinOp)
            and isinstance(stop.op, ast.Add | ast.Sub)
            and isinstance(stop.right, ast.Constant)
        ):
            yield Mutation("off by one", *at.span(stop), at.text(stop.left))
        else:
            yield Mutation("off by one", *at.span(stop), f"{text} - 1")
            yield Mutation("off by one", *at.span(stop), f"{text} + 1")


def _calls(node: ast.AST, at: _Locator) -> Iterator[Mutation]:
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Name) and node.func.id in MIXED_UP_FUNCTIONS:
        yield Mutation("wrong function", *at.span(node.func), MIXED_UP_FUNCTIONS[node.func.id])
    elif isinstance(node.func, ast.Attribute) and node.func.attr in MIXED_UP_FUNCTIONS:
        end = at.span(node.func)[1]
        name = node.func.attr
        yield Mutation("wrong function", end - len(name), end, MIXED_UP_FUNCTIONS[name])
    if len(node.args) == 2 and not node.keywords:
        first, second = node.args
        text = f"{at.text(second)}, {at.text(first)}"
        yield Mutation("swapped arguments", at.span(first)[0], at.span(second)[1], text)


def _wrong_variable(node: ast.AST, at: _Locator, variables: list[str]) -> Iterator[Mutation]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in variables:
        for other in variables:
            if other != node.id:
                yield Mutation("wrong variable", *at.span(node), other)


def _missing_logic(node: ast.AST, at: _Locator) -> Iterator[Mutation]:
    """A forgotten special case: an early exit or a guard that is not there, or a branch nobody wrote."""
    if not isinstance(node, ast.If):
        return
    start = at.starts[node.lineno - 1]
    is_elif = at.source[start:].lstrip().startswith("elif")
    last = node.body[-1].end_lineno
    assert last is not None
    if is_elif or not node.orelse:
        yield Mutation("missing case", start, at.starts[last], "")
    if isinstance(node.test, ast.BoolOp):
        for kept in node.test.values:
            yield Mutation("missing condition", *at.span(node.test), at.text(kept))
