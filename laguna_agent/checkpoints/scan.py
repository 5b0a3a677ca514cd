"""A look at the disk: everything in a workspace that belongs into a checkpoint, as a tree in the store.

Left out is what ignore files name, unless an index tracks it or a checkpoint held it before; every `.git`, and whatever
else is a git directory; what the policy hides, denies or protects; what is too large, no file at all, or cannot be
read. Every directory is opened through the one above it and no link is followed, so nothing outside is ever read.

Blocking. Knows the disk, the policy and the store; must not know sessions.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import msgspec

from laguna_agent.checkpoints.grounds import Ground, Grounds
from laguna_agent.checkpoints.looked import TICK, Looked, Seen, Stamp, load, save, stamp_of
from laguna_agent.checkpoints.store import CheckpointError, Store, stores_directory
from laguna_agent.checkpoints.trees import encoded
from laguna_agent.sandbox.policy import Policy, protects

FILES_CAP = 50_000
"""Files and directories of the largest workspace that is kept."""
FILE_BYTES = 10 << 20
"""Bytes of the largest file that is kept."""
BYTES_CAP = 512 << 20
"""Bytes that one look may have to read."""
TIME_CAP = 20.0
"""Seconds that one look may take; it takes a tenth of one once it was made before."""
DEPTH_CAP = 128
STAGED = re.compile(r"\.laguna-restore-[0-9a-f]{12}")
"""Names of what a restore that was cut off leaves behind."""
UNSAVED = 200
"""Files that may have been read without that being known to later sessions."""
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ENTERING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 3
_ENCODING = sys.getfilesystemencoding()

Listed = dict[bytes, tuple[list[tuple[bytes, int, bytes]], bytes]]
"""By directory: what lies in it, and the name of the tree that this makes."""
Why = Literal["ignored", "git", "large", "special", "unreadable", "kept from us"]


class TooLarge(CheckpointError):
    """The workspace is more than can be kept."""


class Look(msgspec.Struct, frozen=True):
    """`tree` is the top of all roots; `left` is what was left out, by path, and `files` tell whether a file is still
    the one that was looked at."""

    tree: bytes
    files: Mapping[bytes, Seen]
    left: dict[bytes, Why]


def encode(name: str) -> bytes:
    """As os.fsencode, which takes three times as long, and is called for each file."""
    return name.encode(_ENCODING, "surrogateescape")


@lru_cache(maxsize=8192)
def kept_out(name: str) -> bool:
    """Whether what has this name belongs into no checkpoint, wherever it lies."""
    return protects((name,)) or STAGED.fullmatch(name) is not None


def outermost(roots: Sequence[Path]) -> tuple[Path, ...]:
    """The roots that lie in no other."""
    distinct = tuple(dict.fromkeys(roots))
    return tuple(root for root in distinct if not any(root != each and root.is_relative_to(each) for each in distinct))


class Scanner:
    """Looks at the workspace of a policy, again and again. Not thread-safe."""

    def __init__(self, store: Store, policy: Policy) -> None:
        self.store = store
        self.roots = outermost(policy.workspace)
        self._policy = policy
        self._looked: Looked | None = None
        self._denied: dict[bytes, bool] = {}
        own = (stores_directory().parent, *(() if policy.temporary is None else (policy.temporary,)))
        closed = (*policy.hidden, *policy.protected, *policy.git_directories, *map(Path, map(os.path.realpath, own)))
        inside = [each for each in closed if any(each.is_relative_to(root) for root in self.roots)]
        self._closed = frozenset(os.fsencode(each) for each in inside)
        self.closes = bool(self._closed or policy.denied)
        """Whether there is anything in the workspace that is closed to us."""
        self.stop = threading.Event()
        """Set by whoever does not want to wait for the end of a look."""
        self._listed: Listed = {}
        self._unsaved = 0
        self._grounds = Grounds()

    def look(self) -> Look:
        """Everything as it is now, in the store; to be called under its lock. Raises CheckpointError."""
        path, generation = self.store.directory / "looked", self.store.generation()
        if self._looked is None or self._looked.generation != generation:
            self._looked, self._listed = load(path, generation), {}
            self.store.look_again()
            self.store.know(self._looked.directories.values())
        before = self._looked
        walk = _Walk(self, before, Looked(generation), self._listed)
        try:
            tree = walk.top()
            self.store.flush()
        except BaseException:
            self.store.forget_pending()
            raise
        self._grounds.forget_unused()
        self.store.know(walk.found.directories.values())
        self._looked, self._listed = walk.found, walk.listed
        # Whoever comes later reads again what changed since this was written; that costs less than to write it always.
        self._unsaved += walk.looked_into
        if self._unsaved > UNSAVED:
            save(path, walk.found)
            self._unsaved = 0
        return Look(tree, walk.found.files, walk.left)

    def is_closed(self, absolute: bytes) -> bool:
        """Whether the policy keeps the path from everybody, or from being changed."""
        if absolute in self._closed:
            return True
        if not self._policy.denied:
            return False
        known = self._denied.get(absolute)
        if known is None:
            known = self._denied[absolute] = self._policy.is_denied(Path(os.fsdecode(absolute)))
        return known

    def ground(self, root: Path) -> Ground:
        """The ignore rules at a root."""
        return self._grounds.at_root(root)

    def below(self, ground: Ground, handle: int, absolute: bytes, names: set[str]) -> Ground:
        """Those in a directory below."""
        return self._grounds.below(ground, handle, absolute, names)


class _Walk:
    """One look."""

    def __init__(self, scanner: Scanner, before: Looked, found: Looked, listed: Listed) -> None:
        self._listed, self.listed = listed, Listed()
        self._scanner, self._before, self.found = scanner, before, found
        self._add = scanner.store.add
        self.left: dict[bytes, Why] = {}
        self._began = time.time_ns()
        self._deadline = time.monotonic() + TIME_CAP
        self._counted = self._bytes = self.looked_into = 0

    def top(self) -> bytes:
        children: list[tuple[bytes, int, bytes]] = []
        for number, root in enumerate(self._scanner.roots):
            name = b"%d" % number
            try:
                handle = os.open(root, _ENTERING)
            except OSError as error:
                raise CheckpointError(f"the workspace {root} cannot be looked at: {error.strerror}") from error
            try:
                ground = self._scanner.ground(root)
                tree = self._directory(handle, name, os.fsencode(root), ground, known_only=False, depth=0)
            finally:
                os.close(handle)
            # The root itself is no part of the work: nobody makes, removes or closes it in a turn.
            children.append((name, stat.S_IFDIR | 0o755, tree or self._tree(name, [])))
        return self._add(b"tree", encoded(children))

    def _directory(
        self, handle: int, path: bytes, absolute: bytes, ground: Ground, *, known_only: bool, depth: int
    ) -> bytes | None:
        """The tree of a directory; None for one that is left out."""
        with os.scandir(handle) as listing:
            entries = list(listing)
        self._count(len(entries))
        names = {entry.name for entry in entries}
        if {"HEAD", "objects", "refs"} <= names:
            self.left[path] = "git"
            return None
        ground = self._scanner.below(ground, handle, absolute, names)
        if ground.is_repository:
            known_only = False
        children: list[tuple[bytes, int, bytes]] = []
        closes, files = self._scanner.closes, self._before.files
        for entry in entries:
            if kept_out(entry.name):
                if depth and entry.name == ".git":
                    self.left[path + b"/.git"] = "git"
                continue
            name = encode(entry.name)
            child, inside = path + b"/" + name, absolute + b"/" + name
            if closes and self._scanner.is_closed(inside):
                self.left[child] = "kept from us"
                continue
            directory = entry.is_dir(follow_symlinks=False)
            known = None if directory else files.get(child)
            # What was kept once is kept on, so of most files nobody asks whether they are ignored.
            only = known is None and (known_only or ground.rules.ignores(inside, directory=directory))
            if only and not self._is_known(child, inside, ground, directory):
                self.left[child] = "ignored"
                continue
            try:
                if directory:
                    found = self._subdirectory(entry.name, handle, child, inside, ground, only, depth)
                else:
                    found = self._leaf(entry, handle, child, known)
            except FileNotFoundError:
                continue  # It went while we looked.
            except OSError:
                found = self._as_before(entry, child)
                if found is None:
                    self.left[child] = "unreadable"
            if found is not None:
                children.append((name, *found))
        if known_only and not children:
            self.left[path] = "ignored"
            return None
        return self._tree(path, children)

    def _is_known(self, path: bytes, absolute: bytes, ground: Ground, directory: bool) -> bool:
        """Whether something ignored is kept nevertheless."""
        return (directory and path in self._before.directories) or ground.tracks(absolute, directory=directory)

    def _subdirectory(
        self, name: str, above: int, path: bytes, absolute: bytes, ground: Ground, only: bool, depth: int
    ) -> tuple[int, bytes] | None:
        if depth >= DEPTH_CAP:
            raise TooLarge(f"the directories in it lie more than {DEPTH_CAP} deep in one another")
        handle = os.open(name, _ENTERING, dir_fd=above)
        try:
            mode = stat.S_IFDIR | (os.fstat(handle).st_mode & 0o7777)
            tree = self._directory(handle, path, absolute, ground, known_only=only, depth=depth + 1)
        finally:
            os.close(handle)
        return None if tree is None else (mode, tree)

    def _as_before(self, entry: os.DirEntry[str], path: bytes) -> tuple[int, bytes] | None:
        """What cannot be read any more, and holds what it held when it could be, as far as is known."""
        mode = entry.stat(follow_symlinks=False).st_mode
        tree, seen = self._before.directories.get(path), self._before.files.get(path)
        if stat.S_ISDIR(mode) and tree is not None:
            inside = path + b"/"
            self.found.files |= {each: what for each, what in self._before.files.items() if each.startswith(inside)}
            known = self._before.directories
            self.found.directories |= {
                each: id for each, id in known.items() if each.startswith(inside) or each == path
            }
            return stat.S_IFDIR | (mode & 0o7777), tree
        stamp = stamp_of(entry.stat(follow_symlinks=False))
        # The time of a change of permissions is another one; the content has its own, its size and its inode.
        if stat.S_ISREG(mode) and seen is not None and (stamp[0], *stamp[2:5]) == (seen[0][0], *seen[0][2:5]):
            self.found.files[path] = (stamp, seen[1], False)
            return _kept_mode(mode), seen[1]
        return None

    def _tree(self, path: bytes, children: list[tuple[bytes, int, bytes]]) -> bytes:
        known = self._listed.get(path)
        if known is None or known[0] != children:
            known = (children, self._add(b"tree", encoded(children)))
        self.listed[path] = known
        tree = self.found.directories[path] = known[1]
        return tree

    def _leaf(self, entry: os.DirEntry[str], above: int, path: bytes, known: Seen | None) -> tuple[int, bytes] | None:
        status = entry.stat(follow_symlinks=False)
        stamp, mode = stamp_of(status), status.st_mode
        if known is not None and known[2] and known[0] == stamp:
            self.found.files[path] = known
            return _kept_mode(mode), known[1]
        self.looked_into += 1
        if stat.S_ISLNK(mode):
            content = os.fsencode(os.readlink(entry.name, dir_fd=above))
            still = True
        elif not stat.S_ISREG(mode):
            self.left[path] = "special"
            return None
        elif status.st_size > FILE_BYTES:
            self.left[path] = "large"
            return None
        else:
            content, stamp, still = self._read(entry.name, above)
            if len(content) > FILE_BYTES:
                self.left[path] = "large"
                return None
            mode = stamp[5]
        # Times in the future, from a clock that was wrong, are as little believed as those of this very moment.
        certain = still and max(stamp[0], stamp[1]) < self._began - TICK
        id = self._add(b"blob", content)
        if known is not None and known[1] == id and known[0] == stamp and known[2] == certain:
            self.found.files[path] = known
        else:
            self.found.files[path] = (stamp, id, certain)
        return _kept_mode(mode), id

    def _read(self, name: str, above: int) -> tuple[bytes, Stamp, bool]:
        """A file's bytes, its stamp, and whether it stayed as it was while it was read."""
        handle = os.open(name, _READING, dir_fd=above)
        try:
            for _ in range(_TRIES):
                before = os.fstat(handle)
                if not stat.S_ISREG(before.st_mode):
                    raise OSError("no longer a regular file")
                os.lseek(handle, 0, os.SEEK_SET)
                content = _all(handle)
                self._bytes += len(content)
                self._count(0)
                after = stamp_of(os.fstat(handle))
                if after == stamp_of(before):
                    return content, after, True
            return content, after, False
        finally:
            os.close(handle)

    def _count(self, more: int) -> None:
        self._counted += more
        if self._scanner.stop.is_set():
            raise CheckpointError("it was interrupted")
        if self._counted > FILES_CAP:
            raise TooLarge(f"it has more than {FILES_CAP:,} files")
        if self._bytes > BYTES_CAP:
            raise TooLarge(f"its files have more than {BYTES_CAP >> 20:,} MiB")
        if time.monotonic() > self._deadline:
            raise TooLarge(f"to look at it takes longer than {TIME_CAP:g} s")


def _kept_mode(mode: int) -> int:
    # A link has no permissions of its own. Set-user-id and its like are not for an undo to give.
    return stat.S_IFLNK if stat.S_ISLNK(mode) else stat.S_IFREG | (mode & 0o777)


def _all(handle: int) -> bytes:
    pieces: list[bytes] = []
    room = FILE_BYTES + 1
    while room > 0 and (piece := os.read(handle, min(room, 1 << 20))):
        pieces.append(piece)
        room -= len(piece)
    return b"".join(pieces)
