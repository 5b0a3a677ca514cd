"""Where a token came from, and where a document went; which data a checkpoint saw, and which runs saw a version.

Knows documents, packed rows and the `lineage.json` that runs leave in their checkpoints; must not know what trains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from laguna_agent.errors import DatasetError
from laguna_agent.training.data.store import Store, Version

PACKED = "packed"
LINEAGE_FILE = "lineage.json"
LARGEST_LINEAGE = 16 << 20
_ID = re.compile("d_[0-9a-f]{64}")


class Place(NamedTuple):
    """A document under one of its paths, as a version holds it. `commit` is empty for what came from a folder."""

    version: str
    source: str
    path: str
    commit: str


class Origin(NamedTuple):
    """A token's document (SHA-256 of its text), how many of the document's tokens come before it, and where it was
    found; `shard` and `row` are the pack's."""

    document: str
    token: int
    shard: int
    row: int
    places: tuple[Place, ...]


class Held(NamedTuple):
    """A version that holds a document, and where: (shard, row) of each row that has it."""

    version: str
    kind: str
    operation: str
    rows: tuple[tuple[int, int], ...]


class Trained(NamedTuple):
    """A checkpoint's folder, and the versions that it names."""

    folder: Path
    versions: tuple[str, ...]


def token_origin(version: Version, offset: int) -> Origin:
    """Where the token at `offset` comes from, counted over all packs of a packed version in their order. Raises
    DatasetError where there is no such token, or the version is of another kind."""
    if version.kind != PACKED:
        raise DatasetError(f"version {version.short} holds {version.kind}; only packed versions have token offsets")
    first = 0
    for shard in range(len(version.shards)):
        lengths = version.table(shard, ["lengths"])["lengths"].to_pylist()
        for row, pieces in enumerate(lengths):
            if 0 <= offset < first + sum(pieces):
                return _piece(version, shard, row, offset - first)
            first += sum(pieces)
    raise DatasetError(f"version {version.short} has {first:,} tokens; there is none at {offset:,}")


def pack_origins(version: Version, shard: int, row: int) -> list[Origin]:
    """Where each piece of a pack begins in its document, in the order of the pack. Raises DatasetError."""
    pack = _pack(version, shard, row)
    starts = [sum(pack["lengths"][:at]) for at in range(len(pack["lengths"]))]
    return [_piece(version, shard, row, start) for start in starts]


def _pack(version: Version, shard: int, row: int) -> dict[str, Any]:
    if not (0 <= shard < len(version.shards) and 0 <= row < version.shards[shard].rows):
        raise DatasetError(f"version {version.short} has no pack in shard {shard}, row {row}")
    found: dict[str, Any] = version.table(shard, ["lengths", "documents", "offsets"]).slice(row, 1).to_pylist()[0]
    return found


def _piece(version: Version, shard: int, row: int, token: int) -> Origin:
    pack = _pack(version, shard, row)
    for length, document, offset in zip(pack["lengths"], pack["documents"], pack["offsets"], strict=True):
        if token < length:
            return Origin(document, offset + token, shard, row, tuple(places(version, document)))
        token -= length
    raise DatasetError(f"version {version.short}: the pack in shard {shard}, row {row} has fewer tokens than it says")


def places(version: Version, document: str) -> Iterator[Place]:
    """Where a document lies in the nearest version of documents or conversations that a version was made of."""
    for each in version.ancestry():
        if not _has_places(each):
            continue
        found = [
            Place(each.id, row["source"], row["path"], commits(each).get(row["source"], ""))
            for at in range(len(each.shards))
            for row in each.table(at, ["id", "source", "path"]).to_pylist()
            if row["id"] == document
        ]
        if found:
            yield from found
            return


def _has_places(version: Version) -> bool:
    """Whether a version says where its rows were found: documents do, and conversations."""
    return {"id", "source", "path"} <= {name for name, _ in version.manifest.columns}


def commits(version: Version) -> dict[str, str]:
    """The commit of each source of a version that came from git."""
    found: dict[str, str] = {}
    for each in version.ancestry():
        for source in each.manifest.config.get("sources", ()):
            if isinstance(source, dict) and "commit" in source:
                found[source["name"]] = source["commit"]
    return found


def documents_at(store: Store, path: str, versions: list[Version] | None = None) -> set[str]:
    """The ids of the documents that had a path (or `source:path`) in any version."""
    found = set()
    for version in versions if versions is not None else all_versions(store):
        if not _has_places(version):
            continue
        for row in version.rows(["id", "source", "path"]):
            if path in (row["path"], f"{row['source']}:{row['path']}"):
                found.add(row["id"])
    return found


def holders(store: Store, document: str) -> list[Held]:
    """Every version that holds a document, by its id or a beginning of it: documents, tokens and packs. Raises
    DatasetError where none does."""
    found = []
    for version in all_versions(store):
        names = {name for name, _ in version.manifest.columns}
        column = next((name for name in ("documents", "document", "id") if name in names), "")
        if not column:
            continue
        rows = tuple(
            (shard, row)
            for shard in range(len(version.shards))
            for row, held in enumerate(version.table(shard, [column])[column].to_pylist())
            if any(each.startswith(document) for each in (held if isinstance(held, list) else [held]))
        )
        if rows:
            found.append(Held(version.id, version.kind, version.manifest.operation, rows))
    if not found:
        raise DatasetError(f"no version in {store.root} holds a document {document!r}")
    return found


def all_versions(store: Store) -> list[Version]:
    """Every version, by id."""
    return [store.open(id) for id in store.ids()]


def checkpoint_versions(store: Store, folder: Path) -> list[Version]:
    """The versions that a checkpoint was trained on, by its `lineage.json`. Raises DatasetError."""
    return [store.open(id) for id in read_lineage(folder / LINEAGE_FILE)]


def read_lineage(path: Path) -> list[str]:
    """The ids of all versions that a run's lineage names, sorted. Raises DatasetError where it cannot be read."""
    try:
        if path.stat().st_size > LARGEST_LINEAGE:
            raise DatasetError(f"{path} is too large to be a run's lineage")
        told = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"the lineage {path} cannot be read: {error}") from error
    return sorted(_ids(told))


def _ids(value: Any) -> set[str]:
    """Every version's id in JSON, as a key or as a value: what else a run tells is its own affair."""
    if isinstance(value, str):
        return {value} if _ID.fullmatch(value) else set()
    if isinstance(value, dict):
        return _ids(list(value)) | _ids(list(value.values()))
    return set().union(*map(_ids, value)) if isinstance(value, list) else set()


def runs_of(store: Store, version: Version, folder: Path) -> list[Trained]:
    """The checkpoints below a folder that saw a version, or one that was made of it; sorted by folder."""
    found = []
    for path in sorted(folder.rglob(LINEAGE_FILE)):
        ids = read_lineage(path)
        seen = set(ids)
        for id in ids:
            if store.manifest_path(id).is_file():
                seen |= {each.id for each in store.open(id).ancestry()}
        if version.id in seen:
            found.append(Trained(path.parent, tuple(ids)))
    return found
