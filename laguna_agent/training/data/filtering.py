"""Quality as a rank, not a gate: every document keeps its place, only what is broken goes.

A score between 0 and 1 from simple features of the text; its quantiles over all documents cut them into buckets, B0
the lowest, which a blend samples by weight. The score needs one document; the cuts need all scores, which are notes of
the shards: after one changed file one shard is scored anew, and the others get new buckets only if a cut moved.

Only exact arithmetic, so that a score is the same on every machine. Knows documents; must not know how they are
sampled.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa

from laguna_agent.errors import ConfigError
from laguna_agent.training.data import documents
from laguna_agent.training.data.contents import schema_of
from laguna_agent.training.data.manifest import code_of
from laguna_agent.training.data.operations import Operation, Outcome, only_parent, work_of
from laguna_agent.training.data.store import Built, Store, Version

CODE = (__name__, documents.__name__)
BUCKETS = 8
WEIGHTS = (0.006, 0.1, 0.3, 0.6, 1.0, 1.4, 1.9, 2.4)
"""How often a document of each bucket is sampled. The ends are published (arXiv 2605.27605, p. 12), the others ours."""
_GRID = 200
"""Scores are rounded to 1 / _GRID, so that cuts between buckets seldom move when a document changes."""
_COMMENT = {"python": "#", "shell": "#", "ruby": "#", "yaml": "#", "toml": "#", "sql": "--"}
_C_LIKE = frozenset(
    {"javascript", "typescript", "go", "rust", "java", "kotlin", "c", "cpp", "cuda", "csharp", "swift", "php", "css"}
)
_PROSE = frozenset({"markdown", "rst", "text", "html", "json", "other"})
_PENALTIES = {documents.GENERATED: 0.3, documents.MINIFIED: 0.5, documents.VENDORED: 0.1}


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`drop_broken`: leave out Python that no Python 3 parses, and what holds no word. `weights` are those of the
    buckets, the lowest first."""

    drop_broken: bool = True
    weights: tuple[float, ...] = WEIGHTS


def filter_documents(store: Store, parents: Sequence[Version], config: Filter) -> Outcome:
    """The documents that are not broken, with score and bucket. Raises ConfigError, DatasetError."""
    parent = only_parent("filter", parents, documents.KIND)
    if len(config.weights) != BUCKETS or not all(0 <= weight < float("inf") for weight in config.weights):
        raise ConfigError(f"filter: weights are {BUCKETS} numbers from 0 on, one for each bucket")
    code = code_of(CODE, python=True)
    scored = [
        store.derived("score", code, [shard.content, config.drop_broken], partial(_score, parent, at, config))
        for at, shard in enumerate(parent.shards)
    ]
    histogram: Counter[int] = Counter()
    for each in scored:
        histogram.update({int(score): count for score, count in each.shard.note["scores"].items()})
    cuts = quantiles(histogram)
    done = [
        store.derived("bucket", code, [each.shard.content, each.shard.note, cuts], partial(_cut, store, each, cuts))
        for each in scored
    ]
    version = store.write(
        documents.KIND,
        [each.shard for each in done if each.shard.rows],
        parents=parents,
        operation="filter",
        config={"settings": msgspec.to_builtins(config), "cuts": [cut / _GRID for cut in cuts]},
        code=code,
        left_out=_left_out(done),
        schema=documents.COLUMNS,
    )
    return Outcome(version, (work_of("score", scored), work_of("bucket", done)))


def sampling_weights(version: Version) -> tuple[float, ...]:
    """What each bucket weighs, by the version itself or the nearest that it was made of; `WEIGHTS` where none says."""
    for each in version.ancestry():
        if each.manifest.operation == "filter":
            return tuple(each.manifest.config["settings"]["weights"])
    return WEIGHTS


def quantiles(histogram: Mapping[int, int]) -> list[int]:
    """The scores from which buckets 1, 2, ... begin: what has a cut's score or more is in its bucket or above."""
    total = sum(histogram.values())
    cuts: list[int] = []
    below = 0
    for score in sorted(histogram):
        while len(cuts) < BUCKETS - 1 and below + histogram[score] > total * (len(cuts) + 1) // BUCKETS:
            cuts.append(score)
        below += histogram[score]
    return cuts


def _score(parent: Version, at: int, config: Filter) -> Built:
    rows: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    scores: Counter[str] = Counter()
    for row in parent.table(at).to_pylist():
        broken = broken_by(row["language"], row["text"]) if config.drop_broken else ""
        if broken:
            left_out[broken] += 1
            continue
        steps = round(score_of(row["language"], row["text"], row["flags"]) * _GRID)
        scores[str(steps)] += 1
        rows.append(row | {"score": steps / _GRID})
    return pa.Table.from_pylist(rows, schema_of(documents.COLUMNS)), {
        "left_out": dict(left_out),
        "scores": dict(scores),
    }


def _cut(store: Store, scored: Any, cuts: list[int]) -> Built:
    table = store.read(scored.shard, documents.COLUMNS)
    buckets = [sum(round(score * _GRID) >= cut for cut in cuts) for score in table["score"].to_pylist()]
    at = table.schema.get_field_index("bucket")
    note = {
        "left_out": scored.shard.note["left_out"],
        "buckets": {f"B{each}": n for each, n in Counter(buckets).items()},
    }
    return table.set_column(at, table.schema.field(at), pa.array(buckets, pa.int32())), note


def _left_out(done: Sequence[Any]) -> dict[str, int]:
    """What shards without a row left out: they are no part of the version, and their notes are not."""
    total: Counter[str] = Counter()
    for each in done:
        if not each.shard.rows:
            total.update(each.shard.note["left_out"])
    return dict(total)


def broken_by(language: str, text: str) -> str:
    """Why a document is worth nothing at all; empty where it is worth something."""
    if not any(letter.isalnum() for letter in text):
        return "no word in it"
    strange = sum(not letter.isprintable() and letter not in "\t\n\r\f" for letter in text)
    if strange * 50 > len(text):
        return "control characters"
    return "does not parse" if language == "python" and not _parses(text) else ""


def _parses(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def score_of(language: str, text: str, flags: Sequence[str]) -> float:
    """How much there is to learn from a text, 0 to 1, by what can be counted."""
    lines = [line.strip() for line in text.split("\n")]
    full = [line for line in lines if line]
    if not full:
        return 0.0
    mean, longest = sum(map(len, full)) / len(full), max(map(len, full))
    letters = sum(map(str.isalnum, text)) / len(text)
    told = 0.2 if language in _PROSE else _commented(language, full, text)
    # Peaks rather than plateaus: a rank needs to tell documents apart.
    score = (
        0.20 * _between(mean, 5, 35, 35, 150)
        + 0.10 * _between(longest, -1, 79, 79, 800)
        + 0.20 * _between(letters, 0.3, 0.72, 0.72, 1.0)
        + 0.20 * _between(_fresh(full), 0.3, 1.0, 1.0, 1.1)
        + 0.20 * _between(told, 0.0, 0.25, 0.25, 1.1)
        + 0.10 * _between(len(full), 0, 200, 400, 20_000)
    )
    return max(0.0, score - sum(_PENALTIES.get(flag, 0.0) for flag in flags))


def _between(value: float, zero: float, low: float, high: float, end: float) -> float:
    """1 from low to high, falling to 0 at both ends."""
    if value < low:
        return max(0.0, (value - zero) / (low - zero))
    return max(0.0, (end - value) / (end - high)) if value > high else 1.0


def _fresh(full: Sequence[str]) -> float:
    """The share of lines that were not there before; what is only brackets does not count."""
    said = [line for line in full if len(line) > 3]
    return len(set(said)) / len(said) if said else 0.0


def _commented(language: str, full: Sequence[str], text: str) -> float:
    """The share of lines that explain."""
    mark = _COMMENT.get(language, "//" if language in _C_LIKE else "#")
    count = sum(line.startswith(mark) for line in full)
    if language == "python":
        count += sum(found.count("\n") + 1 for found in re.findall(r'(?s)""".*?"""', text))
    elif mark == "//":
        count += sum(found.count("\n") + 1 for found in re.findall(r"(?s)/\*.*?\*/", text))
    return min(1.0, count / len(full))


OPERATION = Operation("filter", Filter, filter_documents)
