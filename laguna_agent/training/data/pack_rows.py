"""A row of a packed version, and how tokens become one.

    ids        list<int32>    all tokens of the pack
    lengths    list<int32>    tokens of each part: a stretch of one document
    documents  list<string>   the document of each part
    offsets    list<int32>    where in its document each part begins, in tokens
    sequences  list<int32>    tokens of each sequence, where one has several parts; null: each part is one
    weights    list<float>    what predicting the next token counts at each; null: 1, and 0 at a sequence's last token
    bucket     string         the quality bucket of all documents in it, "" without

Knows Arrow and numpy; must not know where versions lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Weights = NDArray[np.float32]

TOKENS = (
    ("document", "string"),
    ("source", "string"),
    ("bucket", "string"),
    ("ids", "list<int32>"),
    ("weights", "list<float>"),
)
PACKED = (
    ("ids", "list<int32>"),
    ("lengths", "list<int32>"),
    ("documents", "list<string>"),
    ("offsets", "list<int32>"),
    ("sequences", "list<int32>"),
    ("weights", "list<float>"),
    ("bucket", "string"),
)


class Tokens(NamedTuple):
    """A document as tokens; `weights` [tokens] where they are not 1 everywhere but at the end of what is learned from
    at a time, already those of the token that predicts (`training/batch.py`)."""

    document: str
    source: str
    bucket: str
    ids: Ids
    weights: Weights | None = None


class Piece(NamedTuple):
    """One sequence: the tokens of some parts behind one another."""

    ids: Ids
    weights: Weights | None
    lengths: tuple[int, ...]
    documents: tuple[str, ...]
    offsets: tuple[int, ...]


def token_table(rows: Sequence[Tokens]) -> pa.Table:
    """Those documents as the rows of a version of kind `tokens`."""
    return _table(
        TOKENS,
        pa.array([row.document for row in rows], pa.string()),
        pa.array([row.source for row in rows], pa.string()),
        pa.array([row.bucket for row in rows], pa.string()),
        _lists([row.ids for row in rows], pa.int32()),
        _lists([row.weights for row in rows], pa.float32()),
    )


def read_tokens(table: pa.Table) -> Iterator[Tokens]:
    """The documents of such rows."""
    named = [table.column(name).to_pylist() for name in ("document", "source", "bucket")]
    arrays = zip(_arrays(table, "ids"), _arrays(table, "weights"), strict=True)
    for document, source, bucket, (ids, weights) in zip(*named, arrays, strict=True):
        assert ids is not None
        yield Tokens(document, source, bucket, ids, weights)


def pack_table(packs: Iterable[tuple[str, Sequence[Piece]]]) -> pa.Table:
    """(bucket, pieces of a pack) each as a row of a version of kind `packed`."""
    listed = list(packs)
    rows = [pieces for _, pieces in listed]
    flat = [[(piece, at) for piece in pieces for at in range(len(piece.lengths))] for pieces in rows]
    joined = [any(len(piece.lengths) > 1 for piece in pieces) for pieces in rows]
    sequences = [
        [len(piece.ids) for piece in pieces] if several else None for pieces, several in zip(rows, joined, strict=True)
    ]
    return _table(
        PACKED,
        _lists([np.concatenate([piece.ids for piece in pieces]) for pieces in rows], pa.int32()),
        pa.array([[piece.lengths[at] for piece, at in parts] for parts in flat], pa.list_(pa.int32())),
        pa.array([[piece.documents[at] for piece, at in parts] for parts in flat], pa.list_(pa.string())),
        pa.array([[piece.offsets[at] for piece, at in parts] for parts in flat], pa.list_(pa.int32())),
        pa.array(sequences, pa.list_(pa.int32())),
        _lists([_weights(pieces) for pieces in rows], pa.float32()),
        pa.array([bucket for bucket, _ in listed], pa.string()),
    )


def read_pieces(table: pa.Table) -> Iterator[tuple[str, Piece]]:
    """(bucket, piece) of rows of kind `packed` that hold one sequence each."""
    names = ("bucket", "lengths", "documents", "offsets")
    arrays = zip(_arrays(table, "ids"), _arrays(table, "weights"), strict=True)
    rows = zip(*(table.column(name).to_pylist() for name in names), arrays, strict=True)
    for bucket, lengths, documents, offsets, (ids, weights) in rows:
        assert ids is not None
        yield bucket, Piece(ids, weights, tuple(lengths), tuple(documents), tuple(offsets))


def default_weights(lengths: Iterable[int], total: int) -> Weights:
    """1 for each of `total` tokens, and 0 for the last one of each sequence: what follows it is another's."""
    weights = np.ones(total, np.float32)
    weights[np.cumsum(list(lengths)) - 1] = 0
    return weights


def _weights(pieces: Sequence[Piece]) -> Weights | None:
    if all(piece.weights is None for piece in pieces):
        return None
    each = [
        default_weights([len(piece.ids)], len(piece.ids)) if piece.weights is None else piece.weights
        for piece in pieces
    ]
    return np.concatenate(each).astype(np.float32)


def _table(columns: tuple[tuple[str, str], ...], *arrays: pa.Array) -> pa.Table:
    return pa.table(list(arrays), names=[name for name, _ in columns])


def _lists(values: Sequence[NDArray[np.int32] | NDArray[np.float32] | None], kind: pa.DataType) -> pa.Array:
    ends = np.cumsum([0, *(0 if each is None else len(each) for each in values)])
    flat = np.concatenate([np.zeros(0, kind.to_pandas_dtype()), *(each for each in values if each is not None)])
    missing = pa.array([each is None for each in values], pa.bool_()) if any(each is None for each in values) else None
    return pa.ListArray.from_arrays(
        pa.array(ends, pa.int32()), pa.array(flat.astype(kind.to_pandas_dtype()), kind), mask=missing
    )


def _arrays(table: pa.Table, name: str) -> Iterator[NDArray[np.generic] | None]:
    """The lists of a column, as arrays."""
    for chunk in table.column(name).chunks:
        values, ends = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
        for row, there in enumerate(chunk.is_valid().to_pylist()):
            yield values[ends[row] : ends[row + 1]] if there else None
