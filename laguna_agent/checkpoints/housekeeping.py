"""Keeping the stores of checkpoints small: what no session needs any more goes, loose objects become packs.

Knows the store's layout on disk; must not know what a checkpoint is for. Blocking; to be called under the store's lock.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from laguna_agent.checkpoints.store import PENDING_BYTES, CheckpointError, Store, stores_directory, write_private
from laguna_agent.checkpoints.trees import children
from laguna_agent.directories import private_directory

MOST_SESSIONS = 40
"""Sessions whose checkpoints of one workspace are kept; of more than these the oldest go, some at once."""
KEPT_SESSIONS = 30
MOST_BYTES = 4 << 30
"""Bytes of one workspace's checkpoints; beyond them nothing new is kept."""
MOST_LOOSE = 2_000
"""Objects that lie in files of their own before they become a pack."""


def tidy(store: Store, session: str) -> None:
    """Before a session's first checkpoint: let the oldest sessions go where there are many, or too much of them.
    Raises CheckpointError where this workspace's checkpoints are too large even so."""
    others = sorted(
        (path for path in (store.directory / "sessions").iterdir() if path.name != session),
        key=lambda path: path.stat().st_mtime_ns,
    )
    if len(others) >= MOST_SESSIONS:
        release(store, [path.name for path in others[:-KEPT_SESSIONS]])
        others = others[-KEPT_SESSIONS:]
    loose = list(_loose(store))
    if len(loose) > MOST_LOOSE:
        _pack(store, loose)
    while (size := _size(store)) > MOST_BYTES and others:
        half = (len(others) + 1) // 2
        release(store, [path.name for path in others[:half]])
        others = others[half:]
    if size > MOST_BYTES:
        raise CheckpointError(f"the checkpoints of this workspace take more than {MOST_BYTES >> 30} GiB")


def _loose(store: Store) -> Iterator[Path]:
    return (path for path in store.objects.glob("??/*") if len(path.name) == 38)


def _id(path: Path) -> bytes:
    return bytes.fromhex(path.parent.name + path.name)


def _size(store: Store) -> int:
    return sum(path.stat().st_size for path in store.objects.rglob("*") if path.is_file())


def _pack(store: Store, loose: Iterable[Path]) -> None:
    waiting: dict[bytes, tuple[bytes, bytes]] = {}
    paths: list[Path] = []
    room = PENDING_BYTES

    def write() -> None:
        store.write_pack(waiting)
        for path in paths:
            path.unlink(missing_ok=True)
        waiting.clear()
        paths.clear()

    for path in loose:
        with contextlib.suppress(CheckpointError):
            kind, content = store.read_object(_id(path))
            waiting[_id(path)] = (kind, content)
            paths.append(path)
            room -= len(content)
            if room <= 0:
                write()
                room = PENDING_BYTES
    if waiting:
        write()
    store.look_again()


def release(store: Store, sessions: Iterable[str]) -> None:
    """The sessions need nothing any more: take away what no other does."""
    for session in sessions:
        store.pins(session).unlink(missing_ok=True)
    left = sorted(path.name for path in (store.directory / "sessions").iterdir())
    write_private(store.directory / "generation", secrets.token_hex(8))
    (store.directory / "looked").unlink(missing_ok=True)
    store.look_again()
    if not left:
        shutil.rmtree(store.objects)
        private_directory(store.objects / "pack")
        return
    _sweep(store, _reachable(store, (tree for session in left for tree in store.pinned(session))))


def _reachable(store: Store, trees: Iterable[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    waiting = list(trees)
    while waiting:
        id = waiting.pop()
        if id in found:
            continue
        found.add(id)
        with contextlib.suppress(CheckpointError):
            for _, mode, child in children(store.read(id)):
                (waiting.append if stat.S_ISDIR(mode) else found.add)(child)
    return found


def _sweep(store: Store, needed: set[bytes]) -> None:
    from gitdb.pack import PackEntity

    for path in list(_loose(store)):
        if _id(path) not in needed:
            path.unlink(missing_ok=True)
    for path in sorted((store.objects / "pack").glob("*.pack")):
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
            store.write_pack(keep)
        path.with_suffix(".idx").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    store.look_again()


def forget(session: str) -> None:
    """The session is deleted: take away what only it needed."""
    for pins in stores_directory().glob(f"*/sessions/{session}"):
        store = Store(pins.parent.parent)
        with store.locked():
            release(store, [session])


def copy(session: str, fork: str) -> None:
    """The session `fork` is a copy of `session`: what that needs stays for it too."""
    for pins in stores_directory().glob(f"*/sessions/{session}"):
        store = Store(pins.parent.parent)
        with store.locked():
            store.copy_pins(session, fork)
