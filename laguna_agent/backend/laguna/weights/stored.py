"""A model's tensors as they lie in its files, behind one face for every file format.

`StoredMatrix` is one matrix somewhere; `CanonicalTensor` is one tensor of the model, put together from row ranges of
such matrices (a stack of experts is 2 x 256 of them); `Checkpoint` is the model. Knows no file format; nothing is
read before `read` is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec
import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import Format, PackedTensor, Plain, bytes_needed
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.canonical import expected_tensors


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A matrix [rows, columns] in a file. `where` names file and tensor for errors.

    `read(start, stop)` gives the format's parts for those rows; it may give views of a mapped file.
    """

    where: str
    format: Format
    rows: int
    columns: int
    read: Callable[[int, int], Mapping[str, Tensor]]

    def packed(self, start: int, stop: int) -> PackedTensor:
        """Rows `start` to `stop`, [stop - start, columns]."""
        return PackedTensor(self.format, (stop - start, self.columns), self.read(start, stop))


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of a stored matrix."""

    matrix: StoredMatrix
    start: int
    stop: int


@dataclass(frozen=True)
class CanonicalTensor:
    """One tensor of the model: its pieces, row under row, are the tensor flattened to [rows, shape[-1]]."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """Rows of the flattened tensor; a vector has one."""
        return math.prod(self.shape[:-1])

    @property
    def format(self) -> Format:
        """How it is stored; where pieces differ, the plain type that holds all of them."""
        formats = {piece.matrix.format for piece in self.pieces}
        if len(formats) == 1:
            return formats.pop()
        plain = {format.dtype for format in formats if isinstance(format, Plain)}
        return Plain(torch.float32 if torch.float32 in plain else torch.bfloat16)

    @property
    def stored_bytes(self) -> int:
        """Bytes of it in its files."""
        shapes = ((piece.matrix.format, (piece.stop - piece.start, self.shape[-1])) for piece in self.pieces)
        return sum(bytes_needed(format, shape) for format, shape in shapes)

    def chunks(self, values: int) -> Iterator[tuple[str, PackedTensor]]:
        """All rows in order, about `values` values at a time, each with the name of where it was read."""
        step = max(1, values // self.shape[-1])
        for piece in self.pieces:
            for start in range(piece.start, piece.stop, step):
                yield piece.matrix.where, piece.matrix.packed(start, min(start + step, piece.stop))


def checkpoint_identity(files: str, config: ModelConfig) -> str:
    """A name for the weights in `files` (a digest), read as `config` says: which tensors there are, stored how.

    The rest of the config stays out, so that a person may override a rope setting without packing again.
    """
    described = (files, list(expected_tensors(config)), config.quantization)
    return sha256(msgspec.json.encode(described)).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A model as its files have it. `identity` differs whenever a file does; `where` names it for people. `metadata`
    are the keys of a GGUF file, which say how the model talks; other formats have none."""

    where: str
    identity: str
    config: ModelConfig
    tensors: Mapping[str, CanonicalTensor]
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def stored_bytes(self) -> int:
        """Bytes of all tensors in their files."""
        return sum(tensor.stored_bytes for tensor in self.tensors.values())
