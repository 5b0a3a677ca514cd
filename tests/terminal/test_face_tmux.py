"""The interactive face in a real tmux: a terminal that nobody here wrote, with a scrollback and a reflow of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.model_server import ModelServer, delay, stream, text, tool_call
from tests.terminal.test_face_resize import LINES, slow_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="no tmux on this machine"),
]


class Tmux:
    """A tmux server of its own, with one window that the program runs in."""

    def __init__(self, folder: Path) -> None:
        self._socket = str(folder / "tmux")

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._socket, "-f", "/dev/null", *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout

    def rows(self) -> list[str]:
        """The scrollback and the screen."""
        return self("capture-pane", "-p", "-S", "-", "-t", "0").rstrip().split("\n")

    def keys(self, *keys: str) -> None:
        self("send-keys", "-t", "0", *keys)

    def wait_for(self, wanted: str | Callable[[list[str]], bool], timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while True:
            rows = self.rows()
            if wanted in "\n".join(rows) if isinstance(wanted, str) else wanted(rows):
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"no {wanted!r} in\n" + "\n".join(rows))
            time.sleep(0.05)

    def ready(self) -> None:
        """Until the input line waits, and no turn runs."""
        self.wait_for(lambda rows: len(rows) > 1 and rows[-2].rstrip() == ">" and "asks" in rows[-1])


@pytest.fixture
def tmux(tmp_path: Path, workspace: Path, model_server: ModelServer) -> Iterator[Tmux]:
    """The program in a tmux of 80 columns and 24 rows."""
    made = Tmux(tmp_path)
    for name, value in model_server.env.items():
        os.environ[name] = value
    made("new-session", "-d", "-x", "80", "-y", "24", "-c", str(workspace), f"{sys.executable} -m laguna_agent; cat")
    yield made
    made("kill-server")
    for name in model_server.env:
        del os.environ[name]


def test_a_turn_and_its_scrollback(tmux: Tmux, model_server: ModelServer, workspace: Path) -> None:
    many = "".join(f"Row {number:03} of many.\n\n" for number in range(40))
    model_server.reply(
        tool_call("write", {"path": "a.py", "content": "x = 1\n"}), text(many + "That is it.", pieces=80)
    )
    tmux.ready()
    tmux.keys("write it", "Enter")
    tmux.wait_for("May it change this?")
    time.sleep(0.7)
    tmux.keys("y")
    tmux.wait_for("That is it.")
    tmux.ready()
    rows = tmux.rows()
    assert [row for row in rows if row.startswith("Row ")] == [f"Row {number:03} of many." for number in range(40)]
    assert (workspace / "a.py").exists()
    tmux.keys("C-d")
    tmux.wait_for(lambda rows: not any(row.startswith(">") for row in rows))


def test_resized_in_mid_stream(tmux: Tmux, model_server: ModelServer) -> None:
    slow_lines(model_server)
    tmux.ready()
    tmux.keys("go", "Enter")
    tmux.wait_for(LINES[1])
    for columns, rows in ((60, 20), (44, 30), (100, 24), (72, 12), (50, 24), (80, 24)):
        tmux("resize-window", "-x", str(columns), "-y", str(rows))
        time.sleep(0.25)
    tmux.wait_for("It ends here.")
    tmux.ready()
    joined = "\n".join(tmux.rows())
    assert [joined.count(line) for line in LINES] == [1] * len(LINES), joined
    assert sum(row.rstrip() == ">" for row in tmux.rows()) == 1, joined
    assert joined.count("asks first") == 1, joined


def test_what_is_open_survives_many_resizes(tmux: Tmux, model_server: ModelServer) -> None:
    model_server.reply(stream(text("A paragraph that goes on " * 12, pieces=30), delay(3), text("and ends here.")))
    tmux.ready()
    tmux.keys("go", "Enter")
    tmux.wait_for("A paragraph")
    for columns in range(80, 30, -7):
        tmux("resize-window", "-x", str(columns), "-y", "24")
        time.sleep(0.3)
    tmux("resize-window", "-x", "80", "-y", "24")
    tmux.wait_for("and ends here.")
    tmux.ready()
    words = " ".join(" ".join(tmux.rows()).split())
    assert words.count("A paragraph that goes on") == 12, "\n".join(tmux.rows())
    assert words.count("asks first") == 1, "\n".join(tmux.rows())
