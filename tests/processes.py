"""Processes of commands as the tests see them: told by what they carry, for in a sandbox they have other ids."""

from __future__ import annotations

from pathlib import Path

from laguna_agent.sandbox.processes import MARK, environment


def commands_in(directory: Path) -> set[int]:
    """The ids, in this namespace, of living processes of an agent's commands that work in `directory`."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory and f"{MARK}=".encode() in environment(int(process.name)):
                found.add(int(process.name))
        except OSError:
            # Ended meanwhile, or a zombie.
            continue
    return found


def descendants(pid: int) -> set[tuple[int, str]]:
    """Every living process below `pid`, with when it began: an id alone may soon be another's."""
    children: dict[int, list[tuple[int, str]]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        status = _status(int(process.name))
        if status is not None:
            children.setdefault(int(status[1]), []).append((int(process.name), status[19]))
    found: set[tuple[int, str]] = set()
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += [child for child, _ in below]
    return found


def still_alive(processes: set[tuple[int, str]]) -> set[int]:
    """The ids of those that have not ended."""
    return {pid for pid, born in processes if (status := _status(pid)) and status[19] == born and status[0] not in "ZX"}


def _status(pid: int) -> list[str] | None:
    """From the state on; see proc_pid_stat(5)."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return None
