"""One safetensors file: its header, checked to the last byte before anything is believed, and its tensors, mapped.

The format is eight bytes of header length, a JSON header, and the tensors' bytes without holes
(https://github.com/huggingface/safetensors). Knows one file; names mean nothing here.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from laguna_agent.errors import WeightsError

LARGEST_HEADER = 32 << 20
"""Bytes; 90,000 tensors take 14 million. (The safetensors library takes 100 million.)"""
MOST_TENSORS = 200_000
MOST_DIMENSIONS = 8
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Entry(NamedTuple):
    """A tensor's line in the header; `begin` and `end` are byte offsets in the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def shortened(complaint: str) -> str:
    """An error that a person can read: names and shapes in it are the file's, of any length."""
    return complaint if len(complaint) <= 600 else f"{complaint[:300]} ... {complaint[-300:]}"


def map_file(path: Path) -> mmap.mmap:
    """The whole file, read-only. Raises WeightsError."""
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise WeightsError(f"{path}: the file is empty")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def view(mapping: mmap.mmap, dtype: torch.dtype, shape: tuple[int, ...], begin: int) -> Tensor:
    """A tensor over bytes of the mapping, which it keeps alive; it must not be written to."""
    count = math.prod(shape)
    if not count:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        # torch warns that the bytes are read-only; that is what a mapping shared by processes is for.
        warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
        if begin % dtype.itemsize == 0:
            return torch.frombuffer(mapping, dtype=dtype, count=count, offset=begin).view(shape)
        raw = torch.frombuffer(mapping, dtype=torch.uint8, count=count * dtype.itemsize, offset=begin)
    # Old writers did not align tensors; a view of a wider type would fault on some machines.
    return raw.clone().view(dtype).view(shape)


class SafetensorsFile:
    """A file whose header is sound: every tensor has a known type and lies inside the file, with no overlap or hole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapping = map_file(path)
        header = self._header_bytes()
        self.digest = sha256(header).hexdigest()
        self.metadata, self.entries = self._parse(header)

    def tensor(self, name: str) -> Tensor:
        """A view of the named tensor in the mapped file; the name must be in `entries`."""
        entry = self.entries[name]
        return view(self._mapping, entry.dtype, entry.shape, entry.begin)

    def where(self, name: str) -> str:
        """File and tensor, for errors."""
        return f"{self.path}: {name}"

    def _bad(self, what: str) -> NoReturn:
        raise WeightsError(f"{self.path}: not a sound safetensors file: {shortened(what)}")

    def _header_bytes(self) -> bytes:
        size = len(self._mapping)
        length = int.from_bytes(self._mapping[:8], "little")
        if size < 8 or length > LARGEST_HEADER or length > size - 8:
            self._bad(f"a header of {length} bytes, expected at most {min(max(size - 8, 0), LARGEST_HEADER)}")
        return self._mapping[8 : 8 + length]

    def _bound(self, header: bytes) -> None:
        """Refuse what would take far more memory as objects than as text, before it is parsed."""
        objects, lists, items = (header.count(mark) for mark in (b"{", b"[", b","))
        if objects > MOST_TENSORS or lists > 2 * MOST_TENSORS or items > 12 * MOST_TENSORS:
            self._bad(f"{objects:,} objects and {lists:,} lists in its header, more than {MOST_TENSORS:,} tensors need")

    def _parse(self, header: bytes) -> tuple[dict[str, str], dict[str, Entry]]:
        self._bound(header)
        try:
            found: Any = json.loads(header.decode("utf-8"), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            self._bad(f"its header is not JSON ({error})")
        if not isinstance(found, dict):
            self._bad(f"its header is a {type(found).__name__}, expected an object")
        metadata = found.pop("__metadata__", {})
        start = 8 + len(header)
        entries = {name: self._entry(name, value, start) for name, value in found.items()}
        self._check_cover(entries, start)
        return metadata if isinstance(metadata, dict) else {}, entries

    def _entry(self, name: str, value: Any, start: int) -> Entry:
        try:
            dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        except (TypeError, KeyError, ValueError):
            self._bad(f"tensor {name!r} has no dtype, shape and two data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self._bad(f"tensor {name!r} has dtype {dtype!r}, expected one of {', '.join(DTYPES)}")
        # A product of many sizes would be a number of megabytes.
        sound = isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS
        numbers = [*shape, begin, end] if sound else [None]
        if any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
            found = f"shape {shape!r} and offsets {[begin, end]!r}"
            self._bad(f"tensor {name!r} has {found}, expected sizes, at most 8 of them")
        wanted = math.prod(shape) * DTYPES[dtype].itemsize
        if end - begin != wanted:
            self._bad(f"tensor {name!r} ({dtype} {shape}) has {end - begin} bytes, expected {wanted}")
        return Entry(DTYPES[dtype], tuple(shape), start + begin, start + end)

    def _check_cover(self, entries: dict[str, Entry], start: int) -> None:
        at = start
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
            if entry.begin != at:
                kind = "overlaps the tensor before it" if entry.begin < at else "leaves a hole before it"
                self._bad(f"tensor {name!r} {kind} (byte {entry.begin}, expected {at})")
            at = entry.end
        if at != len(self._mapping):
            kind = "truncated" if at > len(self._mapping) else "longer than its header says"
            self._bad(f"{kind}: {len(self._mapping)} bytes, expected {at}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found
