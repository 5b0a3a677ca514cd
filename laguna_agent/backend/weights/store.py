"""The weight store: model files by their SHA-256, and a small manifest for each name.

    <root>/blobs/sha256-<hex>        the files, read-only, complete and verified
    <root>/manifests/<name>.json     what a name means; several names may share one file
    <root>/partial/sha256-<hex>      a pull under way or cut short: always a prefix of the file

A file appears under `blobs/` by one rename after its hash was checked, so what is there is whole. Knows nothing of
networks (`pull.py`) and nothing of what a model file contains, beyond the four letters that every GGUF starts with.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from laguna_agent.backend.weights.catalogue import CATALOGUE, ModelFile
from laguna_agent.directories import data_directory
from laguna_agent.errors import UsageError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); may be called from a worker thread."""

BLOCK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class StoredModel(msgspec.Struct, frozen=True):
    """What a name in the store means. `source` is the URL or file it came from, `added` an ISO 8601 time in UTC."""

    name: str
    file_name: str
    size: int
    sha256: str
    licence: str
    source: str
    added: str


def default_root() -> Path:
    """Where weights are kept unless a test says otherwise."""
    return data_directory() / "models"


class Store:
    """The weights under one folder. Reading needs no lock: every change is one rename or one unlink."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_root()

    def blob_path(self, sha256: str) -> Path:
        """Where the file of that hash lies, or will lie."""
        return self.root / "blobs" / f"sha256-{sha256}"

    def partial_path(self, sha256: str) -> Path:
        """Where a pull of that file gathers its bytes."""
        return self.root / "partial" / f"sha256-{sha256}"

    @contextlib.contextmanager
    def lock(self, sha256: str) -> Iterator[bool]:
        """Try to be the one process that works on that partial file; yields whether it is. Freed by any death."""
        path = self.root / "partial" / f"sha256-{sha256}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def find(self, name: str) -> StoredModel | None:
        """The model of that name, or None where the store has none or its file is gone."""
        manifest = self._manifest_path(name)
        try:
            model = msgspec.json.decode(manifest.read_bytes(), type=StoredModel)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise UsageError(f"{manifest} cannot be read ({error}); `laguna-agent models rm {name}`") from error
        if not _SHA256.fullmatch(model.sha256):
            raise UsageError(f"{manifest} names no SHA-256 but {model.sha256[:80]!r}; `laguna-agent models rm {name}`")
        return model if self._is_whole(model) else None

    def get(self, name: str) -> StoredModel:
        """The model of that name; UsageError that says what to type where the store has none."""
        model = self.find(name)
        if model is not None:
            return model
        if name in CATALOGUE:
            raise UsageError(f"model {name!r} is not in the store; get it with `laguna-agent models pull {name}`")
        have = ", ".join(sorted({model.name for model in self.models()} | set(CATALOGUE)))
        raise UsageError(f"no model is called {name!r}; known names are {have}")

    def models(self) -> list[StoredModel]:
        """Every usable model, by name."""
        names = sorted(path.stem for path in self.root.glob("manifests/*.json"))
        found = (self.find(name) for name in names)
        return [model for model in found if model is not None]

    def _sound(self) -> Iterator[StoredModel]:
        for path in self.root.glob("manifests/*.json"):
            with contextlib.suppress(UsageError):
                model = self.find(path.stem)
                if model is not None:
                    yield model

    def commit(self, partial: Path, entry: ModelFile, source: str) -> StoredModel:
        """Take `partial`, whose hash the caller has checked, into the store under the entry's name."""
        blob = self.blob_path(entry.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        partial.chmod(0o444)
        partial.replace(blob)
        return self.name_blob(entry, source)

    def name_blob(self, entry: ModelFile, source: str) -> StoredModel:
        """Give a file that the store already holds the entry's name."""
        model = StoredModel(
            name=entry.name,
            file_name=entry.file_name,
            size=entry.size,
            sha256=entry.sha256,
            licence=entry.licence,
            source=source,
            added=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        manifest = self._manifest_path(entry.name)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        fresh = manifest.with_name(f".{entry.name}.{os.getpid()}")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(model), indent=2) + b"\n")
        fresh.replace(manifest)
        return model

    def has_blob(self, entry: ModelFile) -> bool:
        """Whether the entry's file is here, whatever it is called."""
        return file_length(self.blob_path(entry.sha256)) == entry.size

    def remove(self, name: str) -> int:
        """Forget the name and everything pulled for it, also in part; return the bytes freed.

        A file that another name still uses stays. UsageError where there is nothing of that name.
        """
        manifest = self._manifest_path(name)
        known = manifest.exists()
        sha256 = CATALOGUE[name].sha256 if name in CATALOGUE else ""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            named = msgspec.json.decode(manifest.read_bytes(), type=StoredModel).sha256
            # It becomes a path of what is deleted.
            sha256 = named if _SHA256.fullmatch(named) else sha256
        if not sha256 and not known:
            raise UsageError(f"the store at {self.root} has no model called {name!r}")
        if not sha256:
            manifest.unlink(missing_ok=True)
            return 0
        with self.lock(sha256) as mine:
            if not mine:
                raise UsageError(f"{name} is being pulled by another process; stop that first")
            manifest.unlink(missing_ok=True)
            freed = self._drop_unused(sha256)
        if not known and not freed:
            raise UsageError(f"the store at {self.root} has no model called {name!r}")
        return freed

    def _drop_unused(self, sha256: str) -> int:
        partial = self.partial_path(sha256)
        doomed = [partial, *partial.parent.glob(f"{partial.name}.wheel-*")]
        if not any(model.sha256 == sha256 for model in self._sound()):
            doomed.append(self.blob_path(sha256))
        freed = sum(file_length(path) for path in doomed)
        for path in doomed:
            path.unlink(missing_ok=True)
        return freed

    def adopt(self, name: str, file: Path, progress: Progress) -> StoredModel:
        """Copy a file that the user already has into the store under `name`.

        A name of the catalogue accepts only the catalogue's bytes; any other name takes any GGUF file. Raises
        UsageError where the file is not what the name says, cannot be read, or does not fit the disk.
        """
        manifest = self._manifest_path(name)
        try:
            with file.open("rb") as source:
                if source.read(4) != b"GGUF":
                    pickle = file.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
                    why = ": a pickle can run any program when it is read; get the model as .gguf" if pickle else ""
                    raise UsageError(f"{file} is not a GGUF model file{why}")
                source.seek(0)
                size = os.fstat(source.fileno()).st_size
                need_space(self.root, size)
                fresh = self.root / "partial" / f"adopt-{manifest.stem}-{os.getpid()}"
                sha256 = self._copy_and_hash(source, fresh, size, progress)
        except OSError as error:
            raise UsageError(f"{file} cannot be taken into the store: {error.strerror or error}") from error
        known = CATALOGUE.get(name)
        if known is not None and known.sha256 != sha256:
            fresh.unlink()
            raise UsageError(f"{file} is not {name}: its SHA-256 is {sha256}, expected {known.sha256}")
        entry = known or ModelFile(name, file.name, size, sha256, licence="unknown", url="")
        return self.commit(fresh, entry, source=str(file.resolve()))

    def _copy_and_hash(self, source: IO[bytes], target: Path, size: int, progress: Progress) -> str:
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with target.open("wb") as out:
                while block := source.read(BLOCK):
                    out.write(block)
                    digest.update(block)
                    progress(out.tell(), size)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return digest.hexdigest()

    def _manifest_path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a model name: lower-case letters, digits, '.', '_' and '-' only")
        return self.root / "manifests" / f"{name}.json"

    def _is_whole(self, model: StoredModel) -> bool:
        return file_length(self.blob_path(model.sha256)) == model.size


def file_length(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def hash_file(path: Path, progress: Progress) -> str:
    """SHA-256 of a file, in lower-case hex, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        while block := source.read(BLOCK):
            digest.update(block)
            progress(source.tell(), size)
    return digest.hexdigest()


def need_space(root: Path, size: int) -> None:
    """UsageError where the disk under `root` has no room for `size` more bytes; makes the folder."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise UsageError(f"the model store {root} cannot be used: {error.strerror or error}") from error
    if free < size:
        raise UsageError(
            f"{root} has {free / 1e9:.1f} GB free and {size / 1e9:.1f} GB are needed; "
            "free some space, or set XDG_DATA_HOME to a larger disk"
        )
