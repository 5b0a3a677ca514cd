"""Whether something is there, as far as we may look. What lies in a directory that is closed to us is not there for
our commands either. Knows the disk and nothing else.
"""

from __future__ import annotations

import stat
from pathlib import Path


def exists(path: Path) -> bool:
    """Whether there is anything, a link followed."""
    return _mode(path) is not None


def is_directory(path: Path) -> bool:
    """Whether it is a directory, a link followed."""
    return stat.S_ISDIR(_mode(path) or 0)


def is_real_directory(path: Path) -> bool:
    """Whether it is a directory itself."""
    return stat.S_ISDIR(_mode(path, follow=False) or 0)


def is_file(path: Path) -> bool:
    """Whether it is a regular file, a link followed."""
    return stat.S_ISREG(_mode(path) or 0)


def is_link(path: Path) -> bool:
    """Whether it is a symbolic link."""
    return stat.S_ISLNK(_mode(path, follow=False) or 0)


def is_socket(path: Path) -> bool:
    """Whether it is a socket, a link followed."""
    return stat.S_ISSOCK(_mode(path) or 0)


def _mode(path: Path, *, follow: bool = True) -> int | None:
    try:
        return path.stat(follow_symlinks=follow).st_mode
    except (OSError, ValueError):
        return None
