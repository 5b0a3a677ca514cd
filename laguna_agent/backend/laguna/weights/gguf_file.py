"""One GGUF file: its keys and its tensor table, every length checked against the file before it is believed.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. The `gguf` package
reads the same and is what the tests compare with; it is not used here, because it makes a numpy object of every
string (tens of seconds for a vocabulary) and loops as long as a hostile length tells it to. Names mean nothing here.
"""

from __future__ import annotations

import math
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import Format, Ggml, Plain
from laguna_agent.backend.laguna.weights.safetensors_file import map_file, shortened, view
from laguna_agent.errors import WeightsError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_DIMENSIONS = 4
MOST_KEYS, MOST_TENSORS = 10_000, 200_000
MOST_ENTRIES = 1_000_000
"""Elements of one array; the largest vocabularies have a quarter of that, and half of it in merges."""
LARGEST_HEADER = 64 << 20
"""Bytes of keys and table; vocabulary and merges take up to 20 million."""
STRING, ARRAY = 8, 9
SCALARS: dict[int, str] = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
# ggml's numbers of the tensor types that are read (ggml.h, enum ggml_type).
TYPES: dict[int, Format] = {
    0: Plain(torch.float32),
    1: Plain(torch.float16),
    2: Ggml("Q4_0"),
    3: Ggml("Q4_1"),
    6: Ggml("Q5_0"),
    8: Ggml("Q8_0"),
    12: Ggml("Q4_K"),
    13: Ggml("Q5_K"),
    14: Ggml("Q6_K"),
    30: Plain(torch.bfloat16),
}
READABLE = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q8_0 Q4_K Q5_K Q6_K"


class GgufEntry(NamedTuple):
    """A tensor's line: `shape` in torch's order (ggml's reversed), `begin` a byte offset in the file."""

    format: Format
    shape: tuple[int, ...]
    begin: int


class GgufFile:
    """A file whose header is sound: every tensor has a known type and lies inside the file.

    `keys` holds the metadata as plain Python values (numbers, strings, lists). Raises WeightsError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapping = map_file(path)
        self._at = 0
        tensors, keys = self._counts()
        self.keys: dict[str, Any] = {}
        for _ in range(keys):
            self._read_key()
        found = [self._read_tensor() for _ in range(tensors)]
        self.digest = sha256(self._mapping[: self._at]).hexdigest()
        self.entries = self._placed(found)

    def where(self, name: str) -> str:
        """File and tensor, for errors."""
        return f"{self.path}: {name}"

    def parts(self, name: str) -> Tensor:
        """The named tensor's one part (`values` or `blocks`), [rows, part columns], a read-only view."""
        entry = self.entries[name]
        (part,) = entry.format.parts(entry.shape[-1])
        return view(self._mapping, part.dtype, (math.prod(entry.shape[:-1]), part.columns), entry.begin)

    def _bad(self, what: str) -> NoReturn:
        raise WeightsError(f"{self.path}: not a sound GGUF file: {shortened(what)}")

    def _counts(self) -> tuple[int, int]:
        if self._take(4) != MAGIC:
            self._bad("it does not start with GGUF")
        version = self._scalar("<I")
        if version not in VERSIONS:
            self._bad(f"version {version}, expected 2 or 3 (little-endian)")
        tensors, keys = self._scalar("<Q"), self._scalar("<Q")
        # A tensor's line takes at least 24 bytes, a key at least 13.
        if tensors * 24 + keys * 13 > len(self._mapping):
            self._bad(f"{tensors} tensors and {keys} keys, more than its {len(self._mapping)} bytes can describe")
        if keys > MOST_KEYS or tensors > MOST_TENSORS:
            self._bad(f"{tensors} tensors and {keys} keys, expected at most {MOST_TENSORS} and {MOST_KEYS}")
        return tensors, keys

    def _take(self, count: int) -> bytes:
        if count > len(self._mapping) - self._at:
            self._bad(f"its header is truncated at byte {self._at}: {count} more bytes were expected")
        self._at += count
        if self._at > LARGEST_HEADER:
            self._bad(f"its header is longer than {LARGEST_HEADER} bytes")
        return self._mapping[self._at - count : self._at]

    def _scalar(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _string(self) -> str:
        # Vocabularies hold pieces of characters only in byte-level spelling, so this is always text.
        return self._take(self._scalar("<Q")).decode("utf-8", "replace")

    def _read_key(self) -> None:
        name, kind = self._string(), self._scalar("<I")
        if name in self.keys:
            self._bad(f"key {name!r} appears twice")
        self.keys[name] = self._array(name) if kind == ARRAY else self._value(name, kind)

    def _value(self, name: str, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind not in SCALARS:
            self._bad(f"key {name!r} has a value of unknown type {kind}")
        return self._scalar(SCALARS[kind])

    def _array(self, name: str) -> list[Any]:
        kind, count = self._scalar("<I"), self._scalar("<Q")
        # More than the file could hold is told as that, below.
        if MOST_ENTRIES < count <= len(self._mapping):
            self._bad(f"key {name!r} has {count} entries, expected at most {MOST_ENTRIES}")
        if kind == STRING:
            if count * 8 > len(self._mapping) - self._at:
                self._bad(f"key {name!r} has {count} strings, more than the file can hold")
            return [self._string() for _ in range(count)]
        if kind not in SCALARS:
            self._bad(f"key {name!r} is an array of unknown type {kind}")
        size = struct.calcsize(SCALARS[kind])
        return [value for (value,) in struct.iter_unpack(SCALARS[kind], self._take(count * size))]

    def _read_tensor(self) -> tuple[str, GgufEntry]:
        name, dimensions = self._string(), self._scalar("<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            self._bad(f"tensor {name!r} has {dimensions} dimensions, expected 1 to {MOST_DIMENSIONS}")
        shape = tuple(self._scalar("<Q") for _ in range(dimensions))[::-1]
        kind, offset = self._scalar("<I"), self._scalar("<Q")
        if kind not in TYPES:
            self._bad(f"tensor {name!r} has the ggml type {kind}, expected one of {READABLE}")
        if min(shape) < 1 or max(shape) >= 1 << 48:
            self._bad(f"tensor {name!r} has shape {list(shape)}, expected positive sizes")
        return name, GgufEntry(TYPES[kind], shape, offset)

    def _placed(self, found: list[tuple[str, GgufEntry]]) -> dict[str, GgufEntry]:
        """The table with offsets in the file; where tensors overlap or leave it, WeightsError."""
        alignment = self.keys.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment % 8:
            self._bad(f"general.alignment is {alignment!r}, expected a multiple of 8")
        start = -(-self._at // alignment) * alignment
        placed: dict[str, GgufEntry] = {}
        free = start
        for name, entry in sorted(found, key=lambda item: item[1].begin):
            begin = start + entry.begin
            if name in placed or begin < free or begin % alignment:
                self._bad(f"tensor {name!r} appears twice, overlaps another or is not aligned (offset {entry.begin})")
            try:
                row_bytes = sum(part.row_bytes for part in entry.format.parts(entry.shape[-1]))
            except WeightsError as error:
                self._bad(f"tensor {name!r}: {error}")
            free = begin + math.prod(entry.shape[:-1]) * row_bytes
            if free > len(self._mapping):
                self._bad(f"truncated: tensor {name!r} ends at byte {free}, the file has {len(self._mapping)}")
            placed[name] = entry._replace(begin=begin)
        return placed
