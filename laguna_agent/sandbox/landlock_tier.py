"""From a policy to what Landlock is told where there are no mounts: writing below, reading all but what is hidden.

Landlock only allows, below a path; so what is hidden is left out by allowing everything beside it. It cannot take back
what lies inside the workspace: neither protected nor denied paths hold in this tier. Looks at the disk; starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from laguna_agent.sandbox.confinement import Kind
from laguna_agent.sandbox.masks import denied_outside
from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.presence import is_link
from laguna_agent.sandbox.programs import essential

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm")
"""What commands may write that is no place for files."""
_RANDOM = ("/dev/random", "/dev/urandom")


def changeable_paths(policy: Policy, kind: Kind) -> tuple[Path, ...]:
    """Where a command of this kind may write and change attributes; `DEVICES` it may write beside."""
    own = [policy.temporary] if policy.temporary else []
    inside = [] if kind == "reading" else [*policy.workspace, *policy.git_directories, *policy.writable]
    return (*inside, *own)


def readable_paths(policy: Policy) -> tuple[str, ...]:
    """A set of paths below which everything may be read: together all that is not hidden."""
    # What may be written may be read, whole: a file that comes to be later has no rule of its own.
    whole = (*policy.workspace, *policy.git_directories, *policy.writable, *map(Path, (*DEVICES, *_RANDOM)))
    # Disks too are devices, and root may read them without any capability.
    wanted = (Path("/dev"), *policy.hidden, *denied_outside(policy))
    hidden = tuple(path for path in wanted if path not in (*whole, *policy.readable))
    parts = (path for top in (Path("/"), *policy.readable, *essential(policy)) for path in _beside(top, hidden))
    return tuple(dict.fromkeys(str(path) for path in (*whole, *parts)))


def cannot_deny(policy: Policy) -> bool:
    """Whether the person denies reading something that commands in this tier can read all the same."""
    return bool(policy.denied)


def _beside(directory: Path, hidden: tuple[Path, ...]) -> Iterator[Path]:
    """Everything below `directory` that neither is hidden nor holds something hidden, in the fewest paths."""
    inside = tuple(path for path in hidden if path.is_relative_to(directory))
    if directory in inside:
        return
    if not inside:
        yield directory
        return
    try:
        names = os.listdir(directory)  # noqa: PTH208
    except OSError:
        return
    for name in names:
        path = directory / name
        if not is_link(path):
            yield from _beside(path, inside)
