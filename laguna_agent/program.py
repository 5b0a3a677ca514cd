"""Which file a program's name stands for, and how to start this one again where there is no shell's PATH."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

NAME = "laguna-agent"
STANDARD_PATH = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/homebrew/bin")


def own_command() -> list[str]:
    """The program's absolute command line, without arguments: the console script, or this Python and its module.

    The script is the one that was started, else the one beside this Python. `-P` keeps Python from importing modules
    out of the directory in which an editor happens to start it.
    """
    started = Path(sys.argv[0]).absolute()
    for script in (started, Path(sys.executable).with_name(NAME)):
        if script.name == NAME and script.is_file() and os.access(script, os.X_OK):
            return [str(script)]
    return [sys.executable, "-P", "-m", "laguna_agent"]


def find_program(
    name: str, workspace: Iterable[Path] = (), *, first: tuple[str, ...] = (), last: tuple[str, ...] = STANDARD_PATH
) -> str | None:
    """The absolute path of a program, looked for in `first`, on PATH, then in `last`; None where there is none.

    No entry of PATH counts that is relative, for it means something else in every directory, or that leads into the
    workspace, where whoever wrote it chose the programs.
    """
    if Path(name).is_absolute():
        return name if os.access(name, os.X_OK) else None
    roots = [Path(os.path.realpath(root)) for root in workspace]
    for entry in (*first, *os.environ.get("PATH", "").split(os.pathsep), *last):
        candidate = Path(entry) / name
        if not Path(entry).is_absolute() or not candidate.is_file() or not os.access(candidate, os.X_OK):
            continue
        places = (Path(os.path.realpath(entry)), Path(os.path.realpath(candidate)))
        if entry in first or not any(place.is_relative_to(root) for place in places for root in roots):
            return str(candidate)
    return None
