"""A KV cache on disk, so that a session resumes without reading its history again (section 4).

    bytes 0..63      magic, version, header length, file size, SHA-256 of the header (little-endian)
    64..             the header, JSON: what the cache was made with, and a CRC-32 for every section
    sections         token ids (int64); every full layer's parts; every block of the sliding layers' parts

The sizes of all sections follow from the model's config and a few counts, so there is no offset to believe. A file is
read only where it is whole, sound and of the same model, weights and format; everything else is a CacheError, after
which the caller reads the prompt as if there were no file. Knows caches; must not know sessions or text.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NoReturn

import msgspec
import torch
from torch import Tensor

from laguna_agent.backend.laguna.cache import KVCache
from laguna_agent.backend.laguna.cache_format import FORMATS, KVFormatName
from laguna_agent.backend.laguna.cache_snapshots import Snapshot
from laguna_agent.backend.laguna.cache_storage import Block
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.pack_file import bytes_of
from laguna_agent.backend.laguna.weights.whole_file import locked, whole_file
from laguna_agent.errors import CacheError

MAGIC = b"LAGKVC\n\0"
VERSION = 1
PREFACE = struct.Struct("<8sIQQ32s4x")
LARGEST_HEADER = 4 << 20
OWNER_ONLY = 0o600
"""The token ids are a person's code."""

_EXPONENTS = {
    torch.float32: (torch.int32, 0x7F800000),
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float8_e4m3fn: (torch.uint8, 0x7F),
}
"""The bits that are all set in what is no finite number."""


class CacheHeader(msgspec.Struct):
    """What the file says of itself.

    `identity` is the caller's; `model` is the fingerprint of the config. `tokens` counts ids; `blocks` are the
    positions [begin, end) that sliding layers are kept for; `snapshots` the lengths that can be returned to, the last
    of them the cache's own. `sums` has one CRC-32 for each section.
    """

    identity: str
    model: str
    format: KVFormatName
    tokens: int
    blocks: list[tuple[int, int]]
    snapshots: list[int]
    sums: list[int]


def save_cache(cache: KVCache, path: Path, *, identity: str, snapshots: int | None = None) -> int:
    """Write `cache` to `path`, whole or not at all, readable by its owner only; returns the file's bytes.

    `identity` must differ wherever the same tokens have other keys: weights, quantisation. The newest `snapshots` are
    kept (None: all that the cache has), and its present length always. Raises CacheError where the cache holds no
    numbers, lost keys in a forward pass that broke off, or the file cannot be written.
    """
    if cache.reachable(cache.length) != cache.length:
        raise CacheError(f"{path}: not saved: the cache lost keys before token {cache.length}; rewind it first")
    cache.snapshot()
    kept = cache.snapshots.kept[-max(1, snapshots) :] if snapshots is not None else cache.snapshots.kept
    blocks = [block for block in cache.snapshots.blocks() if any(block in one.blocks for one in kept)]
    header = CacheHeader(
        identity,
        fingerprint(cache.config),
        cache.shape.format.name,
        cache.length,
        [(block.start, block.end) for block in blocks],
        [one.length for one in kept],
        [],
    )
    sizes = _sizes(cache.config, header.format, header.tokens, header.blocks)
    header.sums = [0xFFFFFFFF] * len(sizes)
    # Sums are only shorter than their stand-ins; the rest of the room is blanks, which JSON does not mind.
    room = len(msgspec.json.encode(header))
    size = PREFACE.size + room + sum(sizes)
    try:
        with locked(path, lambda: None), whole_file(path, size, mode=OWNER_ONLY) as handle:
            at = PREFACE.size + room
            for index, section in enumerate(_sections(cache, blocks)):
                if not _finite(section):
                    raise CacheError(f"{path}: not saved: the cache holds values that are no finite numbers")
                with bytes_of(section) as data:
                    header.sums[index] = zlib.crc32(data)
                    at = _write(handle, data, at)
            body = msgspec.json.encode(header).ljust(room)
            preface = PREFACE.pack(MAGIC, VERSION, room, size, sha256(body).digest())
            _write(handle, memoryview(preface + body), 0)
    except OSError as error:
        raise CacheError(f"{path}: cannot be written: {error.strerror or error}") from error
    return size


def load_cache(
    path: Path, config: ModelConfig, *, identity: str, device: torch.device | str = "cpu", **options: int
) -> KVCache:
    """The cache that `save_cache` wrote: same tokens, format, keys and snapshots; `options` as for `KVCache`.

    Raises CacheError, naming what is wrong, where there is no such file, where it is damaged, cut, or of another
    version, model or identity. Nothing is believed that was not checked.
    """
    with _opened(path) as handle:
        header, at = _header(path, handle, config, identity)
        reader = _Reader(path, handle, at, header.sums)
        ids = array("q", bytes(8 * header.tokens))
        reader.fill(torch.frombuffer(ids, dtype=torch.int64) if ids else torch.empty(0, dtype=torch.int64))
        wrong = next((token for token in ids if not 0 <= token < config.vocab_size), None)
        if wrong is not None:
            _refuse(path, f"it has the token id {wrong}, the model knows ids 0 to {config.vocab_size - 1}")
        cache = KVCache(config, format=header.format, device=device, **options)
        for layer in cache.restore(ids.tolist()):
            for part in layer:
                reader.fill(part)
        blocks = []
        for start, end in header.blocks:
            blocks.append(Block(start, end, cache.shape.empty(end - start, len(cache.sliding))))
            for part in blocks[-1].parts:
                reader.fill(part)
    cache.restore_window(_snapshots(path, header, config, blocks))
    return cache


def fingerprint(config: ModelConfig) -> str:
    """A sum over everything that a config says."""
    return sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()


def _sections(cache: KVCache, blocks: Sequence[Block]) -> Iterator[Tensor]:
    yield torch.tensor(cache.tokens, dtype=torch.int64)
    for place in range(len(cache.full)):
        yield from (part.cpu() for part in cache.layer_parts(place))
    for block in blocks:
        yield from (part.cpu() for part in block.parts)


def _sizes(config: ModelConfig, format: KVFormatName, tokens: int, blocks: Sequence[tuple[int, int]]) -> list[int]:
    """Bytes of every section, in order."""
    full = sum(layer.attention == "full_attention" for layer in config.layers)
    kept = FORMATS[format]

    def parts(slots: int) -> list[int]:
        scales = [4 * slots] * 2 if kept.scaled else []
        return [kept.dtype.itemsize * config.head_dim * slots] * 2 + scales

    by_layer = parts(config.kv_heads * tokens) * full if tokens else []
    sliding = len(config.layers) - full
    by_block = [size for start, end in blocks for size in parts(config.kv_heads * sliding * (end - start))]
    return [8 * tokens, *by_layer, *by_block]


def _write(handle: int, data: memoryview, at: int) -> int:
    while data:
        written = os.pwrite(handle, data, at)
        at, data = at + written, data[written:]
    return at


def _finite(part: Tensor) -> bool:
    if part.dtype not in _EXPONENTS or not part.numel():
        return True
    integers, exponent = _EXPONENTS[part.dtype]
    return bool((part.view(integers) & exponent).amax() != exponent)


def _refuse(path: Path, what: str) -> NoReturn:
    raise CacheError(f"{path}: not a usable KV cache: {what}")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                _refuse(path, "it is not a regular file")
            yield handle
        finally:
            os.close(handle)
    except OSError as error:
        raise CacheError(f"{path}: cannot be read: {error.strerror or error}") from error


def _header(path: Path, handle: int, config: ModelConfig, identity: str) -> tuple[CacheHeader, int]:
    """The header, checked against the file and the model, and where the sections begin."""
    found = os.fstat(handle).st_size
    preface = os.pread(handle, PREFACE.size, 0)
    if len(preface) < PREFACE.size or preface[:8] != MAGIC:
        _refuse(path, "it does not begin like one")
    _, version, length, size, digest = PREFACE.unpack(preface)
    if version != VERSION:
        _refuse(path, f"it is of version {version}, expected {VERSION}")
    if size != found or length > min(LARGEST_HEADER, found - PREFACE.size):
        _refuse(path, f"it has {found} bytes and a header of {length}, expected {size} bytes")
    body = os.pread(handle, length, PREFACE.size)
    if sha256(body).digest() != digest:
        _refuse(path, "its header changed after it was written")
    try:
        header = msgspec.json.decode(body, type=CacheHeader)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _refuse(path, f"its header cannot be read ({error})")
    if header.model != fingerprint(config):
        _refuse(path, "it was made by a model of another config")
    if header.identity != identity:
        _refuse(path, f"it was made with {header.identity[:120]!r}, expected {identity[:120]!r}")
    if not 0 <= header.tokens <= config.context_length:
        _refuse(path, f"it has {header.tokens} tokens, the model reads at most {config.context_length}")
    _check_places(path, header, config)
    sizes = _sizes(config, header.format, header.tokens, header.blocks)
    if PREFACE.size + length + sum(sizes) != found or len(header.sums) != len(sizes):
        _refuse(path, f"it has {found} bytes and {len(header.sums)} sums, which are not those of its header")
    return header, PREFACE.size + length


def _check_places(path: Path, header: CacheHeader, config: ModelConfig) -> None:
    edges = [edge for block in header.blocks for edge in block]
    slides = any(layer.attention == "sliding_attention" for layer in config.layers)
    ascending = all(start < end for start, end in header.blocks) and edges == sorted(edges)
    if not ascending or (edges and not 0 <= edges[0] < edges[-1] <= header.tokens) or (edges and not slides):
        _refuse(path, "its blocks are not places of its tokens in order")
    places = header.snapshots
    if (
        places != sorted(set(places))
        or (places and places[0] < 0)
        or places[-1:] != ([header.tokens] if slides else [])
    ):
        _refuse(path, "its snapshots are not lengths in order, the last of them its own")


def _snapshots(path: Path, header: CacheHeader, config: ModelConfig, blocks: list[Block]) -> list[Snapshot]:
    kept = []
    for length in header.snapshots:
        begin = max(0, length - config.sliding_window + 1)
        own = [block for block in blocks if block.end > begin and block.start < length]
        edges = [begin, *(edge for block in own for edge in (block.start, block.end)), length]
        edges[1:2] = [begin] if own and own[0].start <= begin else edges[1:2]
        if any(edges[at] != edges[at + 1] for at in range(0, len(edges), 2)):
            _refuse(path, f"the window before token {length} is not whole")
        kept.append(Snapshot(length, tuple(own)))
    return kept


class _Reader:
    """Reads the sections one after another, straight into tensors, and checks each one's sum and its numbers."""

    def __init__(self, path: Path, handle: int, at: int, sums: list[int]) -> None:
        self._path, self._handle, self._at, self._sums = path, handle, at, iter(sums)
        self._section = 0

    def fill(self, part: Tensor) -> None:
        """Read the next section into `part`, whose heads may lie apart."""
        target = part if part.device.type == "cpu" else torch.empty_like(part, device="cpu")
        found = 0
        for piece in [target] if target.is_contiguous() else target.unbind(0):
            with bytes_of(piece) as data:
                found = self._read(data, found)
        if found != next(self._sums):
            _refuse(self._path, f"section {self._section} changed after it was written")
        if not _finite(target):
            _refuse(self._path, f"section {self._section} has values that are no finite numbers")
        self._section += 1
        if target is not part:
            part.copy_(target)

    def _read(self, data: memoryview, total: int) -> int:
        rest = data
        while rest:
            count = os.preadv(self._handle, [rest], self._at)
            if not count:
                _refuse(self._path, f"it ends within section {self._section}")
            self._at, rest = self._at + count, rest[count:]
        return zlib.crc32(data, total)
