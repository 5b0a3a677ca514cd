"""How long the chat's `@` completion takes for a keystroke in a large workspace, and how long a key waits meanwhile.

    python benchmarks/file_completion.py [--files 100000] [--pause 0.05]

Makes a tree of empty files in a temporary directory, builds the index as the chat does, and types a few patterns letter
by letter. An answer is the list of files for what is typed so far; the lag is how much later than asked for the event
loop came around, which is what a key would wait while an answer is worked out or the files are looked at again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from laguna_agent.sandbox.policy import policy_for
from laguna_agent.terminal.file_index import FRESH, FileIndex
from laguna_agent.tools.files import Files

WORDS = (
    *("agent", "build", "cache", "card", "chat", "cluster", "composer", "config", "core", "deploy", "diff", "docs"),
    *("editor", "event", "file", "history", "index", "lexer", "lib", "model", "node", "paste", "picker", "plan"),
    *("question", "queue", "render", "server", "session", "slash", "src", "status", "store", "stream", "task"),
    *("terminal", "test", "theme", "token", "tool", "worker"),
)
PATTERNS = ("composer_history", "termcomphist", "src/core/chat", "chatpy", "tsrcmp12", "zzzq", "server/models", "aeiou")
TICK = 0.002


def tree(root: Path, count: int) -> None:
    """`count` empty files below `root`, about a dozen in a directory."""
    chance = random.Random(1)

    def word() -> str:
        return chance.choice(WORDS) + (str(chance.randint(0, 9)) if chance.random() < 0.5 else "")

    folders = ["/".join(word() for _ in range(chance.randint(1, 5))) for _ in range(max(1, count // 12))]
    made: set[str] = set()
    while len(made) < count:
        name = "_".join(chance.sample(WORDS, chance.randint(1, 3))) + str(chance.randint(0, 999))
        made.add(f"{chance.choice(folders)}/{name}{chance.choice(['.py', '.ts', '.md', '.rs', '.c'])}")
    for path in made:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


async def measure(root: Path, pause: float) -> list[tuple[str, float, list[float], list[float]]]:
    """Per row: what was done, seconds in all, milliseconds of each answer, milliseconds of lag."""
    index = FileIndex(lambda: Files(policy_for(root)))
    lags: list[float] = []
    watch = asyncio.create_task(_watch(lags))
    rows = []

    async def row(name: str, work: Callable[[], Awaitable[list[float]]]) -> None:
        lags.clear()
        began = time.perf_counter()
        answers = await work()
        rows.append((name, time.perf_counter() - began, answers, list(lags)))

    async def ask(pattern: str) -> list[float]:
        began = time.perf_counter()
        await index.search(pattern)
        return [(time.perf_counter() - began) * 1e3]

    async def type_all() -> list[float]:
        answers = []
        for pattern in PATTERNS:
            for end in range(1, len(pattern) + 1):
                answers += await ask(pattern[:end])
                await asyncio.sleep(pause)
        return answers

    await row("first answer, with the look at the disk", lambda: ask("a"))
    await row(f"typing, a look every {FRESH:g} s", type_all)
    watch.cancel()
    return rows


async def _watch(lags: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(TICK)
        lags.append((time.perf_counter() - began - TICK) * 1e3)


def share(values: list[float], part: float) -> float:
    """The value that `part` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two letters: a fast typist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree(Path(folder), options.files)
        rows = asyncio.run(measure(Path(folder), options.pause))
    print(f"{options.files:,} files; milliseconds")
    print(f"{'':<42}{'all':>9}{'median':>9}{'p95':>9}{'max':>9}{'lag p99':>9}{'lag max':>9}")
    for name, seconds, answers, lags in rows:
        figures = (seconds * 1e3, share(answers, 0.5), share(answers, 0.95), max(answers), share(lags, 0.99), max(lags))
        print(f"{name:<42}" + "".join(f"{figure:>9.1f}" for figure in figures))


if __name__ == "__main__":
    main()
