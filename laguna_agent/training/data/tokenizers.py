"""Tokenizers as versions: trained on documents, or taken from a checkpoint with its chat template.

A version of kind `tokenizer` holds files, a row each: `tokenizer.json`, and where they were given
`tokenizer_config.json` and the templates. Knows the store; must not know how text becomes ids.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from laguna_agent.backend.laguna.template import ChatTemplate, read_template
from laguna_agent.backend.laguna.tokenizer import Tokenizer
from laguna_agent.backend.laguna.tokenizer_rules import LARGEST_FILE
from laguna_agent.errors import ConfigError, DatasetError
from laguna_agent.training.data import tokenising
from laguna_agent.training.data.contents import Columns, schema_of
from laguna_agent.training.data.manifest import code_of
from laguna_agent.training.data.operations import Operation, Outcome, only_parent, work_of
from laguna_agent.training.data.store import Built, Store, Version

KIND = "tokenizer"
COLUMNS: Columns = (("file", "string"), ("data", "binary"))
VOCABULARY = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"


class TrainTokenizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`vocabulary` tokens at most, tags and control tokens included; learned from every `every`-th document."""

    vocabulary: int = 2048
    every: int = 1
    special: tuple[str, ...] = tokenising.SPECIAL
    tags: tuple[str, ...] = tokenising.TAGS


def train(store: Store, parents: Sequence[Version], config: TrainTokenizer, name: str | None = None) -> Outcome:
    """A tokenizer trained on the texts of a version of documents. Raises ConfigError, DatasetError."""
    documents = only_parent("tokenizer", parents, "documents")
    if config.every < 1:
        raise ConfigError(f"tokenizer: every is {config.every}, expected 1 or more")
    code = code_of((tokenising.__name__,), ("tokenizers",))

    def build() -> Built:
        texts = (row["text"] for number, row in enumerate(documents.rows(["text"])) if number % config.every == 0)
        data = tokenising.train_tokenizer(texts, config.vocabulary, config.special, tags=config.tags)
        return _table({VOCABULARY: data}), {}

    settings: dict[str, Any] = msgspec.to_builtins(config)
    key = {"texts": [shard.content for shard in documents.shards], "settings": settings}
    done = store.derived("tokenizer", code, key, build)
    version = store.write(
        KIND,
        [done.shard],
        parents=parents,
        operation="tokenizer",
        config=settings,
        code=code,
        schema=COLUMNS,
        name=name,
    )
    return Outcome(version, (work_of("tokenizer", [done]),))


def keep(store: Store, path: Path, name: str | None = None) -> Version:
    """The tokenizer of a tokenizer.json, or of a checkpoint's folder with its chat template, as a version.

    Raises ConfigError where it is not one that the engine takes.
    """
    if path.is_dir():
        names = [VOCABULARY, _SETTINGS, *sorted(found.name for found in path.glob("*.jinja"))]
        files = {name: _read(path / name) for name in names if name == VOCABULARY or (path / name).is_file()}
    else:
        files = {VOCABULARY: _read(path)}
    tokenising.tokenizer_from(files[VOCABULARY], str(path))
    return store.write(KIND, [_table(files)], operation="keep", schema=COLUMNS, name=name)


def vocabulary_of(version: Version) -> bytes:
    """The tokenizer.json of a version. Raises DatasetError where it is of another kind."""
    return _files(version)[VOCABULARY]


def behind(version: Version) -> Version | None:
    """The tokenizer that the tokens of a version were made with; None where they came from elsewhere."""
    return next((each for each in version.ancestry() if each.kind == KIND), None)


def open_tokenizer(version: Version) -> Tokenizer:
    """The tokenizer of a version. Raises DatasetError, ConfigError."""
    return tokenising.tokenizer_from(vocabulary_of(version), f"tokenizer {version.short}")


def open_template(version: Version) -> ChatTemplate:
    """The chat template that was kept with a tokenizer. Raises ConfigError where there was none."""
    source = f"tokenizer {version.short}"
    with tempfile.TemporaryDirectory() as folder:
        for name, data in _files(version).items():
            # The names are a manifest's, which anybody may have written.
            if Path(name).name != name or name in {".", ".."}:
                raise DatasetError(f"{source} holds a file called {name[:80]!r}, which is no plain name")
            (Path(folder) / name).write_bytes(data)
        try:
            template = read_template(Path(folder))
        except ConfigError as error:
            raise ConfigError(str(error).replace(folder, source)) from None
    template.source = source
    return template


def _files(version: Version) -> dict[str, bytes]:
    if version.kind != KIND or version.manifest.columns != COLUMNS:
        raise DatasetError(f"version {version.short} holds {version.kind}, not a tokenizer")
    files = {row["file"]: row["data"] for row in version.rows()}
    if VOCABULARY not in files:
        raise DatasetError(f"version {version.short} has no {VOCABULARY}")
    return files


def _table(files: dict[str, bytes]) -> pa.Table:
    return pa.Table.from_pylist([{"file": name, "data": data} for name, data in files.items()], schema_of(COLUMNS))


def _read(path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: no regular file of at most {LARGEST_FILE:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def _run(store: Store, parents: Sequence[Version], config: Any) -> Outcome:
    return train(store, parents, config)


OPERATION = Operation("tokenizer", TrainTokenizer, _run)
