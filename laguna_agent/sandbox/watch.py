"""Protected files that the kernel cannot keep from a command: looked at before and after, put back, and told of.

Where only Landlock confines, that is all of them; behind bubblewrap those that cannot be mount points: a `.git` that is
not there yet, symlinks, `.git/commondir`. What a command left in their place is kept aside, never thrown away, for it
may be the person's own change made meanwhile. Knows files; must not know commands or tiers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import msgspec

from laguna_agent.sandbox import beneath

ENTRIES_CAP = 2_000
"""Files and directories that are looked at."""
FILE_CAP = 256 * 1024
"""Bytes of the longest file that can be put back; of a longer one only a change is told."""
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_HARMLESS_CONFIG = re.compile(
    r"""(?xi)
      \[core\] | \[user\] | \[init\] | \[extensions\]
    | (?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|objectformat
       |defaultbranch|refstorage) \s* = \s* \w*
    | (?:name|email) \s* = \s* [\w\s.@+-]*
    | \[(?:remote|branch) [ ] "[\w./-]+"\]
    | url \s* = \s* (?:(?:https?|ssh|git)://|[\w.-]+@[\w.-]+:|/) [\w@:/.+~-]*
    | fetch \s* = \s* \+?refs/[\w/*:+.-]+ | remote \s* = \s* \w+ | merge \s* = \s* refs/[\w/.-]+
    | [;#][^\\]*
    |
    """
)
"""A line that `git init` or `git clone` writes, or a name: nothing that makes git run a program or look elsewhere."""


class _Found(msgspec.Struct, frozen=True):
    """What lay at a path: a directory, a link (`data` is where to), or a file (None: too long to keep)."""

    kind: int
    mode: int
    data: bytes | None
    stamp: tuple[int, int, int]

    def same(self, other: _Found) -> bool:
        if (self.kind, self.mode) != (other.kind, other.mode):
            return False
        if self.kind == stat.S_IFDIR:
            return True
        return self.stamp == other.stamp if self.data is None or other.data is None else self.data == other.data


class Watch:
    """Looks after the paths that `paths` gives, asked anew at each look, each of which lies below one of the real
    directories `roots`; `aside` is where replaced files are kept.

    While several commands run, what was before the first of them counts. No link is followed on the way to a path: what
    lies behind one that was planted is somebody else's. Thread-safe, blocking.
    """

    def __init__(self, roots: Iterable[Path], paths: Callable[[], Iterable[Path]], aside: Path) -> None:
        self._roots = tuple(roots)
        self._paths = paths
        self._aside = aside
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._before: dict[Path, _Found] = {}

    def begin(self, id: str) -> None:
        """A command is about to run."""
        with self._lock:
            if not self._running:
                self._before = self._look()
            self._running.add(id)

    def end(self, id: str) -> tuple[str, ...]:
        """It has ended: put back what is not as it was; a line for each path."""
        with self._lock:
            self._running.discard(id)
            lines = [*self._put_back(on_the_way=True), *self._take_away(), *self._put_back(on_the_way=False)]
            if lines and self._running:
                self._before = self._look()
            return tuple(lines)

    # -- looking ----------------------------------------------------------------------------------------------------

    def _look(self) -> dict[Path, _Found]:
        found: dict[Path, _Found] = {}
        waiting = list(self._paths())
        # The git directory that a path lies in, itself: whoever replaces it replaces the path.
        for above in {parent for path in waiting for parent in path.parents if parent.name == ".git"}:
            if (entry := self._found(above)) is not None:
                found[above] = entry
        while waiting and len(found) < ENTRIES_CAP:
            path = waiting.pop()
            if path in found or (entry := self._found(path)) is None:
                continue
            found[path] = entry
            if entry.kind == stat.S_IFDIR:
                with contextlib.suppress(OSError), beneath.directory(self._root(path), path) as handle:
                    waiting.extend(path / name for name in os.listdir(handle))  # noqa: PTH208 - of a descriptor
        return found

    def _found(self, path: Path) -> _Found | None:
        try:
            with self._parent(path) as parent:
                status = os.stat(path.name, dir_fd=parent, follow_symlinks=False)
                kind, data = stat.S_IFMT(status.st_mode), None
                if kind == stat.S_IFLNK:
                    data = os.fsencode(os.readlink(path.name, dir_fd=parent))
                elif kind == stat.S_IFREG and status.st_size <= FILE_CAP:
                    with os.fdopen(os.open(path.name, _READING, dir_fd=parent), "rb") as file:
                        data = file.read(FILE_CAP + 1)
        except OSError:
            return None
        return _Found(kind, stat.S_IMODE(status.st_mode), data, (status.st_mtime_ns, status.st_size, status.st_ino))

    def _root(self, path: Path) -> Path:
        """The nearest root that a path lies in. Raises OSError where it lies in none: there no command can write."""
        above = [root for root in self._roots if path.is_relative_to(root)]
        if not above:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(path))
        return max(above, key=lambda root: len(root.parts))

    def _parent(self, path: Path) -> AbstractContextManager[int]:
        return beneath.directory(self._root(path.parent), path.parent)

    # -- undoing ----------------------------------------------------------------------------------------------------

    def _take_away(self) -> Iterator[str]:
        """Remove what was not there, the deepest first."""
        now = self._look()
        moved = {(path.name, found.data) for path, found in self._before.items() if found.data is not None}
        for path in sorted(now.keys() - self._before.keys(), key=lambda path: len(path.parts), reverse=True):
            # A repository that was moved, or copied, runs what it ran before.
            if _harmless(path, now[path]) or (path.name, now[path].data) in moved:
                continue
            if now[path].kind == stat.S_IFDIR:
                # Holds what is harmless, or what is not looked at.
                with contextlib.suppress(OSError), self._parent(path) as parent:
                    os.rmdir(path.name, dir_fd=parent)
                continue
            yield f"{path} is protected and was removed again{self._keep(path)}"

    def _put_back(self, *, on_the_way: bool) -> Iterator[str]:
        """Restore what changed or went, directories before what they hold; with `on_the_way` git directories alone."""
        for path, before in sorted(self._before.items(), key=lambda item: len(item[0].parts)):
            if on_the_way and path.name != ".git":
                continue
            after = self._found(path)
            if after is not None and before.same(after):
                continue
            if after is None and (way := self._way(path)) != "open":
                # Where the directory that it lay in is gone, nobody is led to it any more.
                if way == "changed":
                    yield f"{path} is protected, but the way to it was changed; it was not put back"
                continue
            if before.kind == stat.S_IFREG and before.data is None:
                yield f"{path} is protected and was changed; it is too long to be put back"
                continue
            both_directories = after is not None and after.kind == before.kind == stat.S_IFDIR
            kept = self._keep(path) if after is not None and not both_directories else ""
            try:
                with self._parent(path) as parent:
                    _restore(path.name, parent, before)
            except OSError as error:
                yield f"{path} is protected and was changed; it could not be put back: {error.strerror}{kept}"
            else:
                yield f"{path} is protected and was put back as it was{kept}"

    def _way(self, path: Path) -> Literal["open", "gone", "changed"]:
        """What became of the directory that a path lies in."""
        try:
            with self._parent(path):
                return "open"
        except FileNotFoundError:
            return "gone"
        except OSError:
            return "changed"

    def _keep(self, path: Path) -> str:
        """Move what lies there aside; where to, in words."""
        self._aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = self._aside / f"{sum(1 for _ in self._aside.iterdir()) + 1}-{path.name}"
        try:
            with self._parent(path) as parent:
                try:
                    os.rename(path.name, kept, src_dir_fd=parent)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
                    kept = path.with_name(f"{path.name}.{kept.name}")
                    os.rename(path.name, kept.name, src_dir_fd=parent, dst_dir_fd=parent)
                    return f"; what it held is in {kept}"
        except OSError as error:
            return f" (not moved aside: {error.strerror})"
        if kept.is_file() and not kept.is_symlink():
            # It must not run from there either.
            kept.chmod(0o600)
        return f"; what it held is in {kept}"


def _restore(name: str, parent: int, before: _Found) -> None:
    """Raises OSError."""
    if before.kind == stat.S_IFDIR:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
        handle = os.open(name, beneath.READING, dir_fd=parent)
        try:
            os.fchmod(handle, before.mode)
        finally:
            os.close(handle)
    elif before.kind == stat.S_IFLNK and before.data is not None:
        os.symlink(os.fsdecode(before.data), name, dir_fd=parent)
    elif before.data is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, before.mode, dir_fd=parent), "wb") as file:
            file.write(before.data)
            os.fchmod(file.fileno(), before.mode)


def _harmless(path: Path, found: _Found) -> bool:
    """Whether something new is what `git init` makes, and makes git run nothing."""
    if found.kind == stat.S_IFDIR:
        return path.name == ".git"
    if path.parent.name == "hooks":
        return path.suffix == ".sample"
    if path.name != "config" or found.data is None:
        return False
    lines = found.data.decode("utf-8", "replace").splitlines()
    return all(_HARMLESS_CONFIG.fullmatch(line.strip()) for line in lines)
