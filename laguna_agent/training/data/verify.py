"""Whether a store is what it says: every hash, row, parent and name; and what nothing needs any more.

Knows files and manifests; must not know what columns mean.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from laguna_agent.errors import DatasetError
from laguna_agent.training.data.contents import content_hash
from laguna_agent.training.data.manifest import SHOWN, Record, is_hash
from laguna_agent.training.data.store import Store, Version

_FOLDERS = {"shards": ".parquet", "versions": ".json", "derived": ".json"}
_FILES = frozenset({"lock", "names.json", "names.json.lock"})
_BLOCK = 1 << 20


class Verified(NamedTuple):
    """How much was looked at, and what is wrong with it: one line each, with the file's name."""

    versions: int
    shards: int
    problems: tuple[str, ...]


def verify(store: Store, versions: Iterable[str] = ()) -> Verified:
    """Check those versions and all that they were made of; without any, the whole store, strays and names too.

    Raises DatasetError where there is no store, or no such version.
    """
    if not store.root.is_dir():
        raise DatasetError(f"there is no store at {store.root}")
    problems: list[str] = []
    chosen = [store.resolve(each) for each in versions]
    opened: dict[str, Version] = {}
    waiting = list(chosen) or store.ids()
    while waiting:
        id = waiting.pop()
        if id in opened:
            continue
        try:
            opened[id] = store.open(id)
            waiting += opened[id].manifest.parents
        except DatasetError as error:
            problems.append(str(error))
    checked: dict[tuple[str, str], str] = {}
    for version in opened.values():
        for at in range(len(version.shards)):
            shard = version.shards[at]
            if (shard.file, shard.content) not in checked:
                checked[shard.file, shard.content] = _shard_problem(version, at)
                if problem := checked[shard.file, shard.content]:
                    problems.append(problem)
    if not chosen:
        problems += _names(store)
        problems += _strays(store)
        problems += _records(store)
    return Verified(len(opened), len(checked), tuple(sorted(set(problems))))


def _shard_problem(version: Version, at: int) -> str:
    shard = version.shards[at]
    path = version.store.shard_path(shard.file)
    try:
        table = version.table(at)
        # Of the file first: what was flipped may lie where no value is.
        if file_hash(path) != shard.file:
            return f"shard {path.name} of version {version.short} is damaged: its bytes have another hash; {_ANEW}"
        if content_hash(table) != shard.content:
            return f"version {version.short} says of shard {path.name} what is not in it: other rows; {_ANEW}"
    except DatasetError as error:
        return str(error)
    except OSError as error:
        return f"shard {path.name} of version {version.short} cannot be read: {error.strerror or error}"
    return ""


_ANEW = "remove it and derive the version anew"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _names(store: Store) -> Iterator[str]:
    try:
        names = store.names()
    except DatasetError as error:
        yield str(error)
        return
    for name, id in names.items():
        if not store.manifest_path(id).is_file():
            yield f"{store.root / 'names.json'}: {name!r} is version {id[:SHOWN]}, which is not there"


def _strays(store: Store) -> Iterator[str]:
    if not store.root.is_dir():
        return
    for entry in os.scandir(store.root):
        if entry.name not in (_FOLDERS if entry.is_dir(follow_symlinks=False) else _FILES):
            yield f"{entry.path} is no part of a store; move it away"
    for folder, suffix in _FOLDERS.items():
        for path in sorted((store.root / folder).glob("*")):
            if _is_left_over(path):
                yield f"{path} was left by a process that was killed; `laguna-agent data gc` takes it away"
            elif path.suffix != suffix or not is_hash(path.stem) or path.is_symlink():
                yield f"{path} is no part of a store; remove it"


def _is_left_over(path: Path) -> bool:
    """Whether this is a file that `atomic` had not given its name yet, on a file system without nameless ones."""
    return path.name.startswith(".") and path.suffix == ".tmp" and not path.is_dir()


def _records(store: Store) -> Iterator[str]:
    """Records of what was derived: one that names a damaged shard would be believed."""
    for path in sorted(store.root.glob("derived/*.json")):
        try:
            shard = msgspec.json.decode(path.read_bytes(), type=Record).shard
            file = store.shard_path(shard.file)
            if not file.is_file():
                continue  # it is derived anew when it is asked for
            whole = file_hash(file) == shard.file
        except (OSError, msgspec.DecodeError, DatasetError) as error:
            yield f"{path} cannot be read: {error}; remove it"
            continue
        if not whole:
            yield f"shard {file.name}, which {path.name} in {path.parent} names, is damaged; remove it"


class Collected(NamedTuple):
    """What nothing needs: the versions, the files, and their bytes."""

    versions: tuple[str, ...]
    files: int
    bytes: int


def collect(store: Store, *, dry: bool = False) -> Collected:
    """Take away versions that no name leads to, and what serves none of the others; with `dry` only count it.

    Raises DatasetError where another process works on the store, or one of its names leads nowhere.
    """
    store.hold.alone()
    try:
        kept = {each.id: each for id in store.names().values() for each in store.open(id).ancestry()}
        needed = {shard.file for version in kept.values() for shard in version.shards}
        contents = {shard.content for version in kept.values() for shard in version.shards}
        served: set[str] = set()
        gone = [id for id in store.ids() if id not in kept]
        doomed = [store.manifest_path(id) for id in gone]
        for path in store.root.glob("derived/*.json"):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            except msgspec.DecodeError:
                doomed.append(path)
                continue
            # Signatures and the like, which belong to no version, serve those whose shards they were made of.
            if record.shard.file in needed or contents.intersection(record.inputs):
                served.add(record.shard.file)
            else:
                doomed.append(path)
        doomed += [path for path in store.root.glob("shards/*.parquet") if path.stem not in needed | served]
        doomed += [path for folder in _FOLDERS for path in (store.root / folder).glob("*") if _is_left_over(path)]
        size = sum(path.lstat().st_size for path in doomed)
        if not dry:
            # Manifests first: a version is whole or absent, whenever this is cut short.
            for path in doomed:
                path.unlink(missing_ok=True)
    finally:
        store.close()
    return Collected(tuple(gone), len(doomed), size)
