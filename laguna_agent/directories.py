"""Where the program keeps its own files (XDG base directories); nothing of it ever lies in a workspace. Conversations
and logs are for their owner alone: 0600 in 0700, whatever the umask, and tightened where an older version was laxer.

config  user configuration      $XDG_CONFIG_HOME/laguna-agent   (~/.config/laguna-agent)
state   session logs, reports   $XDG_STATE_HOME/laguna-agent    (~/.local/state/laguna-agent)
data    model weights           $XDG_DATA_HOME/laguna-agent     (~/.local/share/laguna-agent)
cache   whatever may be lost    $XDG_CACHE_HOME/laguna-agent    (~/.cache/laguna-agent)
"""

from __future__ import annotations

import os
from pathlib import Path

_OWNERS_FILE = 0o600
_OWNERS_DIRECTORY = 0o700


def _directory(variable: str, fallback: str) -> Path:
    base = os.environ.get(variable, "")
    # The XDG specification: a relative path in the variable is invalid and must be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / fallback
    return root / "laguna-agent"


def config_directory() -> Path:
    """User configuration; holds `config.toml`."""
    return _directory("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path:
    """Session logs, and reports of bugs."""
    return _directory("XDG_STATE_HOME", ".local/state")


def data_directory() -> Path:
    """Model weights."""
    return _directory("XDG_DATA_HOME", ".local/share")


def cache_directory() -> Path:
    """Spooled command output, server logs, and packed models."""
    return _directory("XDG_CACHE_HOME", ".cache")


def private_directory(path: Path) -> None:
    """Make the directory, with its parents, so that only its owner may enter; one that lets others in is closed to
    them, as long as it lies in one of ours. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=_OWNERS_DIRECTORY)
    for at in (path, *path.parents):
        if not any(at.is_relative_to(ours) for ours in (state_directory(), cache_directory())):
            return
        mode = at.stat().st_mode
        if mode & 0o077 and at.stat().st_uid == os.geteuid():
            at.chmod(mode & 0o7700)


def open_private(path: str | Path, flags: int) -> int:
    """The descriptor of a file that only its owner may read or write; one that others may is closed to them. Raises
    OSError."""
    handle = os.open(path, flags | os.O_CLOEXEC, _OWNERS_FILE)
    try:
        if os.fstat(handle).st_mode & 0o077:
            os.fchmod(handle, _OWNERS_FILE)
    except BaseException:
        os.close(handle)
        raise
    return handle
