"""The data that a run file names, opened: the stream to learn from, packs to look at, ids, and the tokenizer.

Knows the store and the run file; must not know models nor steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow.compute  # noqa: F401 - what reads packs takes it as loaded

from laguna_agent.backend.laguna.tokenizer import Tokenizer, read_tokenizer
from laguna_agent.errors import ConfigError
from laguna_agent.training.batch import Pack
from laguna_agent.training.data.blend import PackedStream
from laguna_agent.training.data.packed import PackedVersion
from laguna_agent.training.data.store import Store, Version
from laguna_agent.training.data.tokenising import END_OF_TEXT
from laguna_agent.training.data.tokenizers import open_tokenizer, vocabulary_of
from laguna_agent.training.run_file import RunFile


class Vocabulary(NamedTuple):
    """The tokenizer that the packs were made with: its size, the id that ends a text (None: it has none), and its
    tokenizer.json."""

    size: int
    end: int | None
    file: bytes


class Supply(NamedTuple):
    """`versions`: what the run file calls a version -> its id; `capacity`: the most tokens of a pack."""

    stream: PackedStream
    validation: list[Pack]
    versions: dict[str, str]
    capacity: int
    vocabulary: Vocabulary | None
    template: str | None = None
    """The chat template that conversations were rendered with."""


def open_supply(run: RunFile) -> Supply:
    """Open what `[data]` names. Raises DatasetError and ConfigError."""
    data = run.data
    store = Store(None if data.store is None else Path(data.store))
    opened = {name: store.open(name) for name in data.datasets}
    stream = PackedStream(store, list(data.datasets), data.datasets, run.run.seed)
    validation: list[Pack] = []
    if data.validation is not None:
        held_out = store.open(data.validation)
        if held_out.id in {version.id for version in opened.values()}:
            raise ConfigError(f"data.validation is {data.validation}, which is also learned from; hold something out")
        opened[data.validation] = held_out
        rows = PackedVersion(held_out).rows
        validation = [rows[number] for number in range(min(data.validation_packs, len(rows)))]
    capacity = max(int(version.manifest.config.get("capacity", 0)) for version in opened.values())
    versions = {name: version.id for name, version in opened.items()}
    vocabulary, template = _vocabulary(run, store, list(opened.values()))
    return Supply(stream, validation, versions, capacity, vocabulary, template if run.run.kind == "sft" else None)


def _vocabulary(run: RunFile, store: Store, versions: list[Version]) -> tuple[Vocabulary | None, str | None]:
    """The run file's tokenizer, or the one that all versions were made with, and the chat template that was kept with
    it. Raises ConfigError where they differ."""
    named = run.data.tokenizer
    if named is not None and named.endswith(".json"):
        return _of(read_tokenizer(Path(named)), Path(named).read_bytes()), None
    if named is not None:
        found = [store.open(named)]
    else:
        each = [each for version in versions for each in version.ancestry() if each.kind == "tokenizer"]
        found = list({version.id: version for version in each}.values())
    if len(found) > 1:
        raise ConfigError(
            f"data.datasets were made with {len(found)} tokenizers ({', '.join(each.short for each in found)}); "
            "one run learns one vocabulary"
        )
    if not found:
        return None, None
    return _of(open_tokenizer(found[0]), vocabulary_of(found[0])), _template(found[0])


def _template(version: Version) -> str | None:
    """The text of the chat template that was kept with a tokenizer; None where there is none, or more than one."""
    files: dict[str, bytes] = {row["file"]: row["data"] for row in version.rows()}
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].decode("utf-8", "replace")
    settings = msgspec.json.decode(files.get("tokenizer_config.json", b"{}"))
    text = settings.get("chat_template") if isinstance(settings, dict) else None
    return text if isinstance(text, str) else None


def _of(tokenizer: Tokenizer, file: bytes) -> Vocabulary:
    return Vocabulary(tokenizer.vocab_size, tokenizer.id_of(END_OF_TEXT), file)
