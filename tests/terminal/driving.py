"""A person at the interactive face: the real program on an emulated terminal, against the scripted model.

chat = start()                      the program, its input line on the screen
chat.ask("hello", "Hi there.")      sends a prompt, waits for what the answer ends with, and for the turn's end
chat.asked(); chat.press("y")       a permission question, and its answer
chat.leave()                        Ctrl-D; the terminal must be as it was, and nothing odd was ever written to it
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.terminal.emulator import Tty

MARK = ">"
RUNS = re.compile(r"\u00b7 (?:\d+ h )?(?:\d+ min )?\d+ (?:s|min)(?: \u00b7 \d+ queued)?$")
"""How the status line ends while a turn runs: how long it has, and what waits."""
USUAL = re.compile(
    r"CSI (?:[\d#;]*m"  # styles
    r"|#?[A-DGK]|#?;?#?H|#?J"  # the cursor and what is erased
    r"|\?#[hl]"  # modes, which are looked at one by one
    r"|>#(?:;#)?[mu]|<#?u|\?u)"  # keys told apart
    r"|ESC [=>78]"
)
MODES = {1, 7, 12, 25, 2004, 2026}
"""Private modes that the face may set: cursor keys, margins, the cursor, pastes, frames."""


class Chat:
    """The program and its person."""

    def __init__(self, tty: Tty, workspace: Path) -> None:
        self.tty = tty
        self.workspace = workspace

    @property
    def status(self) -> str:
        """The status line."""
        return next((row for row in reversed(self.tty.screen()) if row), "")

    @property
    def line(self) -> str:
        """The row that the cursor is in."""
        return self.tty.screen()[self.tty.cursor[0]]

    def at_the_input(self) -> bool:
        """Whether the input line waits for text, and no turn runs."""
        return self.line.startswith(MARK) and self.tty.cursor[1] >= 2 and not RUNS.search(self.status)

    def begin(self) -> Chat:
        """Wait until the session is there and one can type."""
        self.tty.wait_for(lambda _: self.at_the_input() and self.count("sandbox"))
        return self

    def send(self, text: str) -> None:
        """Type a line and press Enter."""
        self.tty.send(text + "\r")

    def ask(self, prompt: str, ends: str) -> None:
        """Send a prompt and wait for the end of its turn, whose answer ends so."""
        self.send(prompt)
        self.tty.wait_for(ends, where="history")
        self.idle()

    def idle(self) -> None:
        """Wait for the end of the turn."""
        self.tty.wait_for(lambda _: self.at_the_input())

    def asked(self, about: str = "? May it") -> None:
        """Wait for a question, and for the moment in which keys that were meant for the input line are over."""
        self.tty.wait_for(about)
        self.tty.wait_for("r  refuse, and say why")
        time.sleep(STILL)

    def press(self, *keys: str) -> None:
        """Type keys, one after the other."""
        for key in keys:
            self.tty.send(key)

    def leave(self, *, code: int = 0) -> None:
        """Ctrl-D. The terminal must be as it was before, and have been sent nothing but what belongs to a face."""
        self.idle()
        # A command that was just sent may not have begun: Ctrl-D would ask whether it is meant.
        self.tty.settle(0.1, 2)
        self.tty.send("\x04")
        self.ended(code)

    def ended(self, code: int = 0) -> None:
        """The program has ended by itself, and left the terminal in order."""
        found = self.tty.wait_exit()
        assert found == code, f"ended with {found}:\n{self.tty.frame()}"
        assert self.tty.left_over() == [], self.tty.frame()
        self.proper()

    def proper(self) -> None:
        """Nothing but the face's own sequences was written: no text of others has become one."""
        odd = sorted(each for each in self.tty.modes.seen if not USUAL.fullmatch(each))
        assert odd == [], odd
        assert self.tty.modes.commands == []
        assert self.tty.modes.title is None
        used = {int(number) for token in self.tty.tokens if token.kind == "csi" for number in _modes(token.value)}
        assert used <= MODES
        assert "".join(token.value for token in self.tty.tokens if token.kind == "control").strip("\r\n\b") == ""

    def count(self, text: str) -> int:
        """How often a text stands in the scrollback and on the screen."""
        return "\n".join(self.tty.history()).count(text)


STILL = 0.65
"""Seconds: a question takes no answer from somebody who was typing until they paused for 0.6."""


def _modes(value: str) -> list[str]:
    found = re.fullmatch(r"\?([\d;]+)[hl]", value)
    return found[1].split(";") if found else []
