"""Documents from folders and git repositories. Texts are taken as they are, or left out and counted: never altered.

A shard holds the documents whose (source, path) hashes to it, so that a file that changes changes one shard. What
goes into a shard is known by the files' hashes before any is read as text: a shard that was made before is not made
again. Knows files and documents; must not know what becomes of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec
import pyarrow as pa

from laguna_agent import redaction
from laguna_agent.errors import ConfigError
from laguna_agent.training.data import contents, documents
from laguna_agent.training.data.manifest import code_of
from laguna_agent.training.data.operations import Outcome, work_of
from laguna_agent.training.data.sources import File, Listing, Source, list_files
from laguna_agent.training.data.store import Built, Derived, Store

CODE = (__name__, documents.__name__, redaction.__name__)


class Ingest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`shards` documents are spread over; files over `largest` bytes are left out."""

    shards: int = 64
    largest: int = 1_000_000


def ingest(store: Store, sources: Sequence[Source], config: Ingest | None = None, name: str | None = None) -> Outcome:
    """The documents of some sources as a version. Raises ConfigError, DatasetError."""
    config = config or Ingest()
    if not 1 <= config.shards <= 65_536 or config.largest < 1:
        raise ConfigError("ingest: shards is 1 to 65536, and largest at least 1")
    names = [source.name for source in sources]
    if not sources or len(set(names)) != len(names) or any(not each or "\0" in each for each in names):
        raise ConfigError("ingest needs sources, each with a name of its own")
    sources = sorted(sources, key=lambda each: each.name)
    listings = [list_files(source, config.largest) for source in sources]
    groups: dict[int, list[tuple[str, File]]] = defaultdict(list)
    for source, listing in zip(sources, listings, strict=True):
        for file in listing.files:
            groups[documents.bucket_of(source.name, file.path, config.shards)].append((source.name, file))
    done = [_shard(store, groups[at]) for at in sorted(groups)]
    version = store.write(
        documents.KIND,
        [each.shard for each in done],
        operation="ingest",
        config={
            "settings": msgspec.to_builtins(config),
            "sources": [_told(source, listing) for source, listing in zip(sources, listings, strict=True)],
        },
        code=code_of(CODE),
        left_out=sum((listing.left_out for listing in listings), Counter()),
        schema=documents.COLUMNS,
        name=name,
    )
    return Outcome(version, (work_of("ingest", done),))


def _told(source: Source, listing: Listing) -> dict[str, object]:
    # Not the place on this machine: the same files are the same version everywhere.
    told: dict[str, object] = {"name": source.name, "include": list(source.include), "exclude": list(source.exclude)}
    return told | {"commit": listing.commit} if listing.commit else told


def _shard(store: Store, files: list[tuple[str, File]]) -> Derived:
    files.sort(key=lambda each: (each[0], each[1].path))
    key = [[source, file.path, file.hash] for source, file in files]
    return store.derived("ingest", code_of(CODE), key, lambda: _documents(files))


def _documents(files: list[tuple[str, File]]) -> Built:
    rows: list[dict[str, object]] = []
    left_out: Counter[str] = Counter()
    for source, file in files:
        text, reason = text_of(file.read())
        if reason:
            left_out[reason] += 1
            continue
        rows.append(
            {
                "id": documents.document_id(text),
                "source": source,
                "path": file.path,
                "language": documents.language_of(file.path),
                "flags": documents.flags_of(file.path, text),
                "score": 0.0,
                "bucket": -1,
                "text": text,
            }
        )
    table = pa.Table.from_pylist(rows, contents.schema_of(documents.COLUMNS))
    return table, {"left_out": dict(left_out)} if left_out else {}


def text_of(data: bytes) -> tuple[str, str]:
    """The text of a file, or why it is left out."""
    if not data:
        return "", "empty"
    if b"\0" in data:
        return "", "not text"
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "", "not UTF-8"
    if redaction.shows_secret(data, tokens=True) and redaction.without_tokens(text) != text:
        return "", "holds a secret"
    return text, ""
