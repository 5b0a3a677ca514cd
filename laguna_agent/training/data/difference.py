"""What is between two versions: documents that came, went and changed, and settings. Knows versions alone."""

from __future__ import annotations

from typing import Any, NamedTuple

from laguna_agent.errors import DatasetError
from laguna_agent.training.data import documents
from laguna_agent.training.data.store import Version


class Difference(NamedTuple):
    """Documents as `source:path`, sorted, for versions of documents; shards by content, and what else differs, for
    all. `settings` is (what, in the old one, in the new one)."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    reranked: tuple[str, ...]
    shards_shared: int
    shards_old: int
    shards_new: int
    settings: tuple[tuple[str, str, str], ...]


def difference(old: Version, new: Version) -> Difference:
    """What `new` has that `old` has not, and the other way round. Raises DatasetError where they are of two kinds."""
    if old.kind != new.kind:
        raise DatasetError(f"{old.short} holds {old.kind} and {new.short} holds {new.kind}: they cannot be compared")
    one, two = ({shard.content for shard in version.shards} for version in (old, new))
    before, after = (_documents(old, two), _documents(new, one)) if old.kind == documents.KIND else ({}, {})
    both = before.keys() & after.keys()
    return Difference(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(key for key in both if before[key][0] != after[key][0])),
        reranked=tuple(sorted(key for key in both if before[key][0] == after[key][0] and before[key] != after[key])),
        shards_shared=len(one & two),
        shards_old=len(old.shards),
        shards_new=len(new.shards),
        settings=tuple(_settings(old, new)),
    )


def _documents(version: Version, shared: set[str]) -> dict[str, tuple[str, float, int]]:
    """The documents of the shards that only one of the versions has."""
    found = {}
    for at, shard in enumerate(version.shards):
        if shard.content not in shared:
            for row in version.table(at, ["id", "source", "path", "score", "bucket"]).to_pylist():
                found[f"{row['source']}:{row['path']}"] = row["id"], row["score"], row["bucket"]
    return found


def _settings(old: Version, new: Version) -> list[tuple[str, str, str]]:
    pairs: list[tuple[str, Any, Any]] = [
        ("operation", old.manifest.operation, new.manifest.operation),
        ("code", old.manifest.code.hash[:16], new.manifest.code.hash[:16]),
        ("engines", old.manifest.code.engines, new.manifest.code.engines),
        ("columns", old.manifest.columns, new.manifest.columns),
    ]
    one, two = old.manifest.config, new.manifest.config
    pairs += [(f"config {key}", one.get(key), two.get(key)) for key in sorted(one.keys() | two.keys())]
    return [(name, str(before), str(after)) for name, before, after in pairs if before != after]
