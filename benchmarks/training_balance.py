"""Claim "expert balance": four ways to keep experts busy, otherwise equal runs of Muon.

Knows runs and the table; must not know how experts are balanced.
"""

from __future__ import annotations

from statistics import mean

from training_claims import Row, Settings, spread
from training_runs import Balance, Outcome, Run, perform_all

STEPS, TOKENS, EXPERTS, MICRO = 80, 4096, 16, 1024
LR = 4e-3
SEEDS = (0, 1)
WEIGHT = 1e-2
"""Of the auxiliary losses: the strongest that arXiv 2408.15664 (figure 2) tries before it costs loss."""
ARMS: dict[Balance, str] = {
    "none": "none",
    "micro": "auxiliary loss per micro-batch",
    "global": "auxiliary loss of the global batch",
    "published": "loss-free bias at the published 0.001 a step",
    "bias": "loss-free bias, its rate scaled with the run",
}
AIM, SLACK = 4.0, 0.02
"""Times less MaxVio than with none, and nats per token that count as equal loss."""


def rows(settings: Settings) -> list[Row]:
    """A row for each arm: MaxVio, dead experts, loss; aims stand beside ours."""
    steps, tokens = (6, 512) if settings.quick else (STEPS, TOKENS)
    weights = {"micro": WEIGHT, "global": WEIGHT}
    runs = {
        (arm, seed): Run("muon", LR, steps, tokens, seed, arm, weights.get(arm, 0.0), settings.quick, EXPERTS, MICRO)
        for arm in ARMS
        for seed in SEEDS
    }
    outcomes = dict(zip(runs, perform_all(list(runs.values()), settings.cache), strict=True))
    seen = {arm: [outcomes[arm, seed] for seed in SEEDS] for arm in ARMS}
    return [_row(arm, seen) for arm in ARMS if arm != "none"]


def _row(arm: Balance, seen: dict[Balance, list[Outcome]]) -> Row:
    none, ours = seen["none"], seen[arm]
    lower = [a.max_vio / b.max_vio if b.max_vio else float("inf") for a, b in zip(none, ours, strict=True)]
    dearer = mean(b.loss - a.loss for a, b in zip(none, ours, strict=True))
    held = min(lower) >= AIM and dearer <= SLACK if arm == "bias" else None
    return Row(
        f"expert balance: {ARMS[arm]}",
        f"none: {told(none)}",
        f"{told(ours)}: {spread(lower, '.1f')}x lower, loss {dearer:+.3f}",
        f">= {AIM:g}x at loss within {SLACK}" if arm == "bias" else "–",
        held,
    )


def told(outcomes: list[Outcome]) -> str:
    """What an arm came to."""
    return (
        f"MaxVio {spread([each.max_vio for each in outcomes])}, "
        f"dead {max(each.dead for each in outcomes)}, loss {spread([each.loss for each in outcomes], '.3f')}"
    )
