"""The corpus of the training benchmark: the source of Python's standard library, as token ids.

Its tests are left out (they repeat themselves). Files are split into learned and held out by the hash of their text, so
a copy of a file is never on both sides. What was tokenised is kept in the cache, under a hash of all that it was made
from. Knows files and ids; must not know models.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from laguna_agent.training.batch import Pack
from laguna_agent.training.data.tokenising import END_OF_TEXT, train_tokenizer

VOCABULARY = 2048
HELD_OUT = 16
"""One text of so many is held out."""
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "__pycache__", "lib2to3"}
QUICK_FILES = 30
IDS = "ids.npz"


def sources(quick: bool = False) -> dict[str, str]:
    """Path in the standard library -> text, in the order of paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for path in sorted(root.rglob("*.py")) if not LEFT_OUT & set(path.relative_to(root).parts)]
    texts: dict[str, str] = {}
    for path in paths[:QUICK_FILES] if quick else paths:
        try:
            texts[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts


def held_out(text: str) -> bool:
    """Whether nobody may learn from it."""
    return hashlib.sha256(text.encode()).digest()[0] % HELD_OUT == 0


@dataclass(frozen=True)
class Corpus:
    """Token ids of all learned texts behind one another, and of the held out; `lengths` of the learned ones."""

    learned: NDArray[np.uint16]
    held: NDArray[np.uint16]
    lengths: NDArray[np.int64]

    def batches(self, steps: int, tokens: int, length: int, seed: int) -> Iterator[Pack]:
        """One pack per step: `tokens / length` sequences cut out of the learned ids, each cut once until all were seen.
        The order depends on the seed alone, so two arms of a seed see the same and a short run the beginning of it."""
        cuts = (len(self.learned) - 1) // length
        order = np.random.default_rng(seed).permutation(cuts)
        each = tokens // length
        for step in range(steps):
            chosen = order[np.arange(step * each, (step + 1) * each) % cuts]
            yield packed(self.learned, [int(at) * length for at in chosen], length)

    def validation(self, sequences: int, length: int) -> Pack:
        """The same held out sequences for everybody, spread over all of them."""
        places = np.linspace(0, len(self.held) - length - 1, sequences).astype(int).tolist()
        return packed(self.held, places, length)


def packed(ids: NDArray[np.uint16], places: list[int], length: int) -> Pack:
    """Sequences of `length` from each place on; every token predicts the one behind it."""
    rows = torch.from_numpy(np.stack([ids[at : at + length + 1] for at in places]).astype(np.int64))
    inputs, targets = rows[:, :-1].flatten(), rows[:, 1:].flatten()
    return Pack(inputs, targets, torch.ones(len(inputs)), (length,) * len(places))


def corpus(cache: Path, quick: bool = False) -> Corpus:
    """The corpus, from the cache where it is there."""
    with np.load(corpus_folder(cache, quick) / IDS) as stored:
        return Corpus(stored["learned"], stored["held"], stored["lengths"])


def corpus_folder(cache: Path, quick: bool = False) -> Path:
    """Where the corpus and its `tokenizer.json` are kept; they are made where they are not there."""
    texts = sources(quick)
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts.values()]
    made_of = json.dumps([VOCABULARY, HELD_OUT, *hashes])
    folder = cache / hashlib.sha256(made_of.encode()).hexdigest()[:16]
    if not (folder / IDS).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, list(texts.values()))
    return folder


def _write(folder: Path, texts: list[str]) -> None:
    learned = [text for text in texts if not held_out(text)]
    data = train_tokenizer(learned, VOCABULARY)
    (folder / "tokenizer.json").write_bytes(data)
    library = Tokenizer.from_str(data.decode())
    end = library.token_to_id(END_OF_TEXT)
    parts = {}
    for name, chosen in (("learned", learned), ("held", [text for text in texts if held_out(text)])):
        rows = [[*row.ids, end] for row in library.encode_batch(chosen, add_special_tokens=False)]
        parts[name] = np.array([token for row in rows for token in row], dtype=np.uint16)
        if name == "learned":
            parts["lengths"] = np.array([len(row) for row in rows], dtype=np.int64)
    # Two workers may come at once: what is there is always whole.
    beside = folder / f"part-{os.getpid()}.npz"
    np.savez(beside, **parts)
    beside.replace(folder / IDS)
