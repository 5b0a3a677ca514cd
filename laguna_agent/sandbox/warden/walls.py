"""Putting up the walls around the warden itself, which everything that it starts inherits.

Knows the order in which the kernel allows them; must not know requests or processes. A wall that should stand and does
not is an OSError: the warden then serves nobody.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from typing import NamedTuple, TypedDict

from . import capabilities, landlock, seccomp
from .kernel import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, prctl

LARGEST_FILE = 64 << 30
OPEN_FILES = 65_536
_LIKELY_VICTIM = "500"


class Rules(TypedDict):
    """What a warden is told once, as JSON. `writable` and `readable` are real paths as the warden sees them; `readable`
    None leaves reading to the mounts. Below `changeable` modes, owners and times may change, where no mounts decide it.
    `identities` are paths with the device and inode that must be there. `own` says whether processes, IPC and mounts
    are in namespaces of its own by now; `apart` that the warden must leave the machine's processes itself (`apart.py`);
    `kernel` whether this system has these walls. Where `walls` is false nothing is put
    up: the warden only answers for what it starts."""

    walls: bool
    writable: list[str]
    changeable: list[str]
    readable: list[str] | None
    identities: list[tuple[str, int, int]]
    reach: seccomp.Reach
    own: bool
    apart: bool
    kernel: bool
    processes: int


class Standing(NamedTuple):
    """What stands: the Landlock ABI in force, and where a supervisor is to listen, if it must."""

    landlock: int = 0
    listener: int | None = None


def put_up(rules: Rules) -> Standing:
    """Confine this process for good. Raises OSError."""
    if not rules["walls"]:
        if rules["kernel"]:
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        return Standing()
    # Outside a user namespace this limit counts what else the user runs.
    _limit(4 * rules["processes"] if rules["own"] else resource.RLIM_INFINITY)
    if not rules["kernel"]:
        return Standing()
    _verify(rules["identities"])
    # When memory runs out the kernel should end a command, not the agent.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - no pathlib here
        file.write(_LIKELY_VICTIM)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    readable = None if rules["readable"] is None else [*rules["readable"]]
    version = landlock.restrict(rules["writable"], readable, tcp=rules["reach"] != "nothing")
    if version == 0 and not rules["own"]:
        raise OSError("this kernel has no Landlock, or it is switched off")
    capabilities.drop_all()
    listener = seccomp.install(rules["reach"], own_ipc=rules["own"], own_pids=rules["apart"])
    hide()
    return Standing(version, listener)


def hide() -> None:
    """Keep this process's memory and descriptors from every other one of the same user."""
    if sys.platform == "linux":
        prctl(PR_SET_DUMPABLE, 0)


def _limit(threads: int) -> None:
    """Resource limits. That of threads does not hold for root: the warden counts processes itself."""
    for what, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_NPROC, threads),
    ):
        soft, hard = resource.getrlimit(what)
        resource.setrlimit(what, (_lower(soft, wanted), _lower(hard, wanted)))


def _lower(one: int, other: int) -> int:
    finite = [each for each in (one, other) if each != resource.RLIM_INFINITY]
    return min(finite, default=resource.RLIM_INFINITY)


def _verify(identities: list[tuple[str, int, int]]) -> None:
    """What was mounted by name must be what was looked at: between looking and mounting, a process of another warden
    could have put a link to somewhere else in its place."""
    for path, device, inode in identities:
        found = os.lstat(path)
        if (found.st_dev, found.st_ino) != (device, inode):
            raise OSError(f"{path} was exchanged while the sandbox was put up")
