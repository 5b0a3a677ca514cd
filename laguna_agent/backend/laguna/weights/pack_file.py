"""The packed file: every tensor of a model in the formats it is computed with, page-aligned, to be mapped read-only.

    bytes 0..63      magic, version, page size, header length, file size, SHA-256 of the header (little-endian)
    64..             the header, JSON: the model's config, what it was made from, and where every part lies
    page-aligned     the parts, in the order of computation

Nothing is read at opening but the header; the system brings pages in as they are used, and all processes that have
the file open share them. A file of another version, length or header sum is refused: it is a cache and can be made
again. Parts have sums too, which `verify` checks.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
from torch import Tensor

from laguna_agent.backend.kernels.formats import Format, PackedTensor, Plain, Weight, parse_format
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.backend.laguna.weights.safetensors_file import map_file, view
from laguna_agent.errors import WeightsError

MAGIC = b"LAGPACK\n"
VERSION = 2
PAGE = 4096
PREFACE = struct.Struct("<8sIIQQ32s")
LARGEST_HEADER = 64 << 20


class PartPlace(msgspec.Struct, array_like=True):
    """Where a part lies: byte offset in the file, and the CRC-32 of its bytes."""

    offset: int
    crc32: int = 0xFFFFFFFF


class TensorPlace(msgspec.Struct):
    """One tensor: canonical name, spelling of its format, shape, and its parts in the format's order."""

    name: str
    format: str
    shape: tuple[int, ...]
    parts: list[PartPlace]


class PackHeader(msgspec.Struct):
    """What the file says of itself. `source` and `identity` are those of the checkpoint it was made from."""

    config: ModelConfig
    quant: str
    source: str
    identity: str
    tensors: list[TensorPlace]


@dataclass(frozen=True)
class PackLayout:
    """A file that is still to be written: its header with all offsets settled, where the parts start, its size."""

    header: PackHeader
    size: int


def aligned(offset: int) -> int:
    """The next page's start."""
    return -(-offset // PAGE) * PAGE


def plan_layout(header: PackHeader, formats: dict[str, Format]) -> PackLayout:
    """Settle every offset. The header's `tensors` are made here, one for each name of `formats`, in that order."""
    shapes = {name: shape for name, shape, _ in expected_tensors(header.config)}
    header.tensors = [
        TensorPlace(name, format.spelling, shapes[name], [PartPlace(1 << 48) for _ in format.parts(shapes[name][-1])])
        for name, format in formats.items()
    ]
    # Offsets and sums are only shorter than their stand-ins, so this is room enough for the final header.
    at = aligned(PREFACE.size + len(msgspec.json.encode(header)))
    for place in header.tensors:
        for index, part in enumerate(formats[place.name].parts(place.shape[-1])):
            place.parts[index] = PartPlace(at)
            at = aligned(at + math.prod(place.shape[:-1]) * part.row_bytes)
    return PackLayout(header, at)


class PartsWriter:
    """Writes one tensor's parts, rows in order, into their places, and sums them."""

    def __init__(self, handle: int, place: TensorPlace) -> None:
        self._handle, self._place = handle, place
        self._at = [part.offset for part in place.parts]
        self._sums = [0 for _ in place.parts]

    def write(self, chunk: PackedTensor) -> None:
        """Append the rows of `chunk`, which is in the tensor's format."""
        for index, part in enumerate(chunk.format.parts(chunk.shape[-1])):
            with bytes_of(chunk.parts[part.name]) as data:
                self._sums[index] = zlib.crc32(data, self._sums[index])
                while data:
                    written = os.pwrite(self._handle, data, self._at[index])
                    self._at[index] += written
                    data = data[written:]

    def finish(self) -> None:
        """Put the sums into the header's entry."""
        for part, total in zip(self._place.parts, self._sums, strict=True):
            part.crc32 = total


@contextmanager
def bytes_of(tensor: Tensor) -> Iterator[memoryview]:
    """The tensor's bytes, for as long as the block lasts; without numpy, which torch does not bring along."""
    solid = tensor.contiguous()
    yield memoryview((ctypes.c_char * solid.nbytes).from_address(solid.data_ptr())).cast("B")


def write_header(handle: int, layout: PackLayout) -> None:
    """Write the preface and the header; the last thing to be written."""
    body = msgspec.json.encode(layout.header)
    preface = PREFACE.pack(MAGIC, VERSION, PAGE, len(body), layout.size, sha256(body).digest())
    os.pwrite(handle, preface + body, 0)


@dataclass(frozen=True, eq=False)
class Pack:
    """An open packed file. `tensors` are views of the mapping: plain tensors, or packed ones."""

    path: Path
    header: PackHeader
    tensors: dict[str, Weight]

    def verify(self) -> None:
        """Read everything and compare the sums. Raises WeightsError naming the tensor that changed."""
        for place in self.header.tensors:
            tensor = self.tensors[place.name]
            parts = list(tensor.parts.values()) if isinstance(tensor, PackedTensor) else [tensor]
            for part, stored in zip(parts, place.parts, strict=True):
                with bytes_of(part) as data:
                    whole = zlib.crc32(data) == stored.crc32
                if not whole:
                    raise WeightsError(f"{self.path}: {place.name}: its bytes changed after it was written; delete it")


def open_pack(path: Path) -> Pack:
    """Map the file and check its header. Raises WeightsError where it is damaged, cut, or of another version."""
    mapping = map_file(path)
    header = _read_header(path, mapping)
    expected = {name: shape for name, shape, _ in expected_tensors(header.config)}
    if [place.name for place in header.tensors] != list(expected):
        raise WeightsError(f"{path}: its tensors are not those of its config; delete it")
    tensors: dict[str, Weight] = {}
    for place in header.tensors:
        if place.shape != expected[place.name]:
            raise WeightsError(f"{path}: {place.name}: shape {place.shape}, expected {expected[place.name]}; delete it")
        tensors[place.name] = _tensor(path, mapping, place)
    return Pack(path, header, tensors)


def _read_header(path: Path, mapping: mmap.mmap) -> PackHeader:
    if len(mapping) < PREFACE.size or mapping[:8] != MAGIC:
        raise WeightsError(f"{path}: not a packed model")
    _, version, page, length, size, digest = PREFACE.unpack(mapping[: PREFACE.size])
    if (version, page) != (VERSION, PAGE):
        raise WeightsError(f"{path}: a packed model of version {version}, expected {VERSION}; delete it")
    if size != len(mapping) or length > min(LARGEST_HEADER, size - PREFACE.size):
        raise WeightsError(f"{path}: {len(mapping)} bytes, expected {size}; delete it")
    body = mapping[PREFACE.size : PREFACE.size + length]
    if sha256(body).digest() != digest:
        raise WeightsError(f"{path}: its header changed after it was written; delete it")
    try:
        return msgspec.json.decode(body, type=PackHeader)
    except msgspec.DecodeError as error:
        raise WeightsError(f"{path}: its header cannot be read ({error}); delete it") from error


def _tensor(path: Path, mapping: mmap.mmap, place: TensorPlace) -> Weight:
    format = parse_format(place.format)
    parts: dict[str, Tensor] = {}
    wanted = format.parts(place.shape[-1])
    if len(place.parts) != len(wanted):
        raise WeightsError(f"{path}: {place.name}: {len(place.parts)} parts, expected {len(wanted)}; delete it")
    for part, stored in zip(wanted, place.parts, strict=True):
        shape = (*place.shape[:-1], part.columns)
        end = stored.offset + math.prod(place.shape[:-1]) * part.row_bytes
        if stored.offset % PAGE or not 0 < stored.offset <= end <= len(mapping):
            raise WeightsError(f"{path}: {place.name}: lies outside the file; delete it")
        parts[part.name] = view(mapping, part.dtype, shape, stored.offset)
    return parts["values"] if isinstance(format, Plain) else PackedTensor(format, place.shape, parts)
