"""What a change of a long file tells of it: enough to see the change, and no more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.tools.change import AROUND, WHOLE, excerpts

LONG = "".join(f"line {number} of a long file\n" for number in range(6_000))
LINES = ("x\n", "line 7 of a long file\n", "\n")


def test_a_short_text_stays_whole() -> None:
    assert excerpts("a\nb\n", "a\nc\n") == ("a\nb\n", "a\nc\n", 1)


def test_one_line_of_a_long_file() -> None:
    old, new, line = excerpts(LONG, LONG.replace("line 3000 ", "row 3000 "))
    assert len(LONG) > WHOLE
    assert len(old.splitlines()) == len(new.splitlines()) == 2 * AROUND + 1
    assert old.replace("line 3000 ", "row 3000 ") == new
    assert old in LONG
    assert LONG.splitlines()[line - 1] == old.splitlines()[0]


@settings(max_examples=25)
@given(
    st.integers(0, 6_000),
    st.integers(0, 90),
    st.lists(st.sampled_from(LINES), max_size=90),
)
def test_the_rest_is_the_same_in_both(at: int, gone: int, come: list[str]) -> None:
    lines = LONG.splitlines(keepends=True)
    after = "".join([*lines[:at], *come, *lines[at + gone :]])
    old, new, line = excerpts(LONG, after)
    before, _, behind = LONG.partition(old)
    assert before + old + behind == LONG
    assert before.count("\n") == line - 1
    assert after.startswith(before)
    assert after.endswith(behind)
    assert len(old.splitlines()) <= gone + 2 * AROUND
    assert len(new.splitlines()) <= len(come) + 2 * AROUND
