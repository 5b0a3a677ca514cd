"""An edit lands where it is meant, or nowhere."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.errors import ToolError
from laguna_agent.tools.matching import locate


def edited(text: str, old: str, new: str, *, replace_all: bool = False) -> tuple[str, str]:
    match = locate(text, old, new, replace_all=replace_all)
    parts, done = [], 0
    for span in match.spans:
        parts += [text[done : span.start], span.new]
        done = span.end
    return "".join(parts) + text[done:], match.note


SOURCE = """\
class A:
    def f(self, x):
        if x:
            return "one"
        return 'two'

    def g(self):
        return "one"
"""


def test_exact() -> None:
    assert edited(SOURCE, "'two'", "'2'") == (SOURCE.replace("'two'", "'2'"), "")


def test_several_places_are_named() -> None:
    with pytest.raises(ToolError, match=r"there 2 times, at lines 4, 8\."):
        locate(SOURCE, 'return "one"', "x")
    assert edited(SOURCE, '"one"', "1", replace_all=True)[0].count("return 1") == 2
    with pytest.raises(ToolError, match=r"there 50 times, at lines 1, 2, .*, 10 and 40 more\."):
        locate("a\n" * 50, "a", "b")


def test_other_indentation_is_fitted() -> None:
    old = "if x:\n    return \"one\"\nreturn 'two'"
    new = "if x:\n    y = x\n    if y:\n        return \"one\"\nreturn 'two'"
    result, note = edited(SOURCE, old, new)
    assert (
        "        if x:\n            y = x\n            if y:\n                return \"one\"\n        return 'two'\n"
        in result
    )
    assert "ignoring indentation it is lines 3-5" in note
    assert "indented to fit" in note


def test_tabs_stay_tabs() -> None:
    text = SOURCE.replace("    ", "\t")
    old = '        if x:\n            return "one"\n'
    new = '        if x:\n            while x:\n                return "one"\n'
    assert '\t\tif x:\n\t\t\twhile x:\n\t\t\t\treturn "one"\n' in edited(text, old, new)[0]


def test_a_step_of_two_stays_two() -> None:
    text = "function f() {\n  if (a) {\n    b();\n  }\n}\n"
    old = "    if (a) {\n        b();\n    }"
    new = "    if (a) {\n        if (b) {\n            c();\n        }\n    }"
    assert edited(text, old, new)[0] == "function f() {\n  if (a) {\n    if (b) {\n      c();\n    }\n  }\n}\n"


def test_aligned_lines_do_not_count_as_a_step() -> None:
    text = "class A:\n    def f(self):\n        return 1\n"
    new = "def f(self,\n      a):\n    return a"
    assert edited(text, "def f(self):\n    return 1", new)[0] == (
        "class A:\n    def f(self,\n          a):\n        return a\n"
    )


def test_lookalikes_and_trailing_space() -> None:
    text = "say(\u201chi\u201d)  \nx\u00a0= 1 \u2013 2\n"
    assert edited(text, 'say("hi")\nx = 1 - 2', 'say("ho")\nx = 1 - 2')[0] == 'say("ho")\nx\u00a0= 1 \u2013 2\n'


def test_part_of_a_line() -> None:
    text = "a = f( x,  \u2018y\u2019 )  # note\nb = 1\n"
    result, note = edited(text, "f( x, 'y' )", "g(x)")
    assert result == "a = g(x)  # note\nb = 1\n"
    assert "line 1" in note


def test_what_old_and_new_share_keeps_the_file_s_own_text() -> None:
    text = "a = \u201cq\u201d   \nb = 2\nc = 3\n"
    assert edited(text, 'a = "q"\nb = 2', 'a = "q"\nb = 5')[0] == "a = \u201cq\u201d   \nb = 5\nc = 3\n"


def test_whole_lines_can_be_deleted() -> None:
    assert edited("a\n  b  \nc\n", "b\n", "")[0] == "a\nc\n"
    assert edited("x\n\tif a:\n\t\tb\ny\n", "  if a:\n    b\n", "")[0] == "x\ny\n"
    assert edited("x\n\tif a:\n\t\tb", "  if a:\n    b\n", "")[0] == "x"


def test_a_near_match_must_be_unique() -> None:
    with pytest.raises(ToolError, match=r"ignoring indentation it is at 2 places, lines 1, 4"):
        locate(" if a:\n  b\nx\n  if a:\n   b\n", "    if a:\n        b", "c", replace_all=True)


def test_line_numbers_of_read_are_forgiven() -> None:
    result, note = edited(
        SOURCE, '7\t    def g(self):\n8\t        return "one"', "7\t    def g(self):\n8\t        return 1"
    )
    assert result == SOURCE[::-1].replace('"one"'[::-1], "1", 1)[::-1]
    assert "line numbers" in note


def test_an_edit_that_is_done_is_recognised() -> None:
    with pytest.raises(ToolError, match="already is, at line 5: this edit seems to be done"):
        locate(SOURCE, "return 'three'", "return 'two'")


def test_the_closest_region_is_shown() -> None:
    with pytest.raises(ToolError) as caught:
        locate(SOURCE, "    def f(self, y):\n        if y:\n            return 1", "x")
    words = str(caught.value)
    assert "Closest are lines 2-4:\n1\tclass A:\n2\t    def f(self, x):\n" in words
    assert "The first difference is in line 2: the file has '    def f(self, x):'" in words
    with pytest.raises(ToolError, match="Nothing in its 9 lines is like it"):
        locate(SOURCE, "zzzz\nqqqq\nwwww", "x")


def test_the_search_is_quick_in_a_long_file() -> None:
    lines = [
        f"    value_{number} = compute_{number % 97}(argument_{number % 13}, {number})" for number in range(10_000)
    ]
    old = "\n".join(lines[7000:7020]).replace("compute_", "computed_")
    started = time.perf_counter()
    with pytest.raises(ToolError, match="Closest are lines 7001-7020"):
        locate("\n".join(lines), old, "x")
    assert time.perf_counter() - started < 3


def test_senseless_arguments() -> None:
    with pytest.raises(ToolError, match="`old` is empty"):
        locate("a", "", "b")
    with pytest.raises(ToolError, match="are the same"):
        locate("a", "a", "a")
    with pytest.raises(ToolError, match="not in the file"):
        locate("", "a", "b")
    with pytest.raises(ToolError, match="not in the file"):
        locate("a\n", "\n\n\n", "b")


PIECES = st.lists(st.sampled_from(["a", "b", "  a", "\ta", "if a:", "    b", "", "\u201ca\u201d", '"a"']), max_size=8)


@given(PIECES, PIECES, PIECES, st.booleans())
def test_nothing_but_the_match_is_touched(before: list[str], old: list[str], after: list[str], squeeze: bool) -> None:
    text = "\n".join([*before, *old, *after])
    piece = "\n".join(line.strip() if squeeze else line for line in old)
    try:
        match = locate(text, piece, "NEW")
    except ToolError:
        return
    assert len(match.spans) == 1
    span = match.spans[0]
    found = text[span.start : span.end]
    # What was replaced is what was asked for, whitespace and look-alikes aside.
    assert _bare(found) == _bare(piece)
    assert span.new.strip() == "NEW"


def _bare(text: str) -> str:
    return "".join(text.replace("\u201c", '"').replace("\u201d", '"').split())
