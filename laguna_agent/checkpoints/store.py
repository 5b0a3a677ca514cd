"""Where checkpoints lie: one bare git repository per workspace, outside it, shared by the sessions that work there.

    <state>/checkpoints/<workspace>/   objects/ as git's; sessions/<id>, a line for each tree that the session needs;
                                       `looked`, what the last look at the disk found; `lock`; `generation`

Objects are written through gitdb, many at once as one pack: measured on 10,000 files, a pack takes half the time of
loose objects and of what git itself takes for `hash-object` or `fast-import`. They are never changed. What no session
needs any more goes when one is deleted (`forget`), so whoever holds names of objects across that has to look at
`generation`. Blocking; every method that writes is called under `locked`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from laguna_agent.checkpoints.trees import EMPTY_TREE, children
from laguna_agent.directories import open_private, private_directory, state_directory
from laguna_agent.errors import UsageError

if TYPE_CHECKING:
    from gitdb.db.loose import LooseObjectDB
    from gitdb.db.pack import PackedDB

PATIENCE = 30.0
"""Seconds to wait for another session that looks at the same workspace."""
PACK_FROM = 100
"""Objects that make a pack; fewer are written one by one."""
PENDING_BYTES = 32 << 20
"""Content that is held in memory before it is written."""


class CheckpointError(UsageError):
    """A checkpoint cannot be made, read or put back."""


def stores_directory() -> Path:
    """Where all stores lie."""
    return state_directory() / "checkpoints"


def store_directory(roots: Sequence[Path]) -> Path:
    """Where the store of a workspace lies."""
    key = hashlib.sha256(b"\0".join(os.fsencode(root) for root in roots)).hexdigest()[:24]
    return stores_directory() / key


class Store:
    """See the module. Opening one makes it. Raises CheckpointError where it cannot be written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._objects = directory / "objects"
        self._pending: dict[bytes, tuple[bytes, bytes]] = {}
        self._pending_bytes = 0
        self._stored: set[bytes] = set()
        self._loose: LooseObjectDB | None = None
        self._packs: PackedDB | None = None
        try:
            private_directory(directory)
            for each in ("objects/pack", "refs/heads", "sessions"):
                private_directory(directory / each)
            if not (directory / "HEAD").exists():
                # So that it is a repository that a person can look into with git.
                (directory / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
                (directory / "HEAD").write_text("ref: refs/heads/none\n")
        except OSError as error:
            raise CheckpointError(f"checkpoints cannot be kept in {directory}: {error.strerror}") from error

    # -- one at a time ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other sessions out. Raises CheckpointError where one does not let go in time."""
        handle = open_private(self.directory / "lock", os.O_RDWR | os.O_CREAT)
        try:
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise CheckpointError("another session keeps the checkpoints of this workspace busy") from error
                    time.sleep(0.01)
            yield
        finally:
            os.close(handle)

    def generation(self) -> str:
        """Another one each time that objects were taken away."""
        with contextlib.suppress(OSError):
            return (self.directory / "generation").read_text()
        return ""

    # -- objects ----------------------------------------------------------------------------------------------------

    def add(self, kind: bytes, content: bytes) -> bytes:
        """Keep a b"blob" or b"tree"; returns its name of 20 bytes. It is written by `flush` at the latest."""
        id = hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content, usedforsecurity=False).digest()
        if id not in self._stored and id not in self._pending and not self._has(id):
            self._pending[id] = (kind, content)
            self._pending_bytes += len(content)
            if self._pending_bytes >= PENDING_BYTES:
                self.flush()
        return id

    def know(self, ids: Iterable[bytes]) -> None:
        """These objects are stored for certain."""
        self._stored.update(ids)

    def flush(self) -> None:
        """Write what was added."""
        if not self._pending:
            return
        try:
            if len(self._pending) >= PACK_FROM or self._pending_bytes >= PENDING_BYTES:
                self._write_pack(self._pending)
            else:
                self._write_loose()
        except OSError as error:
            raise CheckpointError(f"a checkpoint cannot be kept: {error.strerror}") from error
        self._stored.update(self._pending)
        self.forget_pending()

    def forget_pending(self) -> None:
        """Drop what was added and not written."""
        self._pending, self._pending_bytes = {}, 0

    def read(self, id: bytes) -> bytes:
        """The content of an object. Raises CheckpointError where it is gone or damaged."""
        if id == EMPTY_TREE:
            return b""
        if id in self._pending:
            return self._pending[id][1]
        from gitdb.exc import ODBError

        try:
            source = self._database(id)
            if source is None:
                raise CheckpointError(f"the checkpoint is gone: {self.directory} has no object {id.hex()}")
            stream = source.stream(id)
            kind, content = stream.type, stream.read()
        except (ODBError, OSError, ValueError, AssertionError) as error:
            raise CheckpointError(f"the checkpoint is damaged: object {id.hex()} in {self.directory}") from error
        if hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content, usedforsecurity=False).digest() != id:
            raise CheckpointError(f"the checkpoint is damaged: object {id.hex()} in {self.directory}")
        return bytes(content)

    def _has(self, id: bytes) -> bool:
        return id == EMPTY_TREE or self._database(id) is not None

    def _database(self, id: bytes) -> LooseObjectDB | PackedDB | None:
        if self._loose is None or self._packs is None:
            from gitdb.db.loose import LooseObjectDB
            from gitdb.db.pack import PackedDB

            self._loose, self._packs = LooseObjectDB(str(self._objects)), PackedDB(str(self._objects / "pack"))
        name = id.hex()
        # No Path: this is asked once for each new object.
        if os.access(f"{self._objects}/{name[:2]}/{name[2:]}", os.F_OK):
            return self._loose
        if self._packs.has_object(id):
            return self._packs
        # Another process may have written a pack.
        if self._packs.update_cache() and self._packs.has_object(id):
            return self._packs
        return None

    def _write_loose(self) -> None:
        from gitdb.base import IStream
        from gitdb.db.loose import LooseObjectDB

        loose = LooseObjectDB(str(self._objects))
        for kind, content in self._pending.values():
            loose.store(IStream(kind, len(content), BytesIO(content)))

    def _write_pack(self, objects: dict[bytes, tuple[bytes, bytes]]) -> None:
        """As one pack, which is there when its index is."""
        from gitdb.base import OStream
        from gitdb.pack import PackEntity

        streams = (OStream(id, kind, len(content), BytesIO(content)) for id, (kind, content) in objects.items())
        base = self._objects / "pack" / f"new-{secrets.token_hex(8)}"
        data, index = base.with_suffix(".data"), base.with_suffix(".index")
        try:
            flags = os.O_WRONLY | os.O_CREAT
            with (
                os.fdopen(open_private(data, flags), "wb") as pack,
                os.fdopen(open_private(index, flags), "wb") as written,
            ):
                name, _ = PackEntity.write_pack(streams, pack.write, written.write, len(objects), 1)
                for file in (pack, written):
                    file.flush()
                    os.fsync(file.fileno())
            final = self._objects / "pack" / f"pack-{name.hex()}.pack"
            data.rename(final)
            index.rename(final.with_suffix(".idx"))
        finally:
            data.unlink(missing_ok=True)
            index.unlink(missing_ok=True)
        self._packs = None

    # -- sessions ---------------------------------------------------------------------------------------------------

    def pin(self, session: str, tree: bytes) -> None:
        """The session needs this tree from now on."""
        with os.fdopen(open_private(self._pins(session), os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
            file.write(f"{tree.hex()}\n")

    def pinned(self, session: str) -> list[bytes]:
        """The trees that a session needs."""
        with contextlib.suppress(OSError):
            lines = self._pins(session).read_text(encoding="ascii", errors="replace").splitlines()
            return [bytes.fromhex(line) for line in lines if re.fullmatch(r"[0-9a-f]{40}", line)]
        return []

    def copy_pins(self, session: str, copy: str) -> None:
        """What one session needs, its copy needs as well."""
        for tree in self.pinned(session):
            self.pin(copy, tree)

    def _pins(self, session: str) -> Path:
        return self.directory / "sessions" / session

    def release(self, sessions: Iterable[str]) -> None:
        """The sessions need nothing any more: take away what no other does."""
        for session in sessions:
            self._pins(session).unlink(missing_ok=True)
        left = sorted(path.name for path in (self.directory / "sessions").iterdir())
        (self.directory / "generation").write_text(secrets.token_hex(8))
        (self.directory / "looked").unlink(missing_ok=True)
        self._stored.clear()
        if not left:
            shutil.rmtree(self._objects)
            private_directory(self._objects / "pack")
            self._loose = self._packs = None
            return
        self._sweep(self._reachable(tree for session in left for tree in self.pinned(session)))

    def _reachable(self, trees: Iterable[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        waiting = list(trees)
        while waiting:
            id = waiting.pop()
            if id in found:
                continue
            found.add(id)
            with contextlib.suppress(CheckpointError):
                for _, mode, child in children(self.read(id)):
                    (waiting.append if stat.S_ISDIR(mode) else found.add)(child)
        return found

    def _sweep(self, needed: set[bytes]) -> None:
        from gitdb.pack import PackEntity

        for path in self._objects.glob("??/*"):
            if len(path.name) == 38 and bytes.fromhex(path.parent.name + path.name) not in needed:
                path.unlink(missing_ok=True)
        for path in sorted((self._objects / "pack").glob("*.pack")):
            pack = PackEntity(str(path))
            held = [pack.index().sha(at) for at in range(pack.index().size())]
            if all(id in needed for id in held):
                continue
            keep = {}
            for id in held:
                if id in needed:
                    stream = pack.stream(id)
                    keep[id] = (stream.type, stream.read())
            pack.close()
            if keep:
                self._write_pack(keep)
            path.with_suffix(".idx").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        self._packs = None


def forget(session: str) -> None:
    """The session is deleted: take away what only it needed."""
    for pins in stores_directory().glob(f"*/sessions/{session}"):
        store = Store(pins.parent.parent)
        with store.locked():
            store.release([session])


def copy(session: str, fork: str) -> None:
    """The session `fork` is a copy of `session`: what that needs stays for it too."""
    for pins in stores_directory().glob(f"*/sessions/{session}"):
        store = Store(pins.parent.parent)
        with store.locked():
            store.copy_pins(session, fork)
