"""Screens kept as readable text files, so that a change of what people see is a change in the repository.

    check("first_screen", tty.history(), workspace=...)

`UPDATE_SNAPSHOTS=1` writes them anew; otherwise a difference fails with a diff. What differs from run to run (ids,
times, paths, ports, the version) is replaced first, by something of the same kind.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from laguna_agent import __version__

FOLDER = Path(__file__).with_name("snapshots")
_VOLATILE = (
    (re.compile(r"\b\d{8}-\d{6}-[0-9a-f]{4,}\b"), "SESSION"),
    (re.compile(r"\b127\.0\.0\.1:\d{2,5}\b"), "127.0.0.1:PORT"),
    (re.compile(r"^  ! there is no sandbox here: .*\n", re.MULTILINE), ""),
    # The path of the workspace is among what is counted.
    (re.compile(r"about [\d,]+ tokens"), "about N tokens"),
    (re.compile(r"^([stwymr]  \S.*?) +[\d,]+ +\d+%$", re.MULTILINE), r"\1  N"),
    (re.compile(r"^[stwymr]{20,}$", re.MULTILINE), "BAR"),
    # How long something took is shown from a second on, and may be what a row was wrapped for.
    (re.compile(r" \u00b7\s(?:took )?(?:\d+ min )?\d+(?:\.\d+)?\sm?s\b"), ""),
    (re.compile(r" \u00b7 (?:sandbox:? (?:bubblewrap|landlock|seatbelt|none)|no sandbox)\b"), ""),
    (re.compile(r"^(?:took )?\d+(?:\.\d+)? s\n\n", re.MULTILINE), ""),
    (re.compile(re.escape(__version__)), "VERSION"),
)


def normalised(rows: Sequence[str], workspace: Path | None = None) -> str:
    """The rows as one text, without trailing blanks and blank rows at the end, and without what changes."""
    text = "\n".join(_greeted([row.rstrip() for row in rows])).rstrip() + "\n"
    if workspace is not None:
        for path, name in ((workspace, "/WORKSPACE"), (workspace.parent / "home", "/HOME"), (workspace.parent, "/TMP")):
            text = text.replace(str(path), name)
    for pattern, word in _VOLATILE:
        text = pattern.sub(word, text)
    return text


def _greeted(rows: list[str]) -> list[str]:
    """The rows with the greeting on one: the workspace's path has another length in each run, and a machine its own
    sandbox."""
    if not rows[0].startswith("laguna-agent "):
        return rows
    # Between any two of these words there may be the end of a row, before the blank or behind it.
    ends = (number for number in range(1, 9) if " ".join(" ".join(rows[:number]).split()).endswith("; /help for help"))
    end = next(ends, 1)
    model = rows[0].split()[2]
    if end < len(rows) and rows[end].startswith("sandbox: "):
        end = next(number for number, row in enumerate(rows) if number > end and not re.match(r"\w", row))
    return [f"laguna-agent {__version__}: {model} in /WORKSPACE; /help for help", *rows[end:]]


def check(name: str, rows: Sequence[str], workspace: Path | None = None, *, exact: bool = False) -> None:
    """Hold the rows against `snapshots/NAME.txt`; `exact` ones come from no run of the program, so nothing differs."""
    path = FOLDER / f"{name}.txt"
    now = "".join(f"{row.rstrip()}\n" for row in rows) if exact else normalised(rows, workspace)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(now, encoding="utf-8")
        return
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    if kept != now:
        lines = difflib.unified_diff(kept.splitlines(), now.splitlines(), f"{name}.txt", "now", lineterm="")
        told = "UPDATE_SNAPSHOTS=1 writes it anew, where this is meant"
        pytest.fail("\n".join([f"the screen is not what {path.name} shows; {told}", *lines]), pytrace=False)
