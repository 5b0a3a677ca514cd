"""Code blocks in answers: what is in a block, whose it is, and that nothing unfinished counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.agent.code_blocks import code_blocks

LINE = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="`~\u2028\u2029"), max_size=30)
CODE = st.lists(LINE, min_size=1, max_size=6).map("\n".join).filter(str.strip)
PROSE = st.lists(LINE, max_size=3).map("\n".join)
FENCE = st.sampled_from(["```", "````", "~~~"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[str, list[tuple[str, str]]]:
    """An answer of prose and closed blocks, with (info, code) of each."""
    expected, text = [], draw(PROSE)
    for _ in range(draw(st.integers(0, 4))):
        fence, info, code = draw(FENCE), draw(st.sampled_from(["", "python", "js app.js"])), draw(CODE)
        expected.append((info, code.rstrip() + "\n"))
        text += f"\n{fence}{info}\n{code}\n{fence}\n{draw(PROSE)}"
    return text, expected


@settings(max_examples=60)
@given(answers(), st.booleans())
def test_blocks_come_back_as_they_were_written(answer: tuple[str, list[tuple[str, str]]], complete: bool) -> None:
    text, expected = answer
    found = code_blocks(text, complete=complete)
    assert [(block.info, block.code) for block in found] == expected
    assert all(block.closed for block in found)


@settings(max_examples=60)
@given(answers(), CODE, st.integers(0, 200))
def test_what_is_cut_off_never_counts_as_closed(answer: tuple[str, list[tuple[str, str]]], code: str, cut: int) -> None:
    """However much of the last block has arrived: without its closing fence it is not closed, unless the answer is
    known to be complete."""
    text, expected = answer
    whole = f"{text}\n```python\n{code}"
    torn = whole[: len(whole) - min(cut, len(code))]
    found = code_blocks(torn, complete=False)
    assert [block.closed for block in found[: len(expected)]] == [True] * len(expected)
    assert not any(block.closed for block in found[len(expected) :])
    assert all(block.closed for block in code_blocks(torn, complete=True))


@settings(max_examples=50)
@given(st.text(max_size=300), st.booleans(), st.lists(st.sampled_from(["a.py", "src/b.js", "c.rs"]), max_size=3))
def test_any_text_is_read_without_error(text: str, complete: bool, known: list[str]) -> None:
    for block in code_blocks(text, complete=complete):
        assert block.code.endswith("\n")
        block.path(known)
        block.names()


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("src/app.py\n```python\nx = 1\n```", "src/app.py"),
        ("**app.py**\n```python\nx = 1\n```", "src/app.py"),
        ("```python src/app.py\nx = 1\n```", "src/app.py"),
        ("```python\n# src/app.py\nx = 1\n```", "src/app.py"),
        ("```python\n# File: app.py\nx = 1\n```", "src/app.py"),
        ("new.py:\n```python\nx = 1\n```", "new.py"),
        ("The function in app.py is wrong, as other.py shows:\n```python\nx = 1\n```", "src/app.py"),
        ("Compare it with what other.py does:\n```python\nx = 1\n```", None),
        ("```python\nx = 1\n```", None),
    ],
)
def test_the_file_that_a_block_is(text: str, path: str | None) -> None:
    (block,) = code_blocks(text, complete=True)
    assert block.path(["src/app.py"]) == path


@pytest.mark.parametrize("odd", ["\x0c", "\u2028", "\x0b", "\x85", "\x1c"])
def test_line_ends_that_only_unicode_knows_stay(odd: str) -> None:
    """A form feed between Python functions is no line break, nor is a U+2028 in a string."""
    (block,) = code_blocks(f"```python\na = '{odd}'\n{odd}\nb = 2\n```", complete=True)
    assert block.code == f"a = '{odd}'\n{odd}\nb = 2\n"
