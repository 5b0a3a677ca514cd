"""Cards of single calls: what is shown at once, what is folded, and that a card says what it folds."""

from __future__ import annotations

import pytest

from laguna_agent.agent.events import ToolCallUpdate
from laguna_agent.messages import FileDiff, TextBlock, ToolKind
from laguna_agent.terminal.cards import Call, ended_lines
from laguna_agent.terminal.theme import THEMES
from tests.terminal.scenes import AFTER, BEFORE, plain

THEME = THEMES["mono"]


def over(text: str = "", status: str = "completed", **facts: object) -> ToolCallUpdate:
    content = (TextBlock(text),) if text else ()
    return ToolCallUpdate("1", status, content=content, **facts)  # type: ignore[arg-type]


def card(kind: ToolKind, title: str, update: ToolCallUpdate | None, width: int = 60) -> tuple[list[str], list[str]]:
    """The card, and what unfolding it gives."""
    rows, fold = ended_lines(Call("1", "t", kind, title, over=update), width, THEME)
    return plain(rows), plain(fold(width, THEME)) if fold else []


@pytest.mark.parametrize(
    ("text", "below"),
    [
        ("(no output)\n[exit code 0]", []),
        ("one\n[exit code 0]", ["  │ one"]),
        ("one\ntwo\n[exit code 0]", ["  │ one", "  │ two"]),
        ("one\ntwo\nthree\n[exit code 0]", ["  … 3 lines (ctrl-o unfolds)"]),
    ],
)
def test_a_command_that_went_well_says_little(text: str, below: list[str]) -> None:
    rows, _ = card("execute", "$ x", over(text, exit_code=0, seconds=0.04, sandbox="none"))
    assert rows == ["● $ x · exit 0 · 0.0 s · sandbox: none", *below]


def test_a_command_that_failed_shows_its_end_and_a_tool_its_beginning() -> None:
    text = "\n".join(map(str, range(9)))
    rows, unfolded = card("execute", "$ x", over(text, exit_code=1))
    assert rows[1:] == ["  … 4 more lines (ctrl-o unfolds)", *(f"  │ {each}" for each in range(4, 9))]
    assert unfolded == ["$ x", *(f"  {each}" for each in range(9))]
    rows, _ = card("edit", "Edit x", over(text, "failed"))
    assert rows == ["● Edit x · failed", *(f"  │ {each}" for each in range(5)), "  … 4 more lines (ctrl-o unfolds)"]


def test_a_command_that_is_cut_can_be_unfolded() -> None:
    command = "$ " + " && ".join(f"step-{number}" for number in range(20))
    rows, unfolded = card("execute", command, over(exit_code=0))
    assert rows == ["● $ step-0 && step-1 && step-2 && step-3 && step-4… · exit 0"]
    assert "".join(row.strip() for row in unfolded).replace(" ", "") == command.replace(" ", "")
    refused = Call("1", "t", "execute", command, denied="no", over=over("Denied: no.", "failed"))
    rows_, fold = ended_lines(refused, 60, THEME)
    assert plain(rows_)[0].endswith("… · denied: no")
    assert fold is not None


def test_what_changed_stands_below_and_what_nothing_else_says() -> None:
    update = over("Edited x.py, line 2.\nThis brought a syntax error.", diffs=(FileDiff("x.py", BEFORE, AFTER),))
    rows, unfolded = card("edit", "Edit x.py", update)
    assert rows[0] == "● Edit x.py · +1 −1"
    assert "    2 +     return a + b" in rows
    assert rows[-1] == "  │ This brought a syntax error."
    assert unfolded == []


def test_a_long_change_is_folded_and_unfolded() -> None:
    rows, unfolded = card("edit", "Write x", over(diffs=(FileDiff("x", None, "line\n" * 90),)))
    assert rows[0] == "● Write x · +90 · new file"
    assert rows[-1] == "  … 30 more lines (ctrl-o unfolds)"
    assert len(unfolded) == 91


def test_files_that_a_command_changed_are_named() -> None:
    diffs = (FileDiff("a", "x\n", "y\n"), FileDiff("b", "x\n", None))
    rows, _ = card("execute", "$ sed", over("(no output)\n[exit code 0]", exit_code=0, diffs=diffs))
    assert rows == [
        "● $ sed · exit 0",
        *("a  +1 −1", " 1    - x", "    1 + y"),
        *("b (deleted)  −1", " 1    - x"),
    ]


def test_a_narrow_screen_has_the_facts_below() -> None:
    rows, _ = card("execute", "$ pytest -q", over(exit_code=1, seconds=3.2, sandbox="bubblewrap"), 30)
    assert rows == ["● $ pytest -q", "  exit 1 · 3.2 s · sandbox:", "  bubblewrap"]
