"""The real program in a pseudo-terminal, with the terminal emulated on this side of it.

    tty = Tty([sys.executable, "-m", "laguna_agent"], cwd=..., env=..., rows=24, columns=80)
    tty.wait_for("> ")
    tty.send("hello\\r")
    tty.screen(), tty.history(), tty.modes, tty.cursor

A thread reads what the program writes at once, so that it never waits for us; a test looks at whole frames only. Knows
nothing of what the program shows.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyte

from tests.terminal.grid import Grid
from tests.terminal.sequences import Modes, Token, Tokens, for_pyte

TIMEOUT = 30.0
AFTERWARDS = 5.0
_FLAGS = ("input", "output", "control", "local", "input speed", "output speed", "characters")


class Tty:
    """A program on a pseudo-terminal of its own, which is its controlling terminal.

    Raises AssertionError with the whole screen in it where a wait comes to nothing.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        rows: int = 24,
        columns: int = 80,
        reflow: bool = True,
    ) -> None:
        self.grid = Grid(columns, rows, reflow=reflow)
        self.modes = Modes()
        self.raw = bytearray()
        self.tokens: list[Token] = []
        self._stream = pyte.Stream(self.grid)
        self._reading = Tokens()
        self._master, self._slave = pty.openpty()
        self._say_size(rows, columns)
        self.before = termios.tcgetattr(self._slave)
        self._changed = threading.Condition()
        self._stop_read, self._stop_write = os.pipe()
        # The first terminal that the leader of a new session opens becomes its controlling one.
        name = os.ttyname(self._slave)
        shell = ["/bin/sh", "-c", 'exec <"$0" >"$0" 2>&1 && exec "$@"', name]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*shell, *command], cwd=cwd, env=dict(env), start_new_session=True, stdin=subprocess.DEVNULL
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    # What is seen

    def screen(self) -> list[str]:
        """The rows of the screen from the top, without trailing blanks."""
        with self._changed:
            return self.grid.rows()

    def history(self) -> list[str]:
        """The rows of the scrollback, then those of the screen, without blank ones at the end."""
        with self._changed:
            rows = self.grid.all_rows()
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def text(self) -> str:
        """The screen in one piece."""
        return "\n".join(self.screen()).rstrip()

    @property
    def cursor(self) -> tuple[int, int]:
        """(row, column), from 0."""
        with self._changed:
            return self.grid.cursor.y, self.grid.cursor.x

    @property
    def title(self) -> str | None:
        return self.modes.title

    @property
    def pid(self) -> int:
        return self.process.pid

    # What is done

    def send(self, keys: str | bytes) -> None:
        """Type."""
        data = keys.encode() if isinstance(keys, str) else keys
        while data:
            data = data[os.write(self._master, data) :]

    def paste(self, text: str) -> None:
        """Paste as terminals do: bracketed where the program asked for it, line ends as Enter."""
        text = text.replace("\n", "\r")
        self.send(f"\x1b[200~{text}\x1b[201~" if self.modes.bracketed_paste else text)

    def resize(self, rows: int, columns: int) -> None:
        """Another size; the kernel sends SIGWINCH."""
        with self._changed:
            self.grid.resize(rows, columns)
            self._say_size(rows, columns)

    def signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        self.process.send_signal(number)

    def wait_for(
        self,
        wanted: str | Callable[[Tty], Any],
        timeout: float = TIMEOUT,
        *,
        gone: bool = False,
        where: str = "screen",
        in_frames: bool = False,
    ) -> None:
        """Until `wanted` is on the screen (`where="history"`: or in the scrollback), or no more (`gone`), or until a
        predicate holds. Looks at whole frames only, unless told to look `in_frames` too."""

        def holds() -> bool:
            if self.modes.in_a_frame and not in_frames:
                return False
            if callable(wanted):
                return bool(wanted(self))
            rows = self.grid.rows() if where == "screen" else self.grid.all_rows()
            return (wanted in "\n".join(rows)) != gone

        deadline, ended = time.monotonic() + timeout, False
        with self._changed:
            while not holds():
                left = deadline - time.monotonic()
                over = self.process.poll() is not None and not self._pending()
                if over and callable(wanted):
                    # What a program left behind may still write.
                    over, deadline = False, deadline if ended else min(deadline, time.monotonic() + AFTERWARDS)
                    ended = True
                if (left <= 0 or over) and not holds():
                    why = f"the program ended with {self.process.returncode}" if over else f"{timeout} s passed"
                    raise AssertionError(
                        f"{why} and there was {'still' if gone else 'no'} {wanted!r} in\n{self.frame()}"
                    )
                self._changed.wait(min(left, 0.2))

    def settle(self, quiet: float = 0.15, timeout: float = TIMEOUT) -> None:
        """Until nothing was written for `quiet` seconds: only where there is nothing to wait for by name."""
        deadline = time.monotonic() + timeout
        with self._changed:
            seen = -1
            while seen != len(self.raw) and time.monotonic() < deadline:
                seen = len(self.raw)
                until = time.monotonic() + quiet
                while time.monotonic() < until:
                    self._changed.wait(max(0.0, until - time.monotonic()))

    def wait_exit(self, timeout: float = TIMEOUT) -> int:
        """The exit code, once the program has ended and all it wrote was read."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.frame()}") from None
        with self._changed:
            self._changed.wait_for(lambda: not self._pending(), 5)
        return code

    def close(self) -> None:
        """Kill what still runs in the program's session, and give the terminal back."""
        for end in (lambda: os.killpg(self.process.pid, signal.SIGKILL), self.process.kill):
            with suppress(ProcessLookupError):
                end()
        self.process.wait(10)
        os.write(self._stop_write, b"x")
        self._thread.join(10)
        for descriptor in (self._master, self._slave, self._stop_read, self._stop_write):
            os.close(descriptor)

    # What is left behind

    def left_over(self) -> list[str]:
        """In what the terminal differs from how it was before the program: for the time after its end."""
        now = termios.tcgetattr(self._slave)
        pairs = zip(_FLAGS, self.before, now, strict=True)
        found = [
            f"termios: {name} flags are {after}, were {before}" for name, before, after in pairs if before != after
        ]
        found += self.modes.left_over()
        with self._changed:
            if self._reading.unfinished:
                found.append(f"an unfinished sequence {self._reading.unfinished[:40]!r}")
            if self.grid.cursor.attrs != self.grid.default_char:
                found.append(f"text would be drawn as {self.grid.cursor.attrs}")
            if self.grid.margins is not None:
                found.append(f"a scroll region {self.grid.margins}")
            if self.grid.cursor.x:
                found.append(f"the cursor is in column {self.grid.cursor.x}")
            below = [row for row in self.grid.rows()[self.grid.cursor.y :] if row]
            if below:
                found.append(f"text at or below the cursor: {below}")
        return found

    def frame(self) -> str:
        """The screen with its edges and the cursor, for a person who looks for what went wrong."""
        with self._changed:
            y, x = self.grid.cursor.y, self.grid.cursor.x
            rows = [f"{'>' if number == y else ' '}|{row}" for number, row in enumerate(self.grid.rows())]
            return "\n".join([*rows, f"cursor at row {y}, column {x} of {self.grid.lines}x{self.grid.columns}"])

    # How

    def _say_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _pending(self) -> bool:
        return bool(select.select([self._master], [], [], 0)[0])

    def _read(self) -> None:
        while True:
            ready = select.select([self._master, self._stop_read], [], [])[0]
            if self._stop_read in ready:
                return
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return
            with self._changed:
                self._take(data)
                self._changed.notify_all()

    def _take(self, data: bytes) -> None:
        self.raw += data
        for token in self._reading.feed(data):
            self.tokens.append(token)
            self.modes.note(token)
            words = for_pyte(token)
            if words is not None:
                self._stream.feed(words)
        answers, self.grid.answers = self.grid.answers, []
        for answer in answers:
            os.write(self._master, answer.encode())
