"""A function with a gap, and the answer put into it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import laguna_agent
from laguna_agent.agent.cloze import GAP, LONGEST, clozes, fill
from laguna_agent.agent.hiding import definition, functions

SOURCES = sorted(Path(laguna_agent.__file__).parent.glob("agent/*.py"))

AVERAGE = '''\
def average(values):
    """The mean.

    Of nothing: 0.
    """
    if len(values) < 1:
        return 0
    total = 0
    for value in values:
        total += value
    return total / len(values)
'''
CLASS = """\
class Counter(Base, frozen=True):
    step = 1

    @property
    def next(self):
        if self.step > 1: return self.step
        return (
            self.count + self.step
        )

    def reset(self):
        self.count = 0
"""


def shown_lines(text: str, name: str) -> list[str]:
    """The lines of the function without its docstring; a method's class in the first."""
    found = definition(text, name)
    assert found is not None
    owner, node = found
    start = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    documented = ast.get_docstring(node, clean=False) is not None and node.body[0].lineno > node.lineno
    described = range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1) if documented else range(0)
    source = text.split("\n")
    lines = [source[at - 1] for at in range(start, (node.end_lineno or 0) + 1) if at not in described]
    return [ast.unparse(owner).split("\n")[len(owner.decorator_list)], *lines] if owner else lines


def left_out(lines: list[str], code: str) -> str:
    """What stands among the lines where the cloze has its gap."""
    shown = code.rstrip("\n").split("\n")
    (at,) = (index for index, line in enumerate(shown) if GAP in line)
    assert lines[:at] == shown[:at]
    missing = lines[at : len(lines) - (len(shown) - at - 1)]
    assert lines[at + len(missing) :] == shown[at + 1 :]
    return "\n".join(missing) + "\n"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_what_was_cut_out_fills_the_gap(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in functions(text):
        lines = shown_lines(text, name)
        for code in clozes(text, name):
            missing = left_out(lines, code)
            assert missing.count("\n") <= LONGEST
            assert ast.dump(ast.parse(fill(code, missing) or "")) == ast.dump(ast.parse("\n".join(lines))), (name, code)


def test_the_description_is_not_repeated_and_what_computes_comes_first() -> None:
    first, *others = clozes(AVERAGE, "average")
    assert "The mean" not in first
    assert left_out(shown_lines(AVERAGE, "average"), first) == "    if len(values) < 1:\n"
    assert len(others) == 5
    assert left_out(shown_lines(AVERAGE, "average"), others[0]) == "    return total / len(values)\n"


def test_where_an_exception_passed_comes_first_then_what_is_before() -> None:
    order = [left_out(shown_lines(AVERAGE, "average"), code).strip() for code in clozes(AVERAGE, "average", raised=10)]
    assert order[:3] == ["total += value", "for value in values:", "total = 0"]
    assert order[-1] == "return total / len(values)"


def test_a_method_keeps_its_class_and_its_decorators() -> None:
    inline, last = clozes(CLASS, "Counter.next")
    head = "class Counter(Base, frozen=True):\n    @property\n    def next(self):\n"
    assert inline.startswith(f"{head}        if {GAP}: return {GAP}\n        return (\n")
    assert last == f"{head}        if self.step > 1: return self.step\n        return (\n            {GAP}\n        )\n"
    assert clozes(CLASS, "Counter.reset") == [], "one line alone is asked for by asking for the function"


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("total += -value", "total += ____"),
        ("for value in range(1, 3): pass", "for value in ____: pass"),
        ("while not done(): stop()", "while ____: ____"),
        ("with open(one) as a, open(two): pass", "with ____ as a, ____: pass"),
        ("assert a == b, 'why'", "assert ____, 'why'"),
        ("raise ValueError(a)", "raise ____"),
        ("count: int = len(a)", "count: int = ____"),
        ("é, name = 'é', wrong(a)  # why", "é, name = ____  # why"),
        ("a.sort(b)", "____"),
    ],
)
def test_a_statement_keeps_its_form(statement: str, shown: str) -> None:
    assert f"def f(a, b):\n    {shown}\n    return a\n" in clozes(f"def f(a, b):\n    {statement}\n    return a\n", "f")


@pytest.mark.parametrize(
    "text", ["def broken(:\n", "value = 1\n", "", AVERAGE.replace("\n", "\r"), f"{AVERAGE}# {GAP}"]
)
def test_nothing_where_there_is_no_such_function(text: str) -> None:
    assert clozes(text, "average") == []


@pytest.mark.parametrize(
    "answer",
    [
        "if not values:",
        "    if not values:",
        "if not values:\n    return 0",
        "if not values:\n        return 0\n    total = 0\n",
        "def average(values):\n    if not values:",
        "not values",
    ],
)
def test_an_answer_is_cut_to_what_is_new(answer: str) -> None:
    (code, *_) = clozes(AVERAGE, "average")
    filled = fill(code, answer)
    assert filled == code.replace(GAP, "not values"), filled


def test_the_whole_function_is_taken_as_it_is() -> None:
    whole = "def average(values):\n    text = '''a\n\n    b'''\n\n    return sum(values) / max(1, len(values))\n"
    assert fill(clozes(AVERAGE, "average")[0], whole) == whole


@pytest.mark.parametrize("answer", ["", "\n", GAP, f"if {GAP}:", "The line is wrong.", "if not", "return (", "a\0b"])
def test_what_is_no_sound_code_fills_nothing(answer: str) -> None:
    assert fill(clozes(AVERAGE, "average")[0], answer) is None


def test_code_without_a_gap_is_not_filled() -> None:
    assert fill(AVERAGE, "return 1") is None


def test_lines_that_end_as_on_windows() -> None:
    codes = clozes(AVERAGE.replace("\n", "\r\n"), "average")
    assert [code.replace("\r", "") for code in codes] == clozes(AVERAGE, "average")
