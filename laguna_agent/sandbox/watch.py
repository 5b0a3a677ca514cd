"""Protected files that the kernel cannot keep from a command: looked at before and after, put back, and told of.

Where only Landlock confines, that is all of them; behind bubblewrap those that cannot be mount points: a `.git` that is
not there yet, symlinks, `.git/commondir`. What a command left in their place is kept aside, never thrown away, for it
may be the person's own change made meanwhile. Knows files; must not know commands or tiers.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

ENTRIES_CAP = 2_000
"""Files and directories that are looked at."""
FILE_CAP = 256 * 1024
"""Bytes of the longest file that can be put back; of a longer one only a change is told."""

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
    """Looks after the paths that `paths` gives, asked anew at each look; `aside` is where replaced files are kept.

    While several commands run, what was before the first of them counts. Thread-safe, blocking.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]], aside: Path) -> None:
        self._paths = paths
        self._aside = aside
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._before: dict[Path, _Found] = {}

    def begin(self, id: str) -> None:
        """A command is about to run."""
        with self._lock:
            if not self._running:
                self._before = _look(self._paths())
            self._running.add(id)

    def end(self, id: str) -> tuple[str, ...]:
        """It has ended: put back what is not as it was; a line for each path."""
        with self._lock:
            self._running.discard(id)
            # First what leads there: behind a link that was planted on the way lies somebody else's.
            lines = [*self._put_back(on_the_way=True)]
            lines += [*self._take_away(_look(self._paths())), *self._put_back(on_the_way=False)]
            if lines and self._running:
                self._before = _look(self._paths())
            return tuple(lines)

    def _take_away(self, now: dict[Path, _Found]) -> Iterator[str]:
        """Remove what was not there, the deepest first."""
        for path in sorted(now.keys() - self._before.keys(), key=lambda path: len(path.parts), reverse=True):
            if _harmless(path, now[path]):
                continue
            if now[path].kind == stat.S_IFDIR:
                # Holds what is harmless, or what is not looked at.
                with contextlib.suppress(OSError):
                    path.rmdir()
                continue
            yield f"{path} is protected and was removed again{self._keep(path)}"

    def _put_back(self, *, on_the_way: bool) -> Iterator[str]:
        """Restore what changed or went, directories before what they hold."""
        for path, before in sorted(self._before.items(), key=lambda item: len(item[0].parts)):
            if on_the_way and path.name != ".git":
                continue
            after = _found(path)
            if after is not None and before.same(after):
                continue
            if before.kind == stat.S_IFREG and before.data is None:
                yield f"{path} is protected and was changed; it is too long to be put back"
                continue
            kept = self._keep(path) if after is not None and after.kind != stat.S_IFDIR else ""
            if after is not None and after.kind == stat.S_IFDIR and before.kind != stat.S_IFDIR:
                kept = self._keep(path)
            _restore(path, before)
            yield f"{path} is protected and was put back as it was{kept}"

    def _keep(self, path: Path) -> str:
        """Move what lies there aside; where to, in words."""
        self._aside.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = sum(1 for _ in self._aside.iterdir()) + 1
        kept = self._aside / f"{number}-{path.name}"
        try:
            shutil.move(path, kept)
        except OSError as error:
            return f" (not moved aside: {error.strerror})"
        if kept.is_file() and not kept.is_symlink():
            # It must not run from there either.
            kept.chmod(0o600)
        return f"; what it held is in {kept}"


def _look(paths: Iterable[Path]) -> dict[Path, _Found]:
    found: dict[Path, _Found] = {}
    waiting = list(paths)
    # The git directory that a path lies in, itself: whoever replaces it replaces the path.
    for above in {parent for path in waiting for parent in path.parents if parent.name == ".git"}:
        if (entry := _found(above)) is not None:
            found[above] = entry
    while waiting and len(found) < ENTRIES_CAP:
        path = waiting.pop()
        entry = _found(path)
        if entry is None or path in found:
            continue
        found[path] = entry
        if entry.kind == stat.S_IFDIR:
            with contextlib.suppress(OSError):
                waiting.extend(Path(item.path) for item in os.scandir(path))
    return found


def _found(path: Path) -> _Found | None:
    try:
        status = os.lstat(path)
        kind, data = stat.S_IFMT(status.st_mode), None
        if kind == stat.S_IFLNK:
            data = os.fsencode(path.readlink())
        elif kind == stat.S_IFREG and status.st_size <= FILE_CAP:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                data = file.read(FILE_CAP + 1)
    except OSError:
        return None
    return _Found(kind, stat.S_IMODE(status.st_mode), data, (status.st_mtime_ns, status.st_size, status.st_ino))


def _restore(path: Path, before: _Found) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if before.kind == stat.S_IFDIR:
            path.mkdir(exist_ok=True)
            path.chmod(before.mode)
        elif before.kind == stat.S_IFLNK and before.data is not None:
            path.symlink_to(os.fsdecode(before.data))
        elif before.data is not None:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, before.mode)
            with os.fdopen(handle, "wb") as file:
                file.write(before.data)
                os.fchmod(file.fileno(), before.mode)


def _harmless(path: Path, found: _Found) -> bool:
    """Whether something new is what `git init` makes, and makes git run nothing."""
    if found.kind == stat.S_IFDIR:
        return path.name in ("hooks", ".git")
    if path.parent.name == "hooks":
        return path.suffix == ".sample"
    if path.name != "config" or found.data is None:
        return False
    lines = found.data.decode("utf-8", "replace").splitlines()
    return all(_HARMLESS_CONFIG.fullmatch(line.strip()) for line in lines)
