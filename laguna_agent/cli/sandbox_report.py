"""`laguna-agent doctor --sandbox`: what each sandbox of this machine holds, tried on the spot, and what it costs."""

from __future__ import annotations

import msgspec

from laguna_agent.cli.printing import show, show_json, show_table
from laguna_agent.config import Settings
from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.confinement import Tier
from laguna_agent.sandbox.cost import Cost, measure
from laguna_agent.sandbox.plans import INSTALL
from laguna_agent.sandbox.tiers import TIERS, Proof, examine

COST_LIMIT_MS = 40.0


class TierReport(msgspec.Struct, frozen=True):
    """A tier as it was found: `proof` and `cost` where it holds what it must, else `reason`."""

    tier: Tier
    proof: Proof | None = None
    cost: Cost | None = None
    reason: str = ""


def report_sandbox(settings: Settings, *, as_json: bool) -> bool:
    """Try every tier, print what came of it, and tell whether the one that the settings ask for can be had."""
    reports = [_look_at(tier) for tier in TIERS]
    standing = [each for each in reports if each.proof]
    fit = settings.sandbox == "none" or any(settings.sandbox in ("auto", each.tier) for each in standing)
    if as_json:
        show_json({"ok": fit, "tiers": reports})
        return fit
    if standing:
        _show_claims(standing)
    for each in reports:
        if each.proof is None:
            show(f"{each.tier}: not here: {each.reason}")
        for lack in each.proof.reasons if each.proof else ():
            show(f"{each.tier}: without {lack}")
    show(_conclusion(settings, standing))
    return fit


def _look_at(tier: Tier) -> TierReport:
    try:
        proof = examine(tier)
        return TierReport(tier, proof, measure(tier, apart=proof.apart))
    except SandboxError as error:
        return TierReport(tier, reason=str(error))


def _show_claims(standing: list[TierReport]) -> None:
    proofs = [each.proof for each in standing if each.proof]
    rows = [["tried here, now", *(proof.summary for proof in proofs)]]
    for at, (words, _, _) in enumerate(proofs[0].claims):
        found = [proof.claims[at] for proof in proofs]
        rows.append([words, *(f"{'yes' if held else 'NO'} ({how})" for _, held, how in found)])
    costs = [each.cost for each in standing if each.cost]
    rows.append(["a command costs more, median", *(f"{cost.over_ms:.1f} ms" for cost in costs)])
    rows.append(["the first command of a kind takes", *(f"{cost.first_ms:.0f} ms" for cost in costs)])
    show_table(rows)
    show("")


def _conclusion(settings: Settings, standing: list[TierReport]) -> str:
    if settings.sandbox == "none":
        return "in use: none, as configured: a command can do whatever you can"
    chosen = next((each.proof for each in standing if settings.sandbox in ("auto", each.tier)), None)
    if chosen is None:
        return f"in use: none: a command can do whatever you can; {INSTALL}"
    better = "" if chosen.boundary == "full" else f"; it is partial, for more {INSTALL}"
    return f"in use: {chosen.summary}{better}"
