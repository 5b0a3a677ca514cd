"""A run that takes seconds: a Laguna of 30,000 parameters on counting sequences, over the real trainer and launcher.

    python -m tests.training.tiny_run RUN.toml NPROC [HANG_AT [SECONDS]]

From the pack HANG_AT on, every step waits for so many seconds before it has its packs; without them, for ever.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from laguna_agent.errors import LagunaError
from laguna_agent.training.batch import Pack
from laguna_agent.training.launch import launch
from laguna_agent.training.modelling import small_laguna
from laguna_agent.training.provenance import Lineage, code
from laguna_agent.training.run_file import RunFile, read_run_file
from laguna_agent.training.sharding import Ranks
from laguna_agent.training.trainer import RunResult, Trainer

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden": 32,
    "layers": 3,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 16,
    "experts": 4,
    "expert_size": 16,
    "shared_expert_size": 16,
    "dense_size": 48,
    "window": 8,
    "context": 64,
}
RUN = """
[run]
name = "tiny"
directory = "run"
steps = {steps}
packs_per_step = 4
micro_packs = 1
evaluate_every = 4
{more}

[data]
datasets = {{ counting = 1.0 }}

[optimizer]
lr = 0.01

[schedule]
warmup = 2

[guard]
roll_backs = 1

[checkpoints]
every = 3
keep = 2
"""


class Counting:
    """Packs of two counting sequences each; pack number n depends on n alone. `broken`: number -> weight of one token
    instead of 1."""

    def __init__(self, broken: dict[int, float] | None = None) -> None:
        self.at, self.broken, self.hang_at, self.seconds = 0, broken or {}, 1 << 60, 0.0

    def take(self, count: int) -> list[Pack]:
        if self.at >= self.hang_at:
            time.sleep(self.seconds)
        self.at += count
        return [self.pack(number) for number in range(self.at - count, self.at)]

    def pack(self, number: int) -> Pack:
        source = torch.Generator().manual_seed(number)
        first, by = torch.randint(1, VOCABULARY, (2, 1), generator=source), torch.tensor([[1], [3]])
        ids = ((first + by * torch.arange(13)) % VOCABULARY).flatten()
        weights = torch.ones(26)
        weights[[12, 25]] = 0
        weights[3] = self.broken.get(number, 1.0)
        return Pack(ids, torch.roll(ids, -1), weights, (13, 13), ("d_counting", 0, number))

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def write_run(folder: Path, steps: int = 10, more: str = "", text: str = RUN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.toml"
    path.write_text(text.format(steps=steps, more=more))
    return path


def trainer(run: RunFile, ranks: Ranks | None = None, stream: Any = None, **more: Any) -> Trainer:
    held_out = [Counting().pack(number) for number in range(10**6, 10**6 + 3)]
    lineage = Lineage(run.run.name, {"counting": "d_counting"}, code())
    return Trainer(
        run,
        Counting() if stream is None else stream,
        config=small_laguna(**SIZES),
        lineage=more.pop("lineage", lineage),
        validation=held_out,
        ranks=ranks,
        **more,
    )


def train(path: Path, **more: Any) -> tuple[RunResult, Trainer]:
    """In this process, with one thread: as `main` does in its own with OMP_NUM_THREADS=1."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = trainer(read_run_file(path), **more)
        return made.train(), made
    finally:
        torch.set_num_threads(before)


def _work(ranks: Ranks, task: tuple[RunFile, list[str]]) -> int:
    run, hang = task
    stream = Counting()
    if hang:
        stream.hang_at, stream.seconds = int(hang[0]), float(hang[1]) if len(hang) > 1 else 3600.0
    result = trainer(run, ranks, stream).train()
    return 128 + result.stopped if result.stopped else 0


def main() -> int:
    try:
        return launch(_work, (read_run_file(Path(sys.argv[1])), sys.argv[3:]), int(sys.argv[2]))
    except LagunaError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
