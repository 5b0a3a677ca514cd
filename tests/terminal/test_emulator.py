"""The emulator itself, held against a small program whose output is known: a check that cannot fail proves nothing."""

from __future__ import annotations

import sys

import pytest

from tests.terminal.conftest import StartTty
from tests.terminal.emulator import Tty
from tests.terminal.grid import Grid
from tests.terminal.sequences import Modes, Token, Tokens, for_pyte

WRITER = [sys.executable, "-c", "import sys; sys.stdout.write(sys.argv[1]); sys.stdout.flush(); sys.stdin.read()"]


def written(tty: StartTty, text: str, **how: int) -> Tty:
    """A terminal with `text` on it."""
    made = tty(command=[*WRITER, text + "\x1b[0m$"], **how)
    made.wait_for("$")
    return made


@pytest.mark.parametrize("split", [1, 2, 7, 1000])
def test_tokens_do_not_depend_on_how_the_bytes_come(split: int) -> None:
    data = "a\x1b[1;31mé\x1b]52;c;aGk=\x07\x1bP1$r0m\x1b\\\x1b[>1u\r\n\x9b3J\x1b7\x1b]8;;http://x\x1b\\z".encode()
    tokens = Tokens()
    found = [token for at in range(0, len(data), split) for token in tokens.feed(data[at : at + split])]
    joined = [(token.kind, token.value) for token in found if token.kind != "text"]
    assert joined == [
        ("csi", "1;31m"),
        ("osc", "52;c;aGk="),
        ("dcs", "1$r0m"),
        ("csi", ">1u"),
        ("control", "\r"),
        ("control", "\n"),
        ("c1", "\x9b"),
        ("esc", "7"),
        ("osc", "8;;http://x"),
    ]
    assert "".join(token.value for token in found if token.kind == "text") == "aé3Jz"
    assert tokens.unfinished == ""


def test_what_pyte_misreads_does_not_reach_it(tty: StartTty) -> None:
    shown = written(
        tty, "one\x1b[s\x1b[5;5H\x1b[>1u\x1b[<u\x1b[=1;2u\x1b[>4;2m\x1b[?2026h\x1b]9;hi\x07\x1b]8;;u\x07two\x1b[?2026l"
    )
    assert shown.screen()[4] == "    two$"
    assert shown.modes.keyboard_pushes == 0
    assert shown.modes.modify_other_keys == 2
    assert shown.modes.frames == 1
    assert shown.modes.commands == ["9;hi", "8;;u"]
    assert not shown.grid.buffer[4][4].underscore


def test_joined_characters_do_not_end_the_text(tty: StartTty) -> None:
    shown = written(tty, "a\u200db\ufe0fc \u65e5\u672c e\u0301 ")
    assert shown.screen()[0] == "a\u200db\ufe0fc \u65e5\u672c \u00e9 $"
    assert shown.cursor == (0, 12)


def test_faint_is_kept_apart_from_the_five_of_a_colour() -> None:
    assert for_pyte(Token("csi", "2;38;5;2;48;2;1;2;5m")) == "\x1b[5;38;5;2;48;2;1;2;5m"
    assert for_pyte(Token("csi", "22m")) == "\x1b[22;25m"
    assert for_pyte(Token("csi", "4:3m")) is None


def test_rows_leave_at_the_top_and_come_back(tty: StartTty) -> None:
    shown = written(tty, "".join(f"row {number}\r\n" for number in range(30)), rows=10)
    assert shown.history()[:-1] == [f"row {number}" for number in range(30)]
    assert shown.screen()[0] == "row 21"
    shown.resize(20, 80)
    assert shown.screen()[0] == "row 11"
    assert shown.cursor == (19, 1)
    shown.resize(5, 80)
    assert shown.history()[:-1] == [f"row {number}" for number in range(30)]


@pytest.mark.parametrize("reflow", [True, False])
def test_a_narrower_screen_wraps_anew_or_cuts(reflow: bool) -> None:
    grid = Grid(20, 5, reflow=reflow)
    grid.draw("0123456789abcdefghij")
    grid.draw("klm")
    grid.linefeed()
    grid.carriage_return()
    grid.draw("\u65e5" * 8)
    grid.resize(5, 7)
    if reflow:
        assert grid.all_rows() == ["0123456", "789abcd", "efghijk", "lm", *["\u65e5" * 3] * 2, "\u65e5" * 2]
        assert (grid.cursor.y, grid.cursor.x) == (4, 4)
        grid.resize(5, 20)
        assert grid.all_rows()[:3] == ["0123456789abcdefghij", "klm", "\u65e5" * 8]
    else:
        assert grid.all_rows()[:3] == ["0123456", "klm", "\u65e5" * 3]


@pytest.mark.parametrize(
    ("written_before", "named"),
    [
        ("\x1b[?25l", "the cursor is hidden"),
        ("\x1b[?2004h", "bracketed paste on"),
        ("\x1b[?1049h", "the alternate screen on"),
        ("\x1b[?1000;1006h", "mouse reports on"),
        ("\x1b[>1u", "a keyboard protocol is pushed"),
        ("\x1b[?7l", "no automatic margins"),
        ("\x1b[2 q", "the cursor has shape 2"),
        ("\x1b[?2026h", "an open frame on"),
    ],
)
def test_what_is_left_behind_is_named(written_before: str, named: str) -> None:
    modes = Modes()
    assert modes.left_over() == []
    for token in Tokens().feed(written_before.encode()):
        modes.note(token)
    assert modes.left_over() == [named]


def test_a_terminal_in_raw_mode_is_named(tty: StartTty) -> None:
    child = "import sys, tty; tty.setraw(0); print('raw', end='', flush=True); sys.stdin.read(1)"
    shown = tty(command=[sys.executable, "-c", child])
    shown.wait_for("raw")
    shown.send("x")
    assert shown.wait_exit() == 0
    found = " ".join(shown.left_over())
    assert "termios: local flags" in found
    assert "column 3" in found


def test_a_wait_that_comes_to_nothing_shows_the_screen(tty: StartTty) -> None:
    shown = written(tty, "hello")
    with pytest.raises(AssertionError, match=r"no 'bye' in\n>\|hello\$"):
        shown.wait_for("bye", 0.1)


def test_the_program_asks_where_the_cursor_is(tty: StartTty) -> None:
    child = (
        "import sys, tty; tty.setcbreak(0); sys.stdout.write('ab\\x1b[6n'); sys.stdout.flush();"
        "answer = sys.stdin.read(6); print(repr(answer), flush=True); sys.stdin.read(1)"
    )
    shown = tty(command=[sys.executable, "-c", child])
    shown.wait_for(r"'\x1b[1;3R'")
