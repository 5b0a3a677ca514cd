"""From a policy to bubblewrap's command line: what a confined process sees of the file system, and how.

Everything is visible read-only; the workspace is writable but for what other programs obey; keys, our own state and
sockets are not there. Deeper mounts come after those above them, and so the nearest says. Pure but for looking at the
disk; it must not start anything.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from laguna_agent.sandbox.confinement import Kind
from laguna_agent.sandbox.masks import denied_paths
from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.presence import exists, is_directory, is_file, is_real_directory
from laguna_agent.sandbox.programs import below_temporary, essential
from laguna_agent.sandbox.protected import Protected
from laguna_agent.sandbox.sockets import sockets_outside
from laguna_agent.sandbox.warden.apart import other_places

_RESOLVER = Path("/etc/resolv.conf")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/ptmx", "/dev/pts", "/dev/shm")


class View(msgspec.Struct, frozen=True):
    """Bubblewrap's words, the paths that are writable inside, and what must be found at those that were mounted from
    the workspace: path, device, inode."""

    words: tuple[str, ...]
    writable: tuple[str, ...]
    identities: tuple[tuple[str, int, int], ...]


def view(program: Path, policy: Policy, kind: Kind, protected: Protected) -> View:
    """What a warden of this kind sees. The absent paths of `protected` exist by now, as empty directories."""
    mounts = _Mounts()
    for path in below_temporary():
        mounts.bind(path, writable=False)
    for path in (Path("/run"), *policy.hidden):
        mounts.hide(path)
    for path in (*essential(policy), *policy.readable, *_resolver(kind)):
        mounts.bind(path, writable=False)
    for path in policy.writable:
        mounts.bind(path, writable=kind != "reading")
    for root in (*policy.git_directories, *policy.workspace):
        mounts.bind(root, writable=kind != "reading")
    if kind != "reading":
        mounts.keep(protected, (*policy.workspace, *policy.git_directories))
    for path in (*denied_paths(policy), *sockets_outside(policy)):
        mounts.deny(path)
    temporary = _temporary(policy, mounts)
    unshared = ["user", "pid", "ipc", "uts", "cgroup-try"] + ([] if kind == "network" else ["net"])
    words = [
        str(program), *(f"--unshare-{each}" for each in unshared),
        "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL",
        "--ro-bind", "/", "/", "--dev", "/dev", *_processes(), *temporary, *mounts.words(), "--chdir", "/", "--",
    ]  # fmt: skip
    return View(tuple(words), (*mounts.writable(), "/tmp", "/var/tmp", *_DEVICES), tuple(mounts.identities()))


class _Mounts:
    """What is mounted where. A later word about the same path is the one that counts."""

    def __init__(self) -> None:
        self._at: dict[Path, str] = {}

    def hide(self, path: Path) -> None:
        """An empty directory, or nothing that could be opened, in the place of what there is."""
        self._at[path] = "hidden" if is_directory(path) else "nothing"

    def deny(self, path: Path) -> None:
        """Like `hide`, for what is not even listed. `path` is a real one."""
        self._at[path] = "denied" if is_directory(path) else "nothing"

    def bind(self, path: Path, *, writable: bool) -> None:
        """What there is, in its own place."""
        if exists(path):
            self._at[path] = "--bind" if writable else "--ro-bind"

    def keep(self, protected: Protected, roots: tuple[Path, ...]) -> None:
        """Read-only, with every directory on the way from the root a mount of its own: none of them can be moved away
        to make room for another."""
        for path in (*protected.present, *protected.absent):
            root = max((each for each in roots if path.is_relative_to(each)), key=lambda each: len(each.parts))
            between = path.parent
            while between != root:
                self._at.setdefault(between, "--bind")
                between = between.parent
            if self._at.get(path) not in ("hidden", "nothing", "--bind"):
                self.bind(path, writable=False)

    def words(self) -> list[str]:
        """Bubblewrap's, from above to below."""
        ordered = sorted(self._at.items(), key=lambda item: len(item[0].parts))
        words: list[str] = []
        for path, how in ordered:
            if how == "nothing":
                # A device on a mount that allows none: it is there, and nobody can open it.
                words += ["--ro-bind", "/dev/null", str(path)]
            elif how in ("hidden", "denied"):
                words += ["--perms", "0555" if how == "hidden" else "0000", "--tmpfs", str(path)]
            else:
                words += [how, str(path), str(path)]
        # Only now: bubblewrap makes the places of deeper mounts in them.
        for path, how in reversed(ordered):
            if how in ("hidden", "denied"):
                words += ["--remount-ro", str(path)]
        return words

    def writable(self) -> list[str]:
        """Where writing is allowed as far as mounts decide."""
        return [str(path) for path, how in self._at.items() if how == "--bind"]

    def identities(self) -> list[tuple[str, int, int]]:
        """What must be found at each writable mount."""
        found = ((path, path.lstat()) for path, how in self._at.items() if how == "--bind")
        return [(str(path), at.st_dev, at.st_ino) for path, at in found]


def _processes() -> list[str]:
    """A /proc of the namespace, wherever the machine's is mounted: any other would show everybody's arguments. Where
    this user cannot go no command of it can."""
    places = (Path(os.fsdecode(each)) for each in other_places())
    return [word for place in (Path("/proc"), *places) if is_directory(place) for word in ("--proc", str(place))]


def _temporary(policy: Policy, mounts: _Mounts) -> list[str]:
    """/tmp and /var/tmp, which nobody else sees; also under its own name, for TMPDIR holds that in every tier."""
    places = [each for each in (Path("/tmp"), Path("/var/tmp")) if is_real_directory(each)]
    if policy.temporary is None:
        return [word for place in places for word in ("--perms", "1777", "--tmpfs", str(place))]
    mounts.bind(policy.temporary, writable=True)
    return [word for place in places for word in ("--bind", str(policy.temporary), str(place))]


def _resolver(kind: Kind) -> list[Path]:
    """Where names are looked up: often a link to a file below /run."""
    real = Path(os.path.realpath(_RESOLVER))
    return [real] if kind == "network" and real != _RESOLVER and is_file(real) else []
