"""Versions of tokens as versions of packs, group by group: one document that changed re-packs its group.

A group is some shards of the input. Its packs that are nearly full are kept as they
are; what lies in the others is packed together at the end, for all groups at once, so that many small groups cost
work there and no room. Knows the store; how pieces are put together is said elsewhere (`packing.py`, `pack_rows.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from laguna_agent.errors import ConfigError
from laguna_agent.training.data import pack_rows, packing
from laguna_agent.training.data.manifest import Code, code_of
from laguna_agent.training.data.operations import Operation, Outcome, only_parent, work_of
from laguna_agent.training.data.pack_rows import PACKED, Piece, Tokens, read_tokens
from laguna_agent.training.data.packing import Part, best_fit
from laguna_agent.training.data.store import Built, Derived, Store, Version

KIND = "packed"
CODE = (__name__, packing.__name__, pack_rows.__name__)


class PackTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Packs of at most `capacity` tokens. `group` shards are packed together; a pack less full than `kept` is packed
    again with those of other groups. With `projects` the documents of a source follow one another in one sequence, as
    far as they are in one group (`order` puts them there), and quality buckets are not told apart."""

    capacity: int = 2048
    group: int = 1
    projects: bool = False
    kept: float = 0.99


class _Group(NamedTuple):
    key: Any
    rows: Iterable[Tokens]


def pack(store: Store, parents: Sequence[Version], config: PackTokens, name: str | None = None) -> Outcome:
    """The packs of a version of tokens. Conversations that are longer than a pack are left out and counted, for half of
    one teaches an answer to what is not there; documents are cut. Raises ConfigError, DatasetError."""
    tokens = only_parent("pack", parents, "tokens")
    if config.capacity < 2 or config.group < 1 or not 0 <= config.kept <= 1:
        raise ConfigError(
            f"pack: capacity is {config.capacity}, group {config.group}, kept {config.kept}; expected 2 or more, 1 or "
            "more, and 0 to 1"
        )
    code = code_of(CODE)
    settings: dict[str, Any] = msgspec.to_builtins(config)
    pairs = [_packed(store, code, group, config, settings) for group in _groups(tokens, config.group)]
    leavings = [rest.shard for _, rest in pairs]

    def build() -> Built:
        pieces = chain.from_iterable(
            pack_rows.read_pieces(store.read(shard, PACKED)) for shard in leavings if shard.rows
        )
        return _together(list(pieces), config.capacity)

    key = {"leavings": [shard.content for shard in leavings], "capacity": config.capacity}
    last = store.derived("pack leavings", code, key, build)
    version = store.write(
        KIND,
        [*(full.shard for full, _ in pairs), last.shard],
        parents=[tokens],
        operation="pack",
        config=settings,
        code=code,
        schema=PACKED,
        name=name,
    )
    full = [full for full, _ in pairs]
    return Outcome(version, (work_of("pack", full), work_of("pack leavings", [last])))


def fill_of(version: Version) -> float:
    """How full the packs of a version are, 1.0 being all of their room."""
    tokens = sum(int(shard.note.get("tokens", 0)) for shard in version.shards)
    return tokens / (len(version) * int(version.manifest.config["capacity"])) if len(version) else 1.0


def _groups(tokens: Version, size: int) -> Iterator[_Group]:
    for first in range(0, len(tokens.shards), size):
        shards = range(first, min(first + size, len(tokens.shards)))
        rows = (row for at in shards for row in read_tokens(tokens.table(at)))
        yield _Group([tokens.shards[at].content for at in shards], rows)


def _packed(
    store: Store, code: Code, group: _Group, config: PackTokens, settings: dict[str, Any]
) -> tuple[Derived, Derived]:
    """The full packs of a group, and the pieces that were in its other ones."""

    @cache
    def both() -> tuple[Built, Built]:
        return _divided(group.rows, config)

    key = {"tokens": group.key, "settings": settings}
    return (
        store.derived("pack", code, key, lambda: both()[0]),
        store.derived("pack rest", code, key, lambda: both()[1]),
    )


def _divided(rows: Iterable[Tokens], config: PackTokens) -> tuple[Built, Built]:
    short: dict[str, list[Tokens]] = {}
    too_long = 0
    for row in rows:
        if row.weights is not None and len(row.ids) > config.capacity:
            too_long += 1
        else:
            short.setdefault("" if config.projects else row.bucket, []).append(row)
    full: list[tuple[str, list[Piece]]] = []
    rest: list[tuple[str, list[Piece]]] = []
    for bucket, documents in sorted(short.items()):
        for pieces in _fitted(_pieces(documents, config), config.capacity):
            if sum(len(piece.ids) for piece in pieces) >= config.kept * config.capacity:
                full.append((bucket, pieces))
            else:
                rest += [(bucket, [piece]) for piece in pieces]
    left_out = {"longer than a pack": too_long} if too_long else {}
    return _built(full, {"left_out": left_out} if left_out else {}), _built(rest, {})


def _pieces(documents: list[Tokens], config: PackTokens) -> list[Piece]:
    lengths = [len(document.ids) for document in documents]
    if config.projects and any(document.weights is not None for document in documents):
        raise ConfigError("pack: conversations have no projects; leave `projects` out")
    if config.projects:
        sequences = packing.cut_projects(lengths, [document.source for document in documents], config.capacity)
    else:
        sequences = packing.cut_documents(lengths, config.capacity)
    return [_piece(documents, sequence) for sequence in sequences]


def _piece(documents: list[Tokens], parts: list[Part]) -> Piece:
    one = documents[parts[0].document]
    taken = [documents[part.document].ids[part.offset : part.offset + part.length] for part in parts]
    return Piece(
        np.concatenate(taken),
        one.weights,
        tuple(part.length for part in parts),
        tuple(documents[part.document].document for part in parts),
        tuple(part.offset for part in parts),
    )


def _fitted(pieces: list[Piece], capacity: int) -> list[list[Piece]]:
    return [[pieces[index] for index in pack] for pack in best_fit([len(piece.ids) for piece in pieces], capacity)]


def _together(pieces: list[tuple[str, Piece]], capacity: int) -> Built:
    by_bucket: dict[str, list[Piece]] = {}
    for bucket, piece in pieces:
        by_bucket.setdefault(bucket, []).append(piece)
    return _built(
        [(bucket, pack) for bucket, found in sorted(by_bucket.items()) for pack in _fitted(found, capacity)], {}
    )


def _built(packs: list[tuple[str, list[Piece]]], note: dict[str, Any]) -> Built:
    table: pa.Table = pack_rows.pack_table(packs)
    return table, note | {"tokens": sum(len(piece.ids) for _, pieces in packs for piece in pieces)}


def _run(store: Store, parents: Sequence[Version], config: Any) -> Outcome:
    return pack(store, parents, config)


OPERATION = Operation("pack", PackTokens, _run)
