"""Near-duplicates: of documents that share most of their text, the best-ranked one stays.

MinHash signatures (datasketch) of shingles of tokens, cached for each shard; documents that agree in a band of their
signatures (locality-sensitive hashing) are compared by their shingles themselves, so that what is taken out is surely
alike; what is alike, however indirectly, is one cluster. `exact` compares texts' hashes alone: the naive arm.

Knows documents and their ranks; must not know what a score means.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from datasketch import MinHash, MinHashLSH

from laguna_agent.errors import ConfigError
from laguna_agent.training.data import documents
from laguna_agent.training.data.contents import Columns, schema_of
from laguna_agent.training.data.manifest import Shard, code_of
from laguna_agent.training.data.operations import Operation, Outcome, only_parent, work_of
from laguna_agent.training.data.store import Built, Derived, Store, Version

CODE = (__name__, documents.__name__)
SIGNATURES: Columns = (
    ("id", "string"),
    ("source", "string"),
    ("path", "string"),
    ("score", "double"),
    ("signature", "list<uint32>"),
)
BANDS, ROWS = 16, 8
"""A pair of Jaccard similarity s meets in a band with probability 1 - (1 - s^ROWS)^BANDS: 0.994 at 0.85, 0.06 at
0.5."""
PERMUTATIONS = BANDS * ROWS
_SCHEME = "affine32"
_TOKEN = re.compile(r"\w+|[^\w\s]")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_BATCH = 4096


class Dedup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`threshold` is the Jaccard similarity, over shingles of `shingle` tokens, from which on documents are the same;
    `exact` looks for equal texts alone."""

    threshold: float = 0.8
    shingle: int = 5
    method: Literal["minhash", "exact"] = "minhash"


class Member(NamedTuple):
    """A document as deduplication sees it: its shard and row, its text's hash, and its rank."""

    shard: int
    row: int
    id: str
    rank: tuple[float, str, str]


def dedup(store: Store, parents: Sequence[Version], config: Dedup) -> Outcome:
    """The documents less duplicates. Raises ConfigError, DatasetError."""
    parent = only_parent("dedup", parents, documents.KIND)
    if not 0 < config.threshold <= 1 or not 1 <= config.shingle <= 100:
        raise ConfigError("dedup: threshold lies above 0 and up to 1, shingle is 1 to 100")
    code = code_of(CODE, ("datasketch", "numpy"), python=True)
    shingle = config.shingle if config.method == "minhash" else 0
    signed = [
        store.derived("signatures", code, [shard.content, shingle], partial(_sign, parent, at, shingle))
        for at, shard in enumerate(parent.shards)
    ]
    equal, alike = _clusters(store, parent, [each.shard for each in signed], config)
    dropped: dict[int, dict[int, str]] = defaultdict(dict)
    for reason, clusters in (("duplicate", equal), ("near duplicate", alike)):
        for cluster in clusters:
            for member in sorted(cluster, key=lambda each: each.rank)[1:]:
                dropped[member.shard][member.row] = reason
    done = [_kept(store, parent, at, dropped[at]) for at in range(len(parent.shards))]
    counts: dict[str, int] = {}
    for rows in dropped.values():
        for reason in rows.values():
            counts[reason] = counts.get(reason, 0) + 1
    version = store.write(
        documents.KIND,
        [each.shard for each in done if each.shard.rows],
        parents=parents,
        operation="dedup",
        config={"settings": msgspec.to_builtins(config)},
        code=code,
        left_out=counts,
        schema=documents.COLUMNS,
    )
    return Outcome(version, (work_of("signatures", signed), work_of("dedup", done)))


def _kept(store: Store, parent: Version, at: int, dropped: dict[int, str]) -> Derived:
    """A shard without some of its rows; as it is where there are none to go."""
    shard = parent.shards[at]
    if not dropped:
        return Derived(msgspec.structs.replace(shard, note={}), True)

    def build() -> Built:
        mask = pa.array([row not in dropped for row in range(shard.rows)])
        return parent.table(at).filter(mask), {}

    return store.derived("dedup", code_of(CODE), [shard.content, sorted(dropped)], build)


def _sign(parent: Version, at: int, shingle: int) -> Built:
    table = parent.table(at, ["id", "source", "path", "score", "text"])
    rows = []
    for row in table.to_pylist():
        text = row.pop("text")
        rows.append(row | {"signature": signature(shingles(text, shingle)).tolist() if shingle else []})
    return pa.Table.from_pylist(rows, schema_of(SIGNATURES)), {}


def shingles(text: str, length: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Hashes of every run of `length` tokens of a text, sorted, each once: uint32 [shingles]. A shorter text is one."""
    tokens = _TOKEN.findall(text)
    known = {token: zlib.crc32(token.encode()) for token in set(tokens)}
    hashes = np.array([known[token] for token in tokens], dtype=np.uint64)
    count = max(1, len(tokens) - length + 1)
    total = np.zeros(count, dtype=np.uint64)
    for at in range(min(length, len(tokens))):
        # Wraps around, as is meant: a polynomial modulo 2^64 over the tokens of the run.
        total = (total ^ hashes[at : at + count]) * _MULTIPLIER
        total ^= total >> np.uint64(29)
    return np.unique((total >> np.uint64(32)).astype(np.uint32))


def signature(hashes: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The MinHash signature of a set of shingles: uint32 [PERMUTATIONS]."""
    minhash = MinHash(PERMUTATIONS, hashfunc=int, permutations=_permutations(), scheme=_SCHEME)
    for at in range(0, len(hashes), _BATCH):
        minhash.update_batch(hashes[at : at + _BATCH].tolist())
    return np.asarray(minhash.hashvalues, dtype=np.uint32)


@cache
def _permutations() -> Any:
    return MinHash(PERMUTATIONS, seed=1, scheme=_SCHEME).permutations


def _clusters(
    store: Store, parent: Version, signed: Sequence[Shard], config: Dedup
) -> tuple[list[list[Member]], list[list[Member]]]:
    """Documents of one text, and then, of one each of those, documents that are alike; in the order of their rank."""
    by_id: dict[str, list[Member]] = defaultdict(list)
    signatures: dict[str, Any] = {}
    for at, shard in enumerate(signed):
        table = store.read(shard, SIGNATURES)
        columns = [table[name].to_pylist() for name in ("id", "source", "path", "score")]
        for row, (id, source, path, score) in enumerate(zip(*columns, strict=True)):
            by_id[id].append(Member(at, row, id, (-score, source, path)))
        if config.method == "minhash":
            flat = table["signature"].combine_chunks()
            values = flat.flatten().to_numpy().reshape(-1, PERMUTATIONS)
            signatures.update(zip(columns[0], values, strict=True))
    best = {id: min(members, key=lambda each: each.rank) for id, members in by_id.items()}
    equal = [members for members in by_id.values() if len(members) > 1]
    if config.method == "exact":
        return equal, []
    return equal, _alike(parent, sorted(best.values(), key=lambda each: each.rank), signatures, config)


def _alike(parent: Version, members: list[Member], signatures: dict[str, Any], config: Dedup) -> list[list[Member]]:
    index = MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
    above = list(range(len(members)))
    compared = _Compared(parent, config)
    for at, member in enumerate(members):
        minhash = MinHash(PERMUTATIONS, hashvalues=signatures[member.id], permutations=_permutations(), scheme=_SCHEME)
        for other in sorted(index.query(minhash)):
            # What is in one cluster already need not be compared: the clusters are the same.
            if _root(above, at) != _root(above, other) and compared.alike(member, members[other]):
                low, high = sorted((_root(above, at), _root(above, other)))
                above[high] = low
        index.insert(at, minhash, check_duplication=False)
    clusters: dict[int, list[Member]] = defaultdict(list)
    for at, member in enumerate(members):
        clusters[_root(above, at)].append(member)
    return [cluster for cluster in clusters.values() if len(cluster) > 1]


def _root(above: list[int], at: int) -> int:
    while above[at] != at:
        above[at] = above[above[at]]
        at = above[at]
    return at


class _Compared:
    """Compares documents by their shingles; the texts of a shard are read when one of them is asked for."""

    def __init__(self, parent: Version, config: Dedup) -> None:
        self._parent = parent
        self._config = config
        self._texts: dict[int, Any] = {}
        self._shingles: dict[str, np.ndarray[Any, np.dtype[np.uint32]]] = {}

    def alike(self, left: Member, right: Member) -> bool:
        """Whether their Jaccard similarity reaches the threshold."""
        one, two = self._of(left), self._of(right)
        common = len(np.intersect1d(one, two, assume_unique=True))
        return common >= self._config.threshold * (len(one) + len(two) - common)

    def _of(self, member: Member) -> np.ndarray[Any, np.dtype[np.uint32]]:
        found = self._shingles.get(member.id)
        if found is None:
            if member.shard not in self._texts:
                self._texts[member.shard] = self._parent.table(member.shard, ["text"])["text"]
            text = self._texts[member.shard][member.row].as_py()
            found = self._shingles[member.id] = shingles(text, self._config.shingle)
        return found


OPERATION = Operation("dedup", Dedup, dedup)
