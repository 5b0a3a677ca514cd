"""Processes of commands as the tests see them: told by what they carry, for in a sandbox they have other ids."""

from __future__ import annotations

from pathlib import Path

from laguna_agent.sandbox.processes import MARK


def commands_in(directory: Path) -> set[int]:
    """The ids, in this namespace, of living processes of an agent's commands that work in `directory`."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory and f"{MARK}=".encode() in (process / "environ").read_bytes():
                found.add(int(process.name))
        except OSError:
            # Ended meanwhile, or a zombie.
            continue
    return found
