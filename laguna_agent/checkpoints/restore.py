"""A plan carried out on the disk.

All content is written beside the workspace's own files first, into a directory that is there for as long as this takes;
then each path is exchanged in one step. A full disk is thus found out before anything has changed. Every step is done
by name in the descriptor of a directory that was reached without following a link, and only where the path still is
what was looked at: what somebody changes meanwhile stays theirs, and is told of.

Blocking. Killed in the middle, each path is as it was or as it should be; the same plan made anew does the rest.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from laguna_agent.checkpoints.looked import Seen, stamp_of
from laguna_agent.checkpoints.plan import Plan
from laguna_agent.checkpoints.scan import STAGED, outermost
from laguna_agent.checkpoints.store import CheckpointError
from laguna_agent.checkpoints.trees import Entry, Read, Table, parents, table_of
from laguna_agent.sandbox import beneath
from laguna_agent.tools.files import outdate_bytecode

ASIDE = ".before-undo"
"""What is added to the name of something that no checkpoint holds and that lay in the way."""
SYNCED = 200
"""Files that are made durable one by one; of more the kernel takes care."""

Staged = dict[bytes, tuple[int, str]]
_NAMING = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_Do = Callable[[bytes], "str | None"]
"""One step on a path; returns why it was not done."""


class Restorer:
    """Carries out plans in the workspace with these roots."""

    def __init__(self, roots: Sequence[Path], read: Read) -> None:
        self._roots = outermost(roots)
        self._read = read

    def path(self, path: bytes) -> Path:
        """Where a path of a tree lies."""
        number, _, below = path.partition(b"/")
        return self._roots[int(number)] / os.fsdecode(below)

    def carry_out(self, plan: Plan, seen: Mapping[bytes, Seen]) -> list[str]:
        """Make the disk as the plan wants it, where it is as was `seen`; a line for each path that is not, and was
        left. Raises CheckpointError where nothing was changed because something cannot be written."""
        self._sweep()
        staging = _Staging(self, plan)
        try:
            staged = staging.fill()
        except OSError as error:
            staging.remove()
            raise CheckpointError(f"nothing was put back: {error.strerror or error}") from error
        try:
            return _Exchange(self, plan, seen, staged).run()
        finally:
            staging.remove()

    def content(self, entry: Entry) -> bytes:
        """What a file holds, or where a link leads."""
        return self._read(entry.id)

    @contextlib.contextmanager
    def parent(self, path: bytes) -> Iterator[tuple[int, str]]:
        """The directory that a path lies in, open, and its name there. Raises OSError."""
        at = self.path(path)
        root = self._roots[int(path.partition(b"/")[0])]
        with beneath.directory(root, at.parent) as handle:
            yield handle, at.name

    def staging_place(self, root: int) -> Path:
        """A new name for the directory where content waits."""
        return self._roots[root] / f".laguna-restore-{secrets.token_hex(6)}"

    def _sweep(self) -> None:
        """Remove what one that was cut off left behind."""
        for root in self._roots:
            with contextlib.suppress(OSError):
                for name in os.listdir(root):  # noqa: PTH208 - names alone
                    if STAGED.fullmatch(name):
                        _remove_staging(root, name)


def write_out(tree: bytes, directory: Path, names: Sequence[str], read: Read) -> int:
    """Write a tree into a directory that is empty or is made: each root into a directory of its name, a single one as
    it is. Returns the number of files. Raises CheckpointError."""
    table = table_of(tree, read)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise CheckpointError(f"{directory} is not empty, and nothing was written")
        single = len(names) == 1
        roots = [directory if single else directory / f"{number}-{name}" for number, name in enumerate(names)]
        for root in roots:
            root.mkdir(exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot write to {directory}: {error.strerror}") from error
    tops = {path: entry for path, entry in table.items() if b"/" not in path}
    plan = Plan(tops, table)
    problems = Restorer([Path(os.path.realpath(root)) for root in roots], read).carry_out(plan, {})
    if problems:
        raise CheckpointError(f"not everything was written to {directory}: {'; '.join(problems[:3])}")
    return len(plan.changed)


def _remove_staging(root: Path, name: str) -> None:
    with contextlib.suppress(OSError):
        with beneath.directory(root, root / name) as handle:
            for each in os.listdir(handle):  # noqa: PTH208 - of a descriptor
                os.unlink(each, dir_fd=handle)
        os.rmdir(root / name)  # noqa: PTH106 - no link is followed


class _Staging:
    """The content that is to be put in place, under numbers, in a directory for each root. All is done by name in the
    directory's descriptor: whoever puts a link in its place leads nobody out of the workspace."""

    def __init__(self, restorer: Restorer, plan: Plan) -> None:
        self._restorer, self._plan = restorer, plan
        self._places: dict[int, Path] = {}
        self._handles: dict[int, int] = {}

    def fill(self) -> Staged:
        """Write it; where each path's content waits: a directory's descriptor and a name in it. Raises OSError."""
        wanted = [path for path in self._plan.changed if path in self._plan.target]
        staged: Staged = {}
        for number, path in enumerate(wanted):
            entry = self._plan.target[path]
            if entry.is_directory:
                continue
            handle, name = self._handle(int(path.partition(b"/")[0])), str(number)
            staged[path] = (handle, name)
            content = self._restorer.content(entry)
            if entry.is_link:
                os.symlink(content, os.fsencode(name), dir_fd=handle)
            else:
                _write(name, handle, content, entry.mode, durable=len(wanted) <= SYNCED)
        return staged

    def _handle(self, root: int) -> int:
        if root not in self._handles:
            place = self._places[root] = self._restorer.staging_place(root)
            place.mkdir(mode=0o700)
            self._handles[root] = os.open(place, beneath.READING)
        return self._handles[root]

    def remove(self) -> None:
        """Take the directories away."""
        for handle in self._handles.values():
            os.close(handle)
        for place in self._places.values():
            _remove_staging(place.parent, place.name)


def _write(name: str, handle: int, content: bytes, mode: int, *, durable: bool) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=handle), "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), stat.S_IMODE(mode))
        if durable:
            os.fsync(file.fileno())


class _Exchange:
    """Puts in place what waits, and takes away what is to go."""

    def __init__(self, restorer: Restorer, plan: Plan, seen: Mapping[bytes, Seen], staged: Staged) -> None:
        self._restorer, self._plan, self._seen, self._staged = restorer, plan, seen, staged
        self._now, self._target = plan.now, plan.target
        self._problems: list[str] = []
        self._opened: dict[bytes, int] = {}

    def run(self) -> list[str]:
        for path in self._plan.in_the_way:
            self._step(path, self._set_aside)
        changed = [path for path in self._now.keys() | self._target.keys() if self._differs(path)]
        for path in sorted(changed, key=lambda path: path.count(b"/"), reverse=True):
            if (
                path in self._now
                and not self._is_aside(path)
                and self._kind(self._now, path) != self._kind(self._target, path)
            ):
                self._step(path, self._take_away)
        for path in sorted(changed):
            if path in self._target and self._target[path].is_directory:
                self._step(path, self._make_directory)
        for path in sorted(self._staged):
            self._step(path, self._put)
        modes = {path: self._target[path].mode for path in changed if path in self._target} | self._opened
        for path in sorted(modes, key=lambda path: path.count(b"/"), reverse=True):
            if path in self._target and self._target[path].is_directory:
                self._step(path, self._set_mode)
        return self._problems

    def _differs(self, path: bytes) -> bool:
        return self._now.get(path) != self._target.get(path)

    def _is_aside(self, path: bytes) -> bool:
        return path in self._plan.in_the_way or any(above in self._plan.in_the_way for above in parents(path))

    def _kind(self, table: Table, path: bytes) -> str:
        entry = table.get(path)
        return "none" if entry is None else "directory" if entry.is_directory else "leaf"

    def _step(self, path: bytes, do: _Do) -> None:
        try:
            problem = do(path)
        except PermissionError:
            problem = self._again(path, do)
        except OSError as error:
            problem = error.strerror or str(error)
        if problem:
            self._problems.append(f"{os.fsdecode(path.partition(b'/')[2])}: {problem}")

    def _again(self, path: bytes, do: _Do) -> str | None:
        """Directories that are closed even to their owner are opened for as long as this takes."""
        for above in [each for each in reversed(list(parents(path))) if b"/" in each]:
            with contextlib.suppress(OSError), self._restorer.parent(above) as (handle, name):
                status = os.stat(name, dir_fd=handle, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o700 != 0o700:
                    os.chmod(name, stat.S_IMODE(status.st_mode) | 0o700, dir_fd=handle)
                    self._opened.setdefault(above, status.st_mode)
        try:
            return do(path)
        except OSError as error:
            return error.strerror or str(error)

    def _is_as_seen(self, path: bytes, name: str, handle: int) -> bool:
        try:
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return path not in self._now or self._now[path].is_directory
        if path not in self._now:
            return False
        if self._now[path].is_directory:
            return stat.S_ISDIR(status.st_mode)
        return path in self._seen and self._seen[path][0] == stamp_of(status)

    def _set_aside(self, path: bytes) -> str | None:
        with self._restorer.parent(path) as (handle, name):
            os.rename(name, f"{name}{ASIDE}-{secrets.token_hex(3)}", src_dir_fd=handle, dst_dir_fd=handle)
        return None

    def _take_away(self, path: bytes) -> str | None:
        with self._restorer.parent(path) as (handle, name):
            if self._now[path].is_directory:
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(name, dir_fd=handle)
            elif not self._is_as_seen(path, name, handle):
                return "it was changed at this very moment, and left"
            else:
                os.unlink(name, dir_fd=handle)
        return None

    def _make_directory(self, path: bytes) -> str | None:
        with self._restorer.parent(path) as (handle, name):
            try:
                os.mkdir(name, 0o700, dir_fd=handle)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                    return "something was put there at this very moment, and left"
        return None

    def _put(self, path: bytes) -> str | None:
        with self._restorer.parent(path) as (handle, name):
            replaces = self._kind(self._now, path) == "leaf"
            if replaces and not self._is_as_seen(path, name, handle):
                return "it was changed at this very moment, and left"
            if replaces:
                self._keep_facts(path, name, handle)
            elif _exists(name, handle):
                return "something was put there at this very moment, and left"
            staging, number = self._staged[path]
            os.rename(number, name, src_dir_fd=staging, dst_dir_fd=handle)
        return None

    def _keep_facts(self, path: bytes, name: str, handle: int) -> None:
        """The owner of what is replaced, and a time by which Python sees that a module is another one."""
        if self._target[path].is_link:
            return
        old = os.stat(name, dir_fd=handle, follow_symlinks=False)
        staging, number = self._staged[path]
        new = os.open(number, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
        try:
            with contextlib.suppress(PermissionError):
                os.fchown(new, old.st_uid, old.st_gid)
            os.fchmod(new, stat.S_IMODE(self._target[path].mode))
            if path.endswith(b".py"):
                outdate_bytecode(new, old)
        finally:
            os.close(new)

    def _set_mode(self, path: bytes) -> str | None:
        with self._restorer.parent(path) as (handle, name):
            _set_directory_mode(name, handle, self._target[path].mode)
        return None


def _set_directory_mode(name: str, handle: int, mode: int) -> None:
    """Of a directory that may be closed even to us, and of no link that took its place."""
    inside = os.open(name, _NAMING, dir_fd=handle)
    try:
        if hasattr(os, "O_PATH"):
            os.chmod(f"/proc/self/fd/{inside}", stat.S_IMODE(mode))  # noqa: PTH101
        else:
            os.fchmod(inside, stat.S_IMODE(mode))
    finally:
        os.close(inside)


def _exists(name: str, handle: int) -> bool:
    try:
        os.stat(name, dir_fd=handle, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
