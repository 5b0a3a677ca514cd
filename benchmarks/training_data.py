"""Claims on data: what one changed file costs, how full packs are, which planted near-duplicates are found.

Knows the store's operations and the table; must not know models.
"""

from __future__ import annotations

import random
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Literal

from training_claims import Row, Settings, spread
from training_corpus import corpus, corpus_folder, sources

from laguna_agent.training.data.dedup import Dedup, dedup
from laguna_agent.training.data.ingest import ingest
from laguna_agent.training.data.operations import Outcome
from laguna_agent.training.data.packing import fill, next_fit, pack_documents
from laguna_agent.training.data.recipe import build, read_recipe
from laguna_agent.training.data.sources import Source
from laguna_agent.training.data.store import Store
from laguna_agent.training.data.tokenizers import keep

RECIPE = """
name = "stdlib"
[[source]]
name = "stdlib"
folder = "files"
include = ["**/*.py"]
[[step]]
operation = "filter"
[[step]]
operation = "dedup"
[[step]]
operation = "order"
called = "ordered"
[[step]]
operation = "tokenise"
of = ["ordered", "bpe"]
[[step]]
operation = "pack"
capacity = 512
"""
"""The tokenizer is given: one that is trained anew changes every token."""
CAPACITIES = (512, 2048)
FILL, RECALL = 0.98, 0.95
ALIKE, UNLIKE = (0.95, 0.90, 0.85), 0.5
"""Jaccard similarities of planted copies: those that are near-duplicates, and one that is none."""
THRESHOLD, SHINGLE = 0.8, 5
WORDS = range(200, 2000)
"""Of a text that is copied: long enough to be alike in parts, short enough that comparing all pairs takes seconds."""


def incremental_rows(settings: Settings) -> list[Row]:
    """Seconds of a whole build over seconds of the build after one file changed, and whether both give the same."""
    rounds = 1 if settings.quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = _files(folder / "files", settings.quick)
        (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
        tokenizer = corpus_folder(settings.cache, settings.quick) / "tokenizer.json"
        _, store = _built(folder, "kept", tokenizer)
        changed = [path for path, text in texts.items() if len(text) > 2000][:: max(1, len(texts) // rounds)]
        full, again, equal, done = [], [], [], ""
        for turn, path in enumerate(changed[:rounds]):
            _append(folder / "files" / path, turn)
            begin = time.perf_counter()
            outcome = build(store, read_recipe(folder / "recipe.toml"))
            again.append(time.perf_counter() - begin)
            seconds, fresh = _built(folder, f"fresh{turn}", tokenizer)
            full.append(seconds)
            equal.append(fresh.names() == store.names())
            done = f"{sum(work.derived for work in outcome.work)} of {sum(work.shards for work in outcome.work)}"
    faster = [whole / part for whole, part in zip(full, again, strict=True)]
    return [
        Row(
            f"one of {len(texts)} files changed",
            f"full rebuild {median(full):.1f} s",
            f"{spread(faster, '.1f')}x faster ({median(again):.2f} s, {done} shards derived), "
            f"id {'equal' if all(equal) else 'NOT equal'} to a rebuild's from nothing",
            "faster, ids equal",
            min(faster) > 1 and all(equal),
        )
    ]


def _files(folder: Path, quick: bool) -> dict[str, str]:
    texts = sources(quick)
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return texts


def _append(path: Path, turn: int) -> None:
    path.write_text(f"{path.read_text(encoding='utf-8')}\n\nCHANGED = {turn}\n", encoding="utf-8")


def _built(folder: Path, name: str, tokenizer: Path) -> tuple[float, Store]:
    """Seconds of a build in an empty store, and the store."""
    store = Store(folder / name)
    keep(store, tokenizer, "bpe")
    begin = time.perf_counter()
    build(store, read_recipe(folder / "recipe.toml"))
    return time.perf_counter() - begin, store


def packing_rows(settings: Settings) -> list[Row]:
    """How full packs are, and what deduplication finds."""
    lengths = corpus(settings.cache, settings.quick).lengths.tolist()
    rows = []
    for capacity in CAPACITIES:
        pieces = [min(capacity, length - at) for length in lengths for at in range(0, length, capacity)]
        naive = fill(([pieces[index] for index in pack] for pack in next_fit(pieces, capacity)), capacity)
        best = fill(([part.length for part in pack] for pack in pack_documents(lengths, capacity)), capacity)
        rows.append(
            Row(
                f"packing, {capacity} tokens, {len(lengths)} documents",
                f"next-fit {naive:.2%}",
                f"best-fit {best:.2%} full",
                f">= {FILL:.0%}",
                best >= FILL,
            )
        )
    return [*rows, *_dedup_rows(settings)]


@dataclass(frozen=True)
class Planted:
    """A copy of a text, edited until this much of it is the same."""

    original: str
    copy: str
    similarity: float


def _dedup_rows(settings: Settings) -> list[Row]:
    texts = [text for text in sources(settings.quick).values() if len(words(text)) in WORDS]
    source = random.Random(0)
    chosen = source.sample(texts, 8 if settings.quick else 120)
    levels = (*ALIKE, UNLIKE)
    planted = [edited(text, levels[at % len(levels)], source) for at, text in enumerate(chosen)]
    # Two that are the very same, so that the naive arm has something to find.
    same = [Planted(text, text, 1.0) for text in chosen[: len(chosen) // 8]]
    documents = [*chosen, *(each.copy for each in planted)]
    alike = [each for each in planted if each.similarity >= min(ALIKE) - 0.02]
    found = {}
    for method in ("exact", "minhash"):
        kept = _kept([*documents, *(each.copy for each in same)], method)
        recall = sum(digest(each.original) not in kept or digest(each.copy) not in kept for each in alike) / len(alike)
        gone = [text for text in documents if digest(text) not in kept]
        wrong = sum(all(jaccard(text, other) < THRESHOLD for other in documents if other != text) for text in gone)
        found[method] = (recall, wrong)
    recall, wrong = found["minhash"]
    return [
        Row(
            f"near-duplicates, {len(alike)} planted at Jaccard {min(ALIKE)} to {max(ALIKE)}",
            f"exact hash {found['exact'][0]:.1%} found",
            f"MinHash {recall:.1%} found, {wrong} of {len(documents)} documents taken out that are none",
            f">= {RECALL:.0%}",
            recall >= RECALL and wrong == 0,
        )
    ]


def _kept(texts: Sequence[str], method: Literal["exact", "minhash"]) -> set[str]:
    """Hashes of the texts that deduplication leaves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "files").mkdir()
        for at, text in enumerate(texts):
            (folder / "files" / f"{at:04d}.py").write_text(text, encoding="utf-8")
        store = Store(folder / "store")
        documents = ingest(store, [Source(name="planted", folder=str(folder / "files"))]).version
        outcome: Outcome = dedup(store, [documents], Dedup(threshold=THRESHOLD, shingle=SHINGLE, method=method))
        return {digest(row["text"]) for row in outcome.version.rows(["text"])}


def digest(text: str) -> str:
    """What a text is known by."""
    return sha256(text.encode()).hexdigest()


def words(text: str) -> list[str]:
    """Words and signs."""
    return re.findall(r"\w+|[^\w\s]", text)


@cache
def shingled(text: str) -> frozenset[tuple[str, ...]]:
    """Every run of `SHINGLE` words."""
    found = words(text)
    return frozenset(tuple(found[at : at + SHINGLE]) for at in range(max(1, len(found) - SHINGLE + 1)))


def jaccard(left: str, right: str) -> float:
    """What two texts share of all that either has; by sets, not by signatures."""
    a, b = shingled(left), shingled(right)
    return len(a & b) / len(a | b)


def edited(text: str, similarity: float, source: random.Random) -> Planted:
    """A copy in which names in random lines are changed until it is as alike as asked, or just less."""
    lines = text.splitlines(keepends=True)
    order = [at for at, line in enumerate(lines) if line.strip()]
    source.shuffle(order)
    reached = 1.0
    step = max(1, len(order) // 100)
    for start in range(0, len(order), step):
        for at in order[start : start + step]:
            lines[at] = re.sub(r"\b(\w+)\b", lambda word: f"{word[1]}_{source.randrange(1000)}", lines[at], count=1)
        reached = jaccard(text, "".join(lines))
        if reached <= similarity:
            break
    return Planted(text, "".join(lines), reached)
