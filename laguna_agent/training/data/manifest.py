"""What a version says of itself: where it came from, by which code and settings, and which shards it is made of.

A version's id is a hash of its manifest, less what may differ from machine to machine for the same data: the hashes
and sizes of the Parquet files (they name the library that wrote them) and the time. Knows JSON; must not know where
anything lies.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from laguna_agent.errors import DatasetError

PREFIX = "d_"
SHOWN = len(PREFIX) + 16
"""Characters of an id that are shown to people; any beginning that is of one version alone is accepted."""
LARGEST_MANIFEST = 256 << 20
_ID = re.compile(rf"{PREFIX}[0-9a-f]{{64}}")
_HASH = re.compile("[0-9a-f]{64}")
_FILE_FIELDS = ("file", "bytes")
_OWN_FIELDS = ("created", "writer")

Kind = str
"""documents | signatures | imports | tokens | packed | tokenizer | conversations: what the columns mean."""


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a version: `rows` rows whose values have the hash `content`, in the Parquet file of the SHA-256 `file`
    and of `bytes` bytes. `note` is what its operation found worth keeping, such as what it left out and why."""

    content: str
    rows: int
    file: str
    bytes: int
    note: dict[str, Any] = {}


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a pure function made `shard` of what has the hashes `inputs`."""

    shard: Shard
    inputs: tuple[str, ...]


class Code(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What computed a shard: a hash of the source files that define it, and the versions of what its results hang on
    that is not ours."""

    hash: str
    engines: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything of a version but its rows. `columns` are (name, type); `left_out` counts by reason; `created` is a
    time in UTC, and `writer` the library that wrote the files."""

    kind: Kind
    operation: str
    config: dict[str, Any]
    config_hash: str
    code: Code
    parents: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    shards: tuple[Shard, ...]
    left_out: dict[str, int]
    created: str
    writer: str

    @property
    def id(self) -> str:
        """`d_` and 64 hex digits."""
        return PREFIX + canonical_hash(identity(self))

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Of all shards' files."""
        return sum(shard.bytes for shard in self.shards)


def identity(manifest: Manifest) -> dict[str, Any]:
    """The part of a manifest that its id is a hash of."""
    told: dict[str, Any] = msgspec.to_builtins(manifest)
    told["shards"] = [{key: each[key] for key in each if key not in _FILE_FIELDS} for each in told["shards"]]
    return {key: value for key, value in told.items() if key not in _OWN_FIELDS}


def canonical(value: Any) -> bytes:
    """JSON in one spelling: keys sorted, no space, UTF-8."""
    return msgspec.json.encode(value, order="sorted")


def canonical_hash(value: Any) -> str:
    """SHA-256, in hex, of plain data."""
    return hashlib.sha256(canonical(value)).hexdigest()


def read_manifest(path: Path, id: str) -> Manifest:
    """The manifest of the version `id`. Raises DatasetError where it is none, or another version's."""
    try:
        if path.is_symlink() or path.stat().st_size > LARGEST_MANIFEST:
            raise DatasetError(f"the manifest {path} is a link or too large; remove it")
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise DatasetError(f"there is no version {id[:SHOWN]} in {path.parent.parent}") from error
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"the manifest {path} cannot be read: {error}") from error
    if manifest.id != id:
        raise DatasetError(
            f"the manifest {path} was altered: it is {manifest.id[:SHOWN]}'s; remove it and derive the version anew"
        )
    for shard in manifest.shards:
        if not is_hash(shard.file) or not is_hash(shard.content):
            raise DatasetError(f"the manifest {path} names a shard that is no SHA-256: {shard.file[:80]!r}")
    return manifest


def is_id(text: str) -> bool:
    """Whether this is a version's whole id."""
    return _ID.fullmatch(text) is not None


def is_hash(text: str) -> bool:
    """Whether this is a SHA-256 in hex."""
    return _HASH.fullmatch(text) is not None


@cache
def code_of(modules: Sequence[str], packages: Sequence[str] = (), *, python: bool = False) -> Code:
    """The code of an operation: our modules that define it, by their names, and the packages (and, where `python` says
    so, the interpreter) whose versions its results hang on. Both must be tuples."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise DatasetError(f"the source of {name} is not there to be hashed")
        # A checkout may have other line ends than another one; the program is the same.
        source = Path(found.origin).read_bytes().replace(b"\r\n", b"\n")
        digest.update(f"{name} {len(source)}\n".encode() + source)
    engines = {"python": ".".join(platform.python_version_tuple()[:2])} if python else {}
    for package in sorted(packages):
        try:
            engines[package] = version(package)
        except PackageNotFoundError as error:
            raise DatasetError(f"{package} is not installed: pip install 'laguna-agent[train]'") from error
    return Code(digest.hexdigest(), engines)


def hashes_in(value: Any) -> set[str]:
    """Every SHA-256 in plain data."""
    if isinstance(value, str):
        return {value} if is_hash(value) else set()
    if isinstance(value, dict):
        return set().union(*map(hashes_in, value.values()))
    return set().union(*map(hashes_in, value)) if isinstance(value, list | tuple) else set()
