"""What a small model is asked next, and in which order."""

from __future__ import annotations

from laguna_agent.agent.cloze import GAP
from laguna_agent.agent.strategies import FIRST, LAST, plan

CALLER = "from helping import helper\n\n\ndef wanted(n):\n    n = n + 1\n    return helper(n)\n"
HELPER = "def helper(n):\n    half = n / 2\n    other = int('-')\n    return half + other\n"
RAISED = """\
Traceback (most recent call last):
  File "/project/test_wanted.py", line 9, in test_1
  File "/project/wanted.py", line 6, in wanted
  File "/project/helping.py", line 3, in helper
ValueError: invalid literal for int() with base 10: '-'
"""


def gaps(texts: list[str], output: str) -> list[tuple[str, str]]:
    """The function and the line with the gap of each try that has one."""
    tries = [each for each in plan(texts, "Fix `wanted(1)`.", output, whole=False) if each.code]
    return [(each.functions[0], next(line.strip() for line in each.code.split("\n") if GAP in line)) for each in tries]


def test_the_function_that_raised_and_its_line_come_first() -> None:
    found = gaps([CALLER, HELPER], RAISED)
    assert found[:3] == [("helper", f"other = {GAP}"), ("helper", f"half = {GAP}"), ("helper", f"return {GAP}")]
    assert ("wanted", f"return {GAP}") in found


def test_without_an_exception_the_called_one_is_suspected_first() -> None:
    assert [name for name, _ in gaps([CALLER, HELPER], "1 != 2")] == ["helper"] * 3 + ["wanted"] * 2


def test_gaps_are_bounded_and_leave_room_for_other_tries() -> None:
    text = "def wanted(n):\n" + "".join(f"    n += {each}\n" for each in range(40)) + "    return n\n"
    tries = plan([text], "Fix `wanted`.", "1 != 2", whole=False)
    assert len([each for each in tries if each.code]) == LAST
    assert [each.name for each in tries][: FIRST + 3] == ["anew", *["gap"] * FIRST, "again", "why"]


def test_what_is_no_python_has_no_gaps() -> None:
    assert gaps(["fn wanted() {}\n"], "error") == []
    assert not any(each.code for each in plan([HELPER], "Fix it.", "1 != 2", whole=True))
