"""Claim "fewer steps": whole runs of Muon, each with its own schedule, against AdamW at its best learning rate.

Both rates are searched in the same way: a grid that is extended until the best is not at its edge, at AdamW's number of
steps. Then each seed has an AdamW run and Muon runs of fewer steps; between these the number of steps that ends at
AdamW's loss is read off. Knows runs and the table; must not know how a run is done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from training_claims import Row, Settings, bracketed, spread, steps_to
from training_runs import Outcome, Run, perform_all

STEPS, TOKENS = 100, 8192
"""A run sees 0.8 M tokens, each once. Batches of 8 k tokens leave room for this many steps, with a model of 0.9 M."""
SHARES = (0.6, 0.7, 0.85)
SEEDS = (0, 1, 2)
GRIDS: dict[Literal["muon", "adamw"], tuple[float, ...]] = {
    "adamw": (1e-3, 2e-3, 4e-3),
    "muon": (2e-3, 4e-3, 8e-3),
}
AIM = 0.85


@dataclass
class Ledger:
    """Runs that were done, so that none is done twice."""

    settings: Settings
    done: dict[Run, Outcome] = field(default_factory=dict)

    def losses(self, runs: Sequence[Run]) -> list[float]:
        """Final losses; what is not known yet is run, side by side."""
        missing = [run for run in dict.fromkeys(runs) if run not in self.done]
        if missing:
            self.done |= zip(missing, perform_all(missing, self.settings.cache), strict=True)
        return [self.done[run].loss for run in runs]


def rows(settings: Settings) -> list[Row]:
    """The claim's rows: the ratio of steps, and what the searches found."""
    steps, tokens, seeds = (20, 512, SEEDS[:2]) if settings.quick else (STEPS, TOKENS, SEEDS)
    ledger = Ledger(settings)

    def run(kind: Literal["muon", "adamw"], lr: float, length: int, seed: int = 0) -> Run:
        return Run(kind, lr, length, tokens, seed, quick=settings.quick)

    # Both grids at once, for two cores are never idle so; what a search adds comes after.
    ledger.losses([run(kind, lr, steps) for kind, grid in GRIDS.items() for lr in grid])
    found = {
        kind: bracketed(grid, lambda rates, kind=kind: ledger.losses([run(kind, lr, steps) for lr in rates]))
        for kind, grid in GRIDS.items()
    }
    best = {kind: lr for kind, (lr, _, _) in found.items()}
    lengths = [*(round(share * steps) for share in SHARES), steps]
    finals = [run("adamw", best["adamw"], steps, seed) for seed in seeds]
    finals += [run("muon", best["muon"], length, seed) for seed in seeds for length in lengths]
    ledger.losses(finals)
    aims = [ledger.losses([run("adamw", best["adamw"], steps, seed)])[0] for seed in seeds]
    shorter = [ledger.losses([run("muon", best["muon"], length, seed) for length in lengths]) for seed in seeds]
    needed = [
        steps_to(aim, dict(zip(lengths, losses, strict=True))) / steps
        for aim, losses in zip(aims, shorter, strict=True)
    ]
    bracket = all(whole for _, _, whole in found.values())
    return [
        Row(
            "fewer steps",
            f"AdamW, lr {best['adamw']:g}, {steps} steps of {tokens:,} tokens, {len(seeds)} seeds",
            f"{shown(needed, min(lengths) / steps)} of the steps (Muon, lr {best['muon']:g})",
            f"<= {AIM}",
            bracket and max(needed) <= AIM,
        ),
        Row(
            "loss at equal steps",
            f"AdamW {spread(aims, '.3f')}",
            f"Muon {spread([losses[-1] for losses in shorter], '.3f')}",
        ),
        *(Row(f"rates tried, {kind}", "–", searched(tried, whole)) for kind, (_, tried, whole) in found.items()),
    ]


def shown(needed: Sequence[float], least: float) -> str:
    """Ratios with their spread. The shortest run is a bound, and one that got there in no run is said to be."""
    late = sum(math.isinf(each) for each in needed)
    if late:
        rest = [each for each in needed if each < math.inf]
        return f"not reached in {late} of {len(needed)} seeds" + (f", else {spread(rest)}" if rest else "")
    return spread(needed) + (f", where {least:.2f} means at most" if min(needed) <= least else "")


def searched(tried: dict[float, float], whole: bool) -> str:
    """Rates and their losses, the best one in bold."""
    best = min(tried, key=lambda rate: tried[rate])
    cells = [f"**{lr:g}: {tried[lr]:.3f}**" if lr == best else f"{lr:g}: {tried[lr]:.3f}" for lr in sorted(tried)]
    return ", ".join(cells) + ("" if whole else "; the best is at the edge")
