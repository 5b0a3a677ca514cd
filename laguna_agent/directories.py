"""Where the program keeps its own files (XDG base directories); nothing of it ever lies in a workspace. Conversations
and logs are for their owner alone: 0600 in 0700, whatever the umask, and tightened where an older version was laxer.

config  user configuration      $XDG_CONFIG_HOME/laguna-agent   (~/.config/laguna-agent)
state   session logs, reports   $XDG_STATE_HOME/laguna-agent    (~/.local/state/laguna-agent)
data    model weights           $XDG_DATA_HOME/laguna-agent     (~/.local/share/laguna-agent)
cache   whatever may be lost    $XDG_CACHE_HOME/laguna-agent    (~/.cache/laguna-agent)

Where there is no home, or it cannot be written, state and cache are in a refuge below the directory for temporary files
that is its owner's alone; `displaced` says so. What was decided holds for the life of the process.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

_STATE = ("XDG_STATE_HOME", ".local/state")
_OWNERS_FILE = 0o600
_OWNERS_DIRECTORY = 0o700


_NOWHERE = Path(os.devnull)


def _directory(variable: str, fallback: str) -> Path:
    base = os.environ.get(variable, "")
    # The XDG specification: a relative path in the variable is invalid and must be ignored.
    root = Path(base) if base.startswith("/") else home() / fallback
    return root / "laguna-agent"


def home() -> Path:
    """The person's home; where nobody says which it is, a place where nothing can be."""
    try:
        found = Path.home()
    except RuntimeError:
        return _NOWHERE
    return found if found.is_absolute() else _NOWHERE


@cache
def _settled(usual: Path) -> Path:
    """The directory itself where it can be written, or made; else its place in the refuge, where there is one."""
    there = next((each for each in (usual, *usual.parents) if os.path.lexists(each)), usual)
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return usual
    # Only where it is needed: it brings much along.
    import tempfile

    refuge = Path(tempfile.gettempdir()) / f"laguna-agent-{os.geteuid()}"
    try:
        refuge.mkdir(mode=_OWNERS_DIRECTORY, exist_ok=True)
        found = refuge.lstat()
    except OSError:
        return usual
    # Anybody may have made it before us, to have us believe what is in it.
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
    return refuge.joinpath(*usual.parts[1:]) if ours else usual


def displaced() -> str:
    """What to tell the person where sessions are not kept where they usually are; empty where they are."""
    usual, settled = _directory(*_STATE), state_directory()
    if usual == settled:
        return ""
    return f"{usual} cannot be written; sessions are kept in {settled}, which may not outlast a restart"


def config_directory() -> Path:
    """User configuration; holds `config.toml`."""
    return _directory("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path:
    """Session logs, and reports of bugs."""
    return _settled(_directory(*_STATE))


def data_directory() -> Path:
    """Model weights."""
    return _directory("XDG_DATA_HOME", ".local/share")


def cache_directory() -> Path:
    """Spooled command output, server logs, and packed models."""
    return _settled(_directory("XDG_CACHE_HOME", ".cache"))


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
