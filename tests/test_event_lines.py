"""Events as lines: nothing steers the terminal, nothing that is granted is hidden."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from laguna_agent.agent.events import PermissionRequested, Steered, ToolCallUpdate
from laguna_agent.agent.permissions import PermissionAnswer, options
from laguna_agent.event_lines import (
    DIFF_LINES,
    answer_to,
    diff_lines,
    ended_line,
    one_line,
    printable,
    question_lines,
    steered_line,
)
from laguna_agent.messages import FileDiff, ImageBlock, TextBlock
from laguna_agent.tools.base import Need


def ask(command: str) -> PermissionRequested:
    need = Need("execute", command)
    return PermissionRequested("1", f"$ {command}", "execute", {"command": command}, options(need))


@given(st.text(st.characters(codec="utf-8"), max_size=50))
@example("a\r\r\nb")
def test_printable_keeps_text_and_drops_what_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert not any(ord(each) < 32 and each not in "\t\n" for each in shown)
    assert not any(0x7F <= ord(each) <= 0x9F for each in shown)
    assert printable(shown) == shown


@given(st.text(max_size=300), st.integers(1, 80))
def test_one_line_is_one_line_of_the_limit(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert len(shown) <= limit
    assert len(shown.splitlines()) <= 1


def test_what_was_said_into_a_turn_is_shown_whole() -> None:
    line = steered_line(Steered("use \x1b[2J tabs\nhere", (ImageBlock("image/png", "AA=="),)))
    assert line == "you: use \\u{1B}[2J tabs\nhere [1 image]"


def test_a_question_shows_the_whole_command_line_by_line() -> None:
    command = "echo harmless" + " " * 3000 + "\nrm -rf important"
    lines = question_lines(ask(command))
    assert lines[0].startswith("? $ echo harmless")
    assert lines[1] == "  rm -rf important"
    always = next(line for line in lines if line.startswith("  [a]"))
    assert always.endswith("rm -rf important")
    assert " \N{DOWNWARDS ARROW WITH CORNER LEFTWARDS} rm" in always


def test_a_question_shows_the_parts_and_what_is_unusual_cleaned() -> None:
    need = Need("execute", "ls; $x")
    parts, unusual = ("ls", "rm '\x1b[2Ja\nb'"), ("wants the network", "not certain: \u202ex")
    lines = question_lines(
        PermissionRequested("1", "$ ls", "execute", {}, options(need, parts), parts=parts, unusual=unusual)
    )
    at = lines.index("  it runs:")
    assert lines[at + 1 : at + 5] == [
        "  - ls",
        "  - rm '\\u{1B}[2Ja \N{DOWNWARDS ARROW WITH CORNER LEFTWARDS} b'",
        "  ! wants the network",
        "  ! not certain: \\u{202E}x",
    ]
    assert not any(each in "".join(lines) for each in "\x1b\u202e")
    alone = PermissionRequested("1", "$ ls", "execute", {}, options(need), parts=("ls",))
    assert "  it runs:" not in question_lines(alone)


def test_a_question_about_an_edit_shows_what_it_would_change() -> None:
    need = Need("write", "a.py")
    given_input = {"path": "a.py", "old": "x = 1", "new": "x = 2"}
    lines = question_lines(PermissionRequested("1", "Edit a.py", "edit", given_input, options(need)))
    assert "-x = 1" in lines
    assert "+x = 2" in lines


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("y\n", (True, False)),
        (" YES ", (True, False)),
        ("a", (True, True)),
        ("always", (True, True)),
        ("n", (False, False)),
        ("x", (False, True)),
        ("", None),
        ("yy", None),
        ("allow_once", None),
    ],
)
def test_answers(typed: str, answer: tuple[bool, bool] | None) -> None:
    given_answer = answer_to(typed, ask("ls"))
    assert (given_answer and (given_answer.allowed, given_answer.remember)) == answer


def test_an_answer_that_was_not_offered_is_none() -> None:
    request = PermissionRequested("1", "x", "execute", {}, options(Need("execute", "x"))[:1])
    assert answer_to("a", request) is None
    assert answer_to("y", request) == PermissionAnswer(True)


def test_long_diffs_are_cut_and_say_so() -> None:
    diff = FileDiff("a", None, "".join(f"{n}\n" for n in range(500)))
    lines = list(diff_lines(diff))
    assert lines[:2] == ["--- /dev/null", "+++ b/a"]
    assert len(lines) == DIFF_LINES + 1
    assert lines[-1] == f"... {500 + 3 - DIFF_LINES} more lines"


def test_a_failed_call_says_what_went_wrong() -> None:
    update = ToolCallUpdate("1", "failed", content=(TextBlock("no such\nfile"),), exit_code=2, seconds=0.25)
    assert ended_line(update, "$ cat x") == "failed: $ cat x (exit 2, 0.2 s): no such file"
