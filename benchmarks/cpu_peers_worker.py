"""One contender of `cpu_peers.py` in a process of its own: asked over a pipe, one thing at a time, else asleep.

Knows the questions, this process's memory and the machine's energy counters; must not know engines. It runs under the
interpreter of any contender, so it imports the standard library only.

A question is one JSON line on standard input, an answer one on the pipe that was standard output; what libraries print
goes to standard error.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
UNTIMED = 2
"""Tokens before the timed ones: the first after another contender finds nothing of its own in any cache."""
CHUNK = 512
"""Tokens that are read at once."""
JUDGED = 128
"""Logits of so many tokens are taken at once."""


class Engine(Protocol):
    """What a contender can do. Positions start at 0; token ids are ints."""

    vocabulary: int
    variants: list[str]

    def choose(self, variant: str) -> None:
        """Go on with another of `variants`: settings of one engine that are tried, the best counts."""
        ...

    def clear(self) -> None:
        """Forget all tokens."""
        ...

    def read(self, ids: list[int], wanted: int = 1) -> Any:
        """Append tokens, at most CHUNK, and compute them; returns the logits of the last `wanted`, at most JUDGED,
        once they are there."""
        ...

    def keep(self, name: str) -> None:
        """Remember the present tokens and what was computed of them as `name`."""
        ...

    def recall(self, name: str) -> None:
        """Be where `keep` was asked; anything may have been read since."""
        ...

    def logits(self, given: Any) -> bytes:
        """What `read` gave, as fp32 [wanted, vocabulary] in bytes."""
        ...

    def about(self) -> dict[str, Any]:
        """What it says of itself: version, threads, kernels."""
        ...


def random_ids(count: int, vocabulary: int) -> list[int]:
    """The same for all contenders with that vocabulary; ids below 256 are often bytes or controls and left out."""
    source = random.Random(1)
    return [source.randrange(min(256, vocabulary // 2), vocabulary) for _ in range(count)]


def memory() -> dict[str, int]:
    """This process's resident bytes: all, its own, and pages of files; and the most it ever had."""
    names = {"VmRSS": "rss", "VmHWM": "peak", "RssAnon": "anonymous", "RssFile": "file"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[one[0][:-1]]: int(one[1]) * 1024 for one in lines if one and one[0][:-1] in names}


def joules() -> float | None:
    """What the processors' packages have used since some moment; None where the machine does not tell."""
    readings = []
    for zone in sorted(POWERCAP.glob("*:?")):
        try:
            if (zone / "name").read_text().startswith("package"):
                readings.append(int((zone / "energy_uj").read_text()) / 1e6)
        except OSError:
            return None
    return sum(readings) if readings else None


class Measured:
    """The questions that every engine is asked. `variant`: one of the engine's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def about(self) -> dict[str, Any]:
        """What runs, and in what memory."""
        return {
            **self.engine.about(),
            "vocabulary": self.engine.vocabulary,
            "variants": self.engine.variants,
            **memory(),
        }

    def prefill(self, tokens: int, variant: str) -> dict[str, Any]:
        """Seconds to read so many tokens from nothing, in chunks, until the last one's logits are there."""
        ids = random_ids(tokens, self.engine.vocabulary)
        self.engine.choose(variant)
        self.engine.clear()
        begun = time.perf_counter()
        self._read(ids)
        return {"seconds": time.perf_counter() - begun, **memory()}

    def fill(self, context: int, variant: str) -> dict[str, Any]:
        """Read so many tokens once, untimed, and keep the state."""
        self.engine.choose(variant)
        self.engine.clear()
        self._read(random_ids(context, self.engine.vocabulary))
        self.engine.keep(str(context))
        return memory()

    def decode(self, context: int, tokens: int, variant: str) -> dict[str, Any]:
        """Median seconds of a token after `context` tokens, one at a time; and joules of one, or None."""
        self.engine.choose(variant)
        self.engine.recall(str(context))
        ids = random_ids(context + UNTIMED + tokens, self.engine.vocabulary)[context:]
        for token in ids[:UNTIMED]:
            self.engine.read([token])
        seconds, before = [], joules()
        for token in ids[UNTIMED:]:
            begun = time.perf_counter()
            self.engine.read([token])
            seconds.append(time.perf_counter() - begun)
        after = joules()
        # A counter that ran over in between tells nothing.
        used = None if before is None or after is None or after < before else (after - before) / tokens
        return {"seconds": median(seconds), "joules": used, **memory()}

    def judged(self, ids: list[int], begin: int, single: int, path: str) -> dict[str, Any]:
        """Write logits, fp32 [len(ids) - begin, vocabulary]: of ids before the last `single` as read in chunks, of
        those one at a time."""
        self.engine.choose(self.engine.variants[0])
        self.engine.clear()
        middle = len(ids) - single
        self._read(ids[:begin])
        with Path(path).open("wb") as file:
            for start in range(begin, middle, JUDGED):
                some = ids[start : min(start + JUDGED, middle)]
                file.write(self.engine.logits(self.engine.read(some, len(some))))
            for token in ids[middle:]:
                file.write(self.engine.logits(self.engine.read([token])))
        return {"rows": len(ids) - begin}

    def _read(self, ids: list[int]) -> None:
        for start in range(0, len(ids), CHUNK):
            self.engine.read(ids[start : start + CHUNK])


def serve(make: Any) -> None:
    """Answer questions until standard input ends. The first is {"ask": "open", ...}, which the class `make` takes after
    its `imports`, which are not timed."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    measured: Measured | None = None
    for line in sys.stdin:
        question = json.loads(line)
        ask = question.pop("ask")
        # What goes wrong ends this process with a traceback: the one who asked sees both.
        if ask == "open":
            make.imports()
            begun = time.perf_counter()
            engine = make(**question)
            opened = time.perf_counter() - begun
            # What was only mapped is brought in by the first token.
            engine.read(random_ids(1, engine.vocabulary))
            measured = Measured(engine)
            told = {"open_s": opened, "first_token_s": time.perf_counter() - begun, **measured.about()}
        else:
            told = getattr(measured, ask)(**question)
        answers.write(json.dumps(told) + "\n")
        answers.flush()
