"""The guardian of the terminal: programs that are killed while the terminal is in every mode there is."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from tests.processes import descendants, still_alive
from tests.terminal.conftest import StartTty
from tests.terminal.emulator import Tty

MODES = r"\x1b[?25l\x1b[?2004h\x1b[>1u\x1b[>4;2m\x1b[?1003;1006h\x1b[?7l\x1b[?1h\x1b=\x1b[31m\x1b[2;5r\x1b[?2026h"
PROGRAM = textwrap.dedent(
    f"""
    import os, signal, sys, tty
    from laguna_agent.terminal.guardian import guarded_terminal
    with guarded_terminal():
        tty.setraw(0)
        sys.stdout.write("{MODES}a line\\r\\n> input")
        sys.stdout.flush()
        END
        sys.stdin.read(1)
    sys.stdout.write(sys.argv[1].encode().decode("unicode_escape"))
    """
)
UNDO = r"\x1b[?2026l\x1b[r\x1b[?7h\x1b[m\x1b[?1003;1006l\x1b[>4;0m\x1b[<u\x1b[?1l\x1b>\x1b[?2004l\x1b[?25h\r\n"


def guarded(tty: StartTty, end: str) -> Tty:
    return tty(command=[sys.executable, "-c", PROGRAM.replace("END", end), UNDO])


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), 9)", "os.killpg(0, 9)", "os.abort()"])
def test_who_is_killed_leaves_a_terminal_that_can_be_used(tty: StartTty, how: str) -> None:
    shown = guarded(tty, how)
    assert shown.wait_exit() in {-signal.SIGKILL, -signal.SIGABRT}
    shown.wait_for(lambda _: not shown.left_over(), 10, in_frames=True)
    assert shown.screen()[:2] == ["a line", "> input"]
    assert shown.cursor == (2, 0)


def test_a_normal_end_is_none_of_its_business(tty: StartTty) -> None:
    shown = guarded(tty, "")
    shown.wait_for(lambda _: b"> input" in shown.raw, in_frames=True)
    below = descendants(shown.pid)
    assert len(below) == 1
    shown.send("x")
    assert shown.wait_exit() == 0
    assert not still_alive(below)
    assert shown.left_over() == []
    assert bytes(shown.raw).count(b"\x1b[?2004l") == 1


def test_raw_mode_that_an_exception_left_is_taken_back(tty: StartTty) -> None:
    shown = guarded(tty, "raise SystemExit(3)")
    assert shown.wait_exit() == 3
    assert not [each for each in shown.left_over() if each.startswith("termios")]


def test_a_shell_that_has_the_terminal_back_keeps_its_own_modes(tty: StartTty, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.replace("END", ""))
    shown = tty(command=["bash", "--norc", "--noprofile", "-i"], PS1="ready$ ")
    shown.wait_for("ready$")
    shown.send(f"{sys.executable} {script}\r")
    shown.wait_for(lambda _: b"> input" in shown.raw, in_frames=True)
    pid = min(child for child, _ in descendants(shown.pid))
    os.kill(pid, signal.SIGKILL)
    shown.wait_for(lambda _: shown.modes.cursor_visible and not shown.modes.mouse)
    shown.wait_for("ready$")
    shown.send("echo o''k\r")
    shown.wait_for("\nok")
    # Readline's own mode is still there: what was typed stands there once.
    assert shown.text().count("echo") == 1
    assert shown.modes.bracketed_paste
