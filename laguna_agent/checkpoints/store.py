"""Where checkpoints lie: one bare git repository per workspace, outside it, shared by the sessions that work there.

    <state>/checkpoints/<workspace>/   objects/ as git's; sessions/<id>, a line for each tree that the session needs;
                                       `looked`, what the last look at the disk found; `lock`; `generation`

Objects are written through gitdb, many at once as one pack: measured on 10,000 files, a pack takes half the time of
loose objects and of what git itself takes for `hash-object` or `fast-import`. They are never changed. What no session
needs any more goes (`housekeeping`), so whoever holds names of objects across that has to look at
`generation`. Blocking; every method that writes is called under `locked`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from laguna_agent.checkpoints.trees import EMPTY_TREE
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


def write_private(path: Path, text: str) -> None:
    """A small file that only its owner may read. Raises OSError."""
    with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w", encoding="utf-8") as file:
        file.write(text)


class Store:
    """See the module. Opening one makes it. Raises CheckpointError where it cannot be written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.objects = directory / "objects"
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
                write_private(directory / "config", "[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
                write_private(directory / "HEAD", "ref: refs/heads/none\n")
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
                self.write_pack(self._pending)
            else:
                self._write_loose()
        except OSError as error:
            raise CheckpointError(f"a checkpoint cannot be kept: {error.strerror}") from error
        self._stored.update(self._pending)
        self.forget_pending()

    def look_again(self) -> None:
        """Objects went away, or lie elsewhere: what is known of them is not believed any more."""
        self._stored.clear()
        self._loose = self._packs = None

    def forget_pending(self) -> None:
        """Drop what was added and not written."""
        self._pending, self._pending_bytes = {}, 0

    def read(self, id: bytes) -> bytes:
        """The content of an object. Raises CheckpointError where it is gone or damaged."""
        if id == EMPTY_TREE:
            return b""
        return self._pending[id][1] if id in self._pending else self.read_object(id)[1]

    def read_object(self, id: bytes) -> tuple[bytes, bytes]:
        """The kind and the content of a written object. Raises CheckpointError."""
        from gitdb.exc import ODBError

        try:
            source = self._database(id)
            if source is None:
                raise CheckpointError(f"the checkpoint is gone: {self.directory} has no object {id.hex()}")
            stream = source.stream(id)
            kind, content = bytes(stream.type), bytes(stream.read())
        except (ODBError, OSError, ValueError, AssertionError, zlib.error) as error:
            raise CheckpointError(f"the checkpoint is damaged: object {id.hex()} in {self.directory}") from error
        if hashlib.sha1(b"%s %d\0" % (kind, len(content)) + content, usedforsecurity=False).digest() != id:
            raise CheckpointError(f"the checkpoint is damaged: object {id.hex()} in {self.directory}")
        return kind, content

    def _has(self, id: bytes) -> bool:
        return id == EMPTY_TREE or self._database(id) is not None

    def _database(self, id: bytes) -> LooseObjectDB | PackedDB | None:
        if self._loose is None or self._packs is None:
            from gitdb.db.loose import LooseObjectDB
            from gitdb.db.pack import PackedDB

            self._loose, self._packs = LooseObjectDB(str(self.objects)), PackedDB(str(self.objects / "pack"))
        name = id.hex()
        # No Path: this is asked once for each new object.
        if os.access(f"{self.objects}/{name[:2]}/{name[2:]}", os.F_OK):
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

        loose = LooseObjectDB(str(self.objects))
        loose.new_objects_mode = 0o400
        for id, (kind, content) in self._pending.items():
            private_directory(self.objects / id.hex()[:2])
            loose.store(IStream(kind, len(content), BytesIO(content)))

    def write_pack(self, objects: dict[bytes, tuple[bytes, bytes]]) -> None:
        """Write objects as one pack, which is there when its index is."""
        from gitdb.base import OStream
        from gitdb.pack import PackEntity

        streams = (OStream(id, kind, len(content), BytesIO(content)) for id, (kind, content) in objects.items())
        base = self.objects / "pack" / f"new-{secrets.token_hex(8)}"
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
            final = self.objects / "pack" / f"pack-{name.hex()}.pack"
            data.rename(final)
            index.rename(final.with_suffix(".idx"))
        finally:
            data.unlink(missing_ok=True)
            index.unlink(missing_ok=True)
        self._packs = None

    # -- sessions ---------------------------------------------------------------------------------------------------

    def pin(self, session: str, tree: bytes) -> None:
        """The session needs this tree from now on."""
        with os.fdopen(open_private(self.pins(session), os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:
            file.write(f"{tree.hex()}\n")

    def pinned(self, session: str) -> list[bytes]:
        """The trees that a session needs."""
        with contextlib.suppress(OSError):
            lines = self.pins(session).read_text(encoding="ascii", errors="replace").splitlines()
            return [bytes.fromhex(line) for line in lines if re.fullmatch(r"[0-9a-f]{40}", line)]
        return []

    def copy_pins(self, session: str, copy: str) -> None:
        """What one session needs, its copy needs as well."""
        for tree in self.pinned(session):
            self.pin(copy, tree)

    def pins(self, session: str) -> Path:
        """Where that is written."""
        return self.directory / "sessions" / session
