"""Small training runs of the benchmark, each on one thread of a process of its own, as many at a time as cores.

Everything that two arms share is here: model, first weights, data, their order, schedule, clipping, and the optimizer
of all that is no matrix. Knows how to train; must not know what is compared.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.optim import Optimizer
from training_corpus import corpus

from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.training.balance import SLOWEST, ExpertBalance, bias_rate_for
from laguna_agent.training.batch import Pack
from laguna_agent.training.loss import held_out, token_loss
from laguna_agent.training.modelling import initialise, small_laguna
from laguna_agent.training.optim.adamw import adamw
from laguna_agent.training.optim.muon import Muon
from laguna_agent.training.optim.parameters import split_parameters

LENGTH = 128
"""Tokens of a sequence."""
REST_LR = 3e-3
"""Of embeddings, head, norms, routers and gates, which AdamW has in every arm."""
WEIGHT_DECAY = 0.1
WARMUP, DECAY = 0.05, 0.4
"""Shares of a run: rising linearly, and falling by 1 - sqrt."""
VALIDATION = 96
"""Sequences held out."""
LAST = 20
"""Steps at the end of a run whose balance counts."""
Balance = Literal["none", "micro", "global", "published", "bias"]
TINY = {"hidden": 96, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 24, "experts": 8, "expert_size": 64}
TINY |= {"shared_expert_size": 64, "dense_size": 288, "window": 64, "full_every": 3, "context": 512}
"""0.9 M parameters: so small that 8,192 tokens a step and a hundred steps fit a core's minute."""
SMALL = {"hidden": 192, "layers": 6}
"""8 M parameters: the model that docs/training.md trains."""


@dataclass(frozen=True)
class Run:
    """One training run. `lr` of the matrices; `seed` of weights and data; `balance`: how experts are kept busy, with
    `weight` of the auxiliary loss where there is one; `micro`: tokens of one forward and backward."""

    optimizer: Literal["muon", "adamw"]
    lr: float
    steps: int
    tokens: int
    seed: int = 0
    balance: Balance = "bias"
    weight: float = 0.0
    quick: bool = False
    experts: int = 8
    micro: int = 4096


@dataclass(frozen=True)
class Outcome:
    """Loss on what was held out, in nats per token; MaxVio, the mean of the last steps of the worst layer's; experts
    that got nothing in the last step, over all layers; seconds of the processor."""

    loss: float
    max_vio: float
    dead: int
    seconds: float


def model_of(sizes: dict[str, int], seed: int, vocabulary: int = 2048) -> CausalLM:
    """A Laguna with its first weights."""
    model = CausalLM(parse_config(small_laguna(vocab_size=vocabulary, **sizes), "the benchmark's model"))
    initialise(model, seed)
    return model


def rate(step: int, steps: int) -> float:
    """The factor on every learning rate in step 0, 1, ...: up, flat, and down by 1 - sqrt (arXiv 2405.18392)."""
    rising = min(1.0, (step + 1) / max(1, round(WARMUP * steps)))
    left = (steps - step) / (DECAY * steps)
    return min(rising, 1 - math.sqrt(1 - left)) if left < 1 else rising


def optimizers(model: CausalLM, run: Run) -> list[Optimizer]:
    """AdamW for the rest, and the arm's optimizer for the matrices."""
    found, rest = split_parameters(model)
    both: list[Optimizer] = [adamw(rest, lr=REST_LR)]
    if run.optimizer == "muon":
        both.append(Muon(found, lr=run.lr, weight_decay=WEIGHT_DECAY))
    else:
        both.append(adamw([(at.name, at.parameter) for at in found], lr=run.lr, weight_decay=WEIGHT_DECAY))
    return both


def train(run: Run, cache: Path) -> Outcome:
    """The whole run."""
    begin = time.thread_time()
    data = corpus(cache, run.quick)
    model = model_of(TINY | {"experts": run.experts}, run.seed)
    both = optimizers(model, run)
    first = [[group["lr"] for group in each.param_groups] for each in both]
    balance = balance_of(model, run)
    seen: list[float] = []
    dead = 0
    for step, pack in enumerate(data.batches(run.steps, run.tokens, LENGTH, 1000 + run.seed)):
        for part in micro(pack, run.micro):
            with balance.counting():
                loss = token_loss(model, part, total_weight=float(run.tokens))
            (loss + balance.auxiliary_loss(total_tokens=float(run.tokens))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for each, rates in zip(both, first, strict=True):
            for group, lr in zip(each.param_groups, rates, strict=True):
                group["lr"] = lr * rate(step, run.steps)
            each.step()
            each.zero_grad()
        balance.update_bias()
        metrics = balance.metrics()
        seen.append(metrics.worst_max_vio)
        dead = sum(metrics.dead)
    found = held_out(model, micro(data.validation(VALIDATION, LENGTH), run.micro))
    last = seen[-LAST:]
    return Outcome(found.loss, sum(last) / len(last), dead, time.thread_time() - begin)


def balance_of(model: CausalLM, run: Run) -> ExpertBalance:
    """How the arm keeps its experts busy; every arm counts how busy they are."""
    return ExpertBalance(
        model,
        bias_rate={"bias": bias_rate_for(run.steps), "published": SLOWEST}.get(run.balance, 0.0),
        aux_weight=run.weight,
        scope="micro" if run.balance == "micro" else "global",
    )


def micro(pack: Pack, tokens: int) -> list[Pack]:
    """A step's pack in parts of at most so many tokens, none of which cuts a sequence."""
    parts = zip(*(values.split(tokens) for values in (pack.ids, pack.targets, pack.weights)), strict=True)
    return [Pack(ids, targets, weights, (LENGTH,) * (len(ids) // LENGTH)) for ids, targets, weights in parts]


def perform(run: Run, cache: Path) -> Outcome:
    """`train` on one thread."""
    torch.set_num_threads(1)
    return train(run, cache)


def perform_all(runs: Sequence[Run], cache: Path) -> list[Outcome]:
    """All runs, side by side on the cores that this process may use; the longest first."""
    corpus(cache, any(run.quick for run in runs))
    # Threads of a pool that a library makes when it is loaded are set for the children here.
    os.environ["OMP_NUM_THREADS"] = "1"
    workers = min(len(runs), len(os.sched_getaffinity(0)))
    order = sorted(range(len(runs)), key=lambda at: -runs[at].steps)
    outcomes: dict[int, Outcome] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(perform, runs[at], cache): at for at in order}
        for done in as_completed(waiting):
            at = waiting[done]
            outcomes[at] = done.result()
            print(f"  {_told(runs[at], outcomes[at])}", file=sys.stderr, flush=True)
    return [outcomes[at] for at in range(len(runs))]


def _told(run: Run, outcome: Outcome) -> str:
    return (
        f"{run.optimizer} lr {run.lr:g}, {run.steps} steps of {run.tokens:,}, seed {run.seed}, {run.balance}: "
        f"loss {outcome.loss:.4f}, MaxVio {outcome.max_vio:.2f}, {outcome.seconds:.0f} s"
    )
