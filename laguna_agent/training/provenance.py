"""What a checkpoint came from: the dataset versions by id, and the code, so that it can be traced back to both.

Knows names and hashes; must not know how data is stored.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import msgspec

import laguna_agent
from laguna_agent import __version__

_ROOMS = ("training", "backend/laguna", "backend/kernels")
"""The folders of this package that a weight depends on."""


class Code(msgspec.Struct, frozen=True):
    """The program that trained: its version, and the SHA-256 of the modules that decide what is learned."""

    version: str
    sha256: str


class Lineage(msgspec.Struct, frozen=True):
    """`lineage.json` of a checkpoint and of an export. `versions`: what the run file calls a dataset version -> its id;
    the held-out one among them, under its name."""

    run: str
    versions: dict[str, str]
    code: Code


@cache
def code() -> Code:
    """This program's."""
    root = Path(laguna_agent.__file__).resolve().parent
    digest = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return Code(__version__, digest.hexdigest())
