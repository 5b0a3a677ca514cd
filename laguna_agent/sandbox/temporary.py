"""The private temporary directories of sessions' commands, which go with their session, however that ends.

A process that is killed removes nothing, so each directory is on record before it is made, by a link in our state whose
name says for which process; the next session that begins removes those of the dead. Knows directories and processes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from laguna_agent.directories import private_directory, state_directory
from laguna_agent.sandbox.placeholders import born

_PREFIXES = ("laguna-agent-", "la-")


def make_temporary(prefix: str = _PREFIXES[0]) -> Path:
    """A new empty directory that only its owner may enter; the shorter prefix is for where every byte of the path
    counts. Raises OSError."""
    path = Path(os.path.realpath(tempfile.gettempdir())) / f"{prefix}{secrets.token_hex(4)}"
    # Where nothing can be kept on record, what a killed session leaves is the system's to clear, as all in there.
    with suppress(OSError):
        private_directory(_folder())
        _sweep()
        _link(path).symlink_to(path)
    path.mkdir(mode=0o700)
    return path


def remove_temporary(path: Path) -> None:
    """Remove one that this process made."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        _link(path).unlink()


def _folder() -> Path:
    return state_directory() / "sandbox" / "temporary"


def _link(path: Path) -> Path:
    return _folder() / f"{os.getpid()}.{born(os.getpid())}.{path.name}"


def _sweep() -> None:
    for link in _folder().iterdir():
        pid, _, rest = link.name.partition(".")
        if not pid.isdigit() or born(int(pid)) == rest.partition(".")[0]:
            continue
        with suppress(OSError):
            _remove(link.readlink())
        with suppress(OSError):
            link.unlink()


def _remove(left: Path) -> None:
    """Only what is as we would have made it, and ours."""
    found = left.lstat()
    if left.name.startswith(_PREFIXES) and stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
        shutil.rmtree(left, ignore_errors=True)
