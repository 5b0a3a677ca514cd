"""Draw docs/screens/*.svg: the real program on an emulated terminal, against a scripted model on loopback.

    python scripts/make_screenshots.py [NAME ...]

What the model says is scripted (`screens.py`), everything else is real: the program, its sandbox, the files, the
commands and what they print. Pictures differ from run to run in durations alone. Needs the developers' dependencies.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI, TerminalTheme
from rich.text import Text
from screens import FILES, MODEL, ROOT, SCREENS, Person, Screen

# `screens` makes the tests' emulator and model server importable.
from tests.model_server import ModelServer
from tests.terminal.driving import Chat
from tests.terminal.emulator import Tty

FOLDER = ROOT / "docs" / "screens"
PLACE = Path(tempfile.gettempdir()) / "laguna-screens"
"""Always the same, for its name is in the pictures."""
NAMES = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")
ANSI = {name: number for number, name in enumerate(NAMES)}


@contextmanager
def running(screen: Screen, server: ModelServer) -> Iterator[Person]:
    """The program over a fresh workspace, with somebody to use it."""
    shutil.rmtree(PLACE, ignore_errors=True)
    workspace, home = PLACE / "shop", PLACE / "home"
    home.mkdir(parents=True)
    for name, content in FILES.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(content)
    environment = _environment(home) | server.env | {"LAGUNA_THEME": screen.theme, **MODEL}
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "A shop"]):
        subprocess.run(["git", *command], cwd=workspace, env=environment, check=True)
    tty = Tty(
        [sys.executable, "-m", "laguna_agent", *screen.arguments],
        cwd=workspace,
        env=environment,
        rows=screen.rows,
        columns=screen.columns,
    )
    try:
        yield Chat(tty, workspace).begin()
    finally:
        tty.close()
        shutil.rmtree(PLACE, ignore_errors=True)


def _environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    author = {f"GIT_{who}_{what}": "shop@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    terminal = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
    return kept | author | terminal | {"HOME": str(home), "PYTHONPATH": str(ROOT), "GIT_CONFIG_NOSYSTEM": "1"}


def drawn(tty: Tty) -> list[Text]:
    """The scrollback and the screen with their styles, without blank rows at the end; the cursor as a block."""
    grid = tty.grid
    rows = [*grid.scrolled, *(grid.buffer[y] for y in range(grid.lines))]
    cursor = (len(grid.scrolled) + grid.cursor.y, grid.cursor.x) if tty.modes.cursor_visible else None
    out = []
    for number, row in enumerate(rows):
        text = Text()
        for x in range(grid.columns):
            style = _style(row[x])
            text.append(row[x].data, style + Style(reverse=True) if (number, x) == cursor else style)
        text.rstrip()
        out.append(text)
    while out and not out[-1].plain.strip():
        out.pop()
    return out


def _style(cell: Any) -> Style:
    # The emulator keeps faint as blink.
    return Style(
        color=_colour(cell.fg),
        bgcolor=_colour(cell.bg),
        bold=cell.bold,
        dim=cell.blink,
        italic=cell.italics,
        underline=cell.underscore,
        strike=cell.strikethrough,
        reverse=cell.reverse,
    )


def _colour(name: str) -> Color | None:
    if name == "default":
        return None
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return Color.parse(f"#{name}")
    bright = name.removeprefix("bright").removeprefix("bfight")
    return Color.from_ansi(ANSI[bright] + (8 if bright != name else 0))


def write(screen: Screen, tty: Tty) -> Path:
    """The picture of a terminal."""
    theme: TerminalTheme = DEFAULT_TERMINAL_THEME if screen.theme == "light" else DIMMED_MONOKAI
    console = Console(
        record=True, width=screen.columns, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    for row in drawn(tty):
        console.print(row, no_wrap=True, crop=False, soft_wrap=True)
    path = FOLDER / f"{screen.name}.svg"
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Classes of CSS do not begin with a digit.
    picture = console.export_svg(title=screen.title, theme=theme, unique_id=f"s{screen.name}")
    path.write_text(f"{picture}\n", encoding="utf-8")
    return path


def main() -> int:
    """Draw all of them, or those that are named."""
    for screen in SCREENS:
        if sys.argv[1:] and screen.name not in sys.argv[1:]:
            continue
        server = ModelServer()
        server.reply(*screen.replies)
        try:
            with running(screen, server) as person:
                screen.play(person)
                sys.stdout.write(f"{write(screen, person.tty).relative_to(ROOT)}\n")
        finally:
            server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
