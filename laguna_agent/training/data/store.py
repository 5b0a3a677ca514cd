"""The store of dataset versions: immutable, content-addressed, whole or absent.

    <root>/shards/<sha256>.parquet     rows; the name is the hash of the file's bytes
    <root>/versions/<hash>.json        a version's manifest; the name is its id less `d_`
    <root>/derived/<hash>.json         which shard a pure function made of which input: what need not be done again
    <root>/names.json                  what people call versions; the only thing that changes
    <root>/lock                        held shared by whoever writes, alone by who takes away

A file appears by one link or rename after it is complete, shards before the manifest that names them, so that a
process that is killed leaves at most shards that nobody names (`gc` takes them away). Knows versions and shards; must
not know what their columns mean.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from laguna_agent.atomic import replace_file, replacing, sync
from laguna_agent.directories import data_directory
from laguna_agent.errors import DatasetError, UsageError
from laguna_agent.training.data.contents import (
    Columns,
    columns_of,
    content_hash,
    normalised,
    parquet_bytes,
    read_parquet,
    schema_of,
)
from laguna_agent.training.data.holding import Hold, one_at_a_time
from laguna_agent.training.data.manifest import (
    PREFIX,
    SHOWN,
    Code,
    Kind,
    Manifest,
    Record,
    Shard,
    canonical,
    canonical_hash,
    code_of,
    hashes_in,
    is_hash,
    is_id,
    read_manifest,
)

READ_ONLY = 0o444
ROWS_PER_SHARD = 65_536
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_WRITER = f"pyarrow {pa.__version__}"

Built = tuple[pa.Table, dict[str, Any]]
"""What a pure function made: a table, and a note about it."""


class Derived(NamedTuple):
    """A shard, and whether it was there already."""

    shard: Shard
    reused: bool


class Version:
    """One version: what it says of itself, and its rows in their order."""

    def __init__(self, store: Store, id: str, manifest: Manifest) -> None:
        self.store = store
        self.id = id
        self.manifest = manifest

    @property
    def short(self) -> str:
        """The id as people see it."""
        return self.id[:SHOWN]

    @property
    def kind(self) -> Kind:
        """What the columns mean."""
        return self.manifest.kind

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Its parts, in order."""
        return self.manifest.shards

    def __len__(self) -> int:
        return self.manifest.rows

    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of a shard, memory-mapped. Raises DatasetError where the file is missing or not what it was."""
        wanted = self.manifest.columns
        if columns is not None:
            known = dict(wanted)
            missing = [name for name in columns if name not in known]
            if missing:
                raise DatasetError(f"version {self.short} has no column {missing[0]!r}: {', '.join(known)}")
            wanted = tuple((name, known[name]) for name in columns)
        return self.store.read(self.shards[shard], wanted, self.short)

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Every row as a dictionary, in order."""
        for at in range(len(self.shards)):
            for batch in self.table(at, columns).to_batches(max_chunksize=1024):
                yield from batch.to_pylist()

    def parents(self) -> list[Version]:
        """The versions that this one was made of."""
        return [self.store.open(parent) for parent in self.manifest.parents]

    def ancestry(self) -> list[Version]:
        """This version and all that it was made of, each once, the nearest first."""
        found: dict[str, Version] = {}
        waiting = [self]
        while waiting:
            at = waiting.pop(0)
            if at.id not in found:
                found[at.id] = at
                waiting += at.parents()
        return list(found.values())


class Store:
    """The versions under one folder, which is made when something is written. Reading needs no lock."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_root()
        self.hold = Hold(self.root)

    # -- reading ----------------------------------------------------------------------------------------------------

    def open(self, version: str) -> Version:
        """The version of that id, beginning of an id, or name. Raises DatasetError where there is none, or several."""
        id = self.resolve(version)
        return Version(self, id, read_manifest(self.manifest_path(id), id))

    def resolve(self, version: str) -> str:
        """The whole id of what a person calls a version. Raises DatasetError."""
        if is_id(version):
            return version
        named = self.names().get(version)
        if named is not None:
            return named
        begins = version.removeprefix(PREFIX)
        if len(begins) >= 4 and re.fullmatch("[0-9a-f]{4,64}", begins):
            found = [id for id in self.ids() if id.startswith(PREFIX + begins)]
            if len(found) == 1:
                return found[0]
            if found:
                raise DatasetError(f"{len(found)} versions begin with {version}; give more of the id")
        raise DatasetError(f"there is no version {version!r} in {self.root}; `laguna-agent data log` lists them")

    def ids(self) -> list[str]:
        """The ids of all versions, sorted."""
        names = [path.stem for path in self.root.glob("versions/*.json")]
        return sorted(PREFIX + name for name in names if is_hash(name))

    def names(self) -> dict[str, str]:
        """What versions are called: name to id. Raises DatasetError where that cannot be read."""
        path = self.root / "names.json"
        try:
            found = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as error:
            raise DatasetError(f"{path} cannot be read: {error}; remove it and name the versions anew") from error
        wrong = [name for name, id in found.items() if not is_id(id) or not _NAME.fullmatch(name)]
        if wrong:
            raise DatasetError(f"{path} has a name that is none of a version: {wrong[0][:80]!r}")
        return found

    def read(self, shard: Shard, columns: Columns, whose: str = "") -> pa.Table:
        """A shard's rows. Raises DatasetError where the file is missing or not what it was."""
        path = self.shard_path(shard.file)
        of = f" of version {whose}" if whose else ""
        if path.is_symlink() or not path.is_file():
            raise DatasetError(f"shard {path.name}{of} is missing from {path.parent}; derive the version anew")
        size = path.stat().st_size
        if size != shard.bytes:
            raise DatasetError(f"shard {path}{of} has {size} bytes, it had {shard.bytes}; remove it and derive it anew")
        table = read_parquet(path, [name for name, _ in columns])
        if table.num_rows != shard.rows or columns_of(table.schema) != columns:
            raise DatasetError(f"shard {path}{of} has other rows or columns than its manifest says; derive it anew")
        return table

    def shard_path(self, file: str) -> Path:
        """Where the Parquet file of that hash lies. Raises DatasetError for what is no hash."""
        if not is_hash(file):
            raise DatasetError(f"{file[:80]!r} names no shard: a SHA-256 does")
        return self.root / "shards" / f"{file}.parquet"

    def manifest_path(self, id: str) -> Path:
        """Where the manifest of a version lies."""
        return self.root / "versions" / f"{id.removeprefix(PREFIX)}.json"

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(
        self,
        kind: Kind,
        rows: Iterable[pa.Table | Shard | Mapping[str, Any]],
        *,
        parents: Sequence[str | Version] = (),
        operation: str = "write",
        config: Mapping[str, Any] | None = None,
        code: Code | None = None,
        left_out: Mapping[str, int] | None = None,
        name: str | None = None,
        schema: pa.Schema | Columns | None = None,
    ) -> Version:
        """Write a version, or find that it is there. Raises DatasetError, and UsageError for a name that is none.

        `rows` are tables and shards, each of which is a shard of the version, or dictionaries, which are put into
        shards of `ROWS_PER_SHARD`; they need `schema`, as does a version without any row.
        """
        if name is not None:
            _check_name(name)
        columns = columns_of(schema) if isinstance(schema, pa.Schema) else schema
        shards, columns = self._shards(rows, columns)
        # As JSON has it, so that a version that was just written is equal to the same one read.
        settings = msgspec.json.decode(canonical(dict(config or {})))
        counts = dict(left_out or {})
        for shard in shards:
            for reason, count in shard.note.get("left_out", {}).items():
                counts[reason] = counts.get(reason, 0) + count
        manifest = Manifest(
            kind=kind,
            operation=operation,
            config=settings,
            config_hash=canonical_hash(settings),
            code=code or code_of((__name__,)),
            parents=tuple(each.id if isinstance(each, Version) else self.resolve(each) for each in parents),
            columns=columns,
            shards=tuple(shards),
            left_out=counts,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            writer=_WRITER,
        )
        version = self._keep(manifest)
        if name is not None:
            self.name(name, version.id)
        return version

    def _keep(self, manifest: Manifest) -> Version:
        id = manifest.id
        path = self.manifest_path(id)
        self.hold.share()
        # Absent or damaged, it is written anew.
        with suppress(DatasetError):
            there = read_manifest(path, id)
            if all(self._is_there(shard) for shard in there.shards):
                return Version(self, id, there)
        self._sync("shards")
        self._put(path, msgspec.json.format(canonical(manifest), indent=1) + b"\n")
        self._sync("versions")
        return Version(self, id, manifest)

    def _shards(
        self, rows: Iterable[pa.Table | Shard | Mapping[str, Any]], columns: Columns | None
    ) -> tuple[list[Shard], Columns]:
        shards: list[Shard] = []
        gathered: list[Mapping[str, Any]] = []
        for each in rows:
            if isinstance(each, Shard):
                shards.append(each)
            elif isinstance(each, pa.Table):
                columns = columns or columns_of(each.schema)
                if columns_of(each.schema) != columns:
                    raise DatasetError(f"shard {len(shards)} has other columns than those before it")
                shards.append(self.put(each))
            else:
                gathered.append(each)
                if len(gathered) == ROWS_PER_SHARD:
                    shards.append(self.put(_table(gathered, columns)))
                    gathered = []
        if columns is None:
            raise DatasetError("rows and shards need a schema to be written as a version")
        if gathered:
            shards.append(self.put(_table(gathered, columns)))
        return shards, columns

    def put(self, table: pa.Table, note: Mapping[str, Any] | None = None) -> Shard:
        """Keep a table as a shard. What is there already with these bytes stays; what was damaged is replaced."""
        table = normalised(table)
        data = parquet_bytes(table)
        file = hashlib.sha256(data).hexdigest()
        path = self.shard_path(file)
        if path.is_symlink() or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file:
            self._put(path, data)
        return Shard(content_hash(table), table.num_rows, file, len(data), dict(note or {}))

    def derived(self, operation: str, code: Code, key: Any, build: Callable[[], Built]) -> Derived:
        """The shard that `build` makes, made only where it was not made before.

        `build` must be a pure function of `key` (plain data: the hashes of what goes in, and the settings) and of the
        code. Raises what it raises.
        """
        whole = {"operation": operation, "code": msgspec.to_builtins(code), "key": key}
        path = self.root / "derived" / f"{canonical_hash(whole)}.json"
        self.hold.share()
        # Not derived yet, or the record is damaged.
        with suppress(OSError, msgspec.DecodeError):
            shard = msgspec.json.decode(path.read_bytes(), type=Record).shard
            if self._is_there(shard):
                return Derived(shard, True)
        table, note = build()
        shard = self.put(table, note)
        # A record that is lost is made anew, and one that is torn is no JSON.
        self._put(path, canonical(Record(shard, tuple(sorted(hashes_in(key))))), durable=False)
        return Derived(shard, False)

    def name(self, name: str, version: str) -> None:
        """Call a version by a name from now on, whatever had it before. Raises UsageError, DatasetError."""
        _check_name(name)
        id = self.resolve(version)
        self._rename(lambda names: names | {name: id})

    def forget_name(self, name: str) -> None:
        """Let a name go; the version stays. Raises DatasetError where nothing is called so."""
        if name not in self.names():
            raise DatasetError(f"no version is called {name!r} in {self.root}")
        self._rename(lambda names: {key: id for key, id in names.items() if key != name})

    def _rename(self, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
        self.hold.share()
        path = self.root / "names.json"
        try:
            with one_at_a_time(path):
                replace_file(path, msgspec.json.format(canonical(change(self.names())), indent=1) + b"\n")
        except OSError as error:
            raise DatasetError(f"{path} cannot be written: {error.strerror or error}") from error

    def _is_there(self, shard: Shard) -> bool:
        if not is_hash(shard.file):
            return False
        path = self.shard_path(shard.file)
        return not path.is_symlink() and path.is_file() and path.stat().st_size == shard.bytes

    def _put(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        self.hold.share()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path, READ_ONLY, durable=durable) as file:
                file.write(data)
        except OSError as error:
            raise DatasetError(f"{path} cannot be written: {error.strerror or error}") from error

    def _sync(self, folder: str) -> None:
        if (self.root / folder).is_dir():
            sync(self.root / folder)

    def close(self) -> None:
        """Let others take away what nothing needs."""
        self.hold.close()


def default_root() -> Path:
    """Where versions are kept unless somebody says otherwise."""
    return data_directory() / "datasets"


def _table(rows: Sequence[Mapping[str, Any]], columns: Columns | None) -> pa.Table:
    if columns is None:
        raise DatasetError("rows need a schema to be written as a version")
    try:
        return pa.Table.from_pylist(list(rows), schema_of(columns))
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise DatasetError(f"rows do not fit their columns: {' '.join(str(error).split())[:200]}") from error


def _check_name(name: str) -> None:
    # A name that looks like an id would hide a version.
    if not _NAME.fullmatch(name) or re.fullmatch(rf"({PREFIX})?[0-9a-f]{{8,64}}", name):
        raise UsageError(
            f"{name!r} cannot be a version's name: letters, digits, '.', '_', '-', and no beginning of an id"
        )
