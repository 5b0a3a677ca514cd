"""What the last look at a workspace found, so that the next one reads only what changed.

A file counts as unchanged while size, both times, inode, device and mode are. As with git's index, that is believed
only where the file had been still for a moment when it was read: the clock that stamps files ticks every few
milliseconds, and a second change within one tick shows nowhere. Where this is lost, everything is read again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import msgspec

from laguna_agent.directories import open_private

TICK = 50_000_000
"""Nanoseconds that a file must have been still for."""
VERSION = 1

Stamp = tuple[int, int, int, int, int, int]
Seen = tuple[Stamp, bytes, bool]
"""A file's stamp, the name of its content, and whether that is certain."""


def stamp_of(found: os.stat_result) -> Stamp:
    """What changes when a file does."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev, found.st_mode


class Looked(msgspec.Struct, array_like=True):
    """By path what was seen of each file, and the name of each directory's tree. True for one `generation` of the store
    only."""

    generation: str = ""
    files: dict[bytes, Seen] = {}
    directories: dict[bytes, bytes] = {}
    version: int = VERSION


_decode = msgspec.msgpack.Decoder(Looked).decode
_encode = msgspec.msgpack.Encoder().encode


def load(path: Path, generation: str) -> Looked:
    """What is known; empty where nothing is, or it is of another generation."""
    try:
        looked = _decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return Looked(generation)
    known = looked.version == VERSION and looked.generation == generation
    return looked if known else Looked(generation)


def save(path: Path, looked: Looked) -> None:
    """Keep it; where that fails the next look takes longer, and nothing else."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}")
    with contextlib.suppress(OSError):
        try:
            with os.fdopen(open_private(temporary, os.O_WRONLY | os.O_CREAT), "wb") as file:
                file.write(_encode(looked))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
