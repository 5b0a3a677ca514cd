"""A failing check's output in few plain words, for a model that reads slowly and takes `6 != 5` the wrong way round.

Knows how unittest, pytest and tracebacks look; of any other output the tail is kept. Pure text.
"""

from __future__ import annotations

import ast
import re

FAILURES, LINE = 3, 200
"""Failures that are told, and characters of a line of them."""
_ERROR = re.compile(r"^E  +\S.*|^\s*[\w.]*(Error|Exception|Failure|panicked)\b.*|.*\berror(\[\w+\])?: .*")
_NOISE = re.compile(
    r"^[=\-_.^~\s*|]*$|^[=_-]{3,} .* [=_-]{3,}$|^Ran \d+ tests?\b|^[.FEsx]+( +\[ *\d+%\])?$"
    r"|^Traceback |^\s*File \"|^(FAIL|ERROR|FAILED|OK)\b|^\d+ (failed|passed)\b"
)
_EQUAL = re.compile(r"assert(?!Not)[A-Za-z]*Equals?")
_UNEQUAL = re.compile(r"^(?:E\s+)?(?:AssertionError: |assert )(?:\w+ differ: )?(?P<got>.+?) (?:!=|==) (?P<want>.+)$")


def distill(output: str, limit: int) -> str:
    """A check's output in at most about `limit` characters: the first few failures, each as what an expression gives
    and must give, or as the source line that failed with its error below; else the output's tail without rulers, paths
    and progress dots."""
    lines = [line.rstrip() for line in output.splitlines() if not _NOISE.match(line)]
    failures: dict[str, None] = {}
    for before, line in zip(["", *lines], lines, strict=False):
        if _ERROR.match(line) and not _ERROR.match(before):
            failures[_told(before.strip(), line.strip())] = None
    told = "\n".join([*failures][:FAILURES])
    if told and len(told) <= limit:
        return told
    tail = "\n".join(lines)
    return tail if len(tail) <= limit else "…" + tail[-limit:]


def _told(source: str, error: str) -> str:
    asked = _comparison(source.removeprefix(">").strip())
    unequal = _UNEQUAL.match(error)
    if asked and unequal:
        return f"{_clip(asked[0])} gives {_clip(unequal['got'])} but must give {_clip(asked[1])}"
    return "\n    ".join(_clip(part) for part in (source, error) if part)


def _comparison(source: str) -> tuple[str, str] | None:
    """The two sides of an assertion of equality; None where the line is no such assertion."""
    try:
        (statement,) = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    if isinstance(statement, ast.FunctionDef):
        statement = statement.body[-1]
    match statement:
        case ast.Expr(ast.Call(ast.Attribute(attr=name), [got, want, *_])) if _EQUAL.fullmatch(name):
            return ast.unparse(got), ast.unparse(want)
        case ast.Assert(ast.Compare(got, [ast.Eq()], [want])):
            return ast.unparse(got), ast.unparse(want)
    return None


def _clip(text: str) -> str:
    """The text, or its beginning where it is long: two lists that differ need not be shown whole."""
    return text if len(text) <= LINE else f"{text[:LINE]}…"
