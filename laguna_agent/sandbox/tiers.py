"""Which sandbox there is on this machine, and how a session gets into it.

Knows every tier and the order of preference; must not know tools or the model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.bubblewrap import view
from laguna_agent.sandbox.confined import Confined
from laguna_agent.sandbox.confinement import Confinement, Kind, Tier
from laguna_agent.sandbox.landlock_tier import readable_paths, writable_paths
from laguna_agent.sandbox.placeholders import Placeholders
from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.programs import find_bubblewrap
from laguna_agent.sandbox.protected import Protected, find_protected
from laguna_agent.sandbox.warden.walls import Rules
from laguna_agent.sandbox.wardens import Recipe

MOST_PROCESSES = 2_000
"""Processes of one kind of confinement at once; beyond, all of them are ended."""


def recipe(tier: Tier, policy: Policy) -> Callable[[Kind], Recipe]:
    """How to put up a warden of each kind in a tier. What it gives raises SandboxError."""
    if tier == "bubblewrap":
        program = find_bubblewrap()
        if program is None:
            raise SandboxError("bubblewrap is not installed: install the system's package bubblewrap")
        found = program
        return lambda kind: _with_mounts(found, policy, kind)
    if tier == "landlock":
        return lambda kind: _without_mounts(policy, kind)
    raise SandboxError(f"there is no sandbox {tier!r}")


def _with_mounts(program: Path, policy: Policy, kind: Kind) -> Recipe:
    protected, ended = _kept(policy, kind)
    try:
        seen = view(program, policy, kind, protected)
    except OSError as error:
        ended()
        raise SandboxError(f"the workspace cannot be looked at: {error}") from error
    rules: Rules = {
        "writable": [*seen.writable],
        "readable": None,
        "identities": [*seen.identities],
        "reach": "world" if kind == "network" else "namespace",
        "own": True,
        "kernel": True,
        "processes": MOST_PROCESSES,
    }
    return Recipe(seen.words, rules, ended)


def _kept(policy: Policy, kind: Kind) -> tuple[Protected, Callable[[], None]]:
    """What stays as it is for this kind, with the absent blocked until the second is called."""
    if kind == "reading":
        return Protected((), (), ()), lambda: None
    protected = find_protected(policy)
    placeholders = Placeholders(policy.root)
    blocked = placeholders.hold(protected.absent)
    return msgspec.structs.replace(protected, absent=blocked), placeholders.release


def _without_mounts(policy: Policy, kind: Kind) -> Recipe:
    rules: Rules = {
        "writable": [*writable_paths(policy, kind)],
        "readable": [*readable_paths(policy)],
        "identities": [],
        "reach": "world" if kind == "network" else "nothing",
        "own": False,
        "kernel": True,
        "processes": MOST_PROCESSES,
    }
    return Recipe((), rules)


class Proof(msgspec.Struct, frozen=True):
    """What was tried here and held. `claims` are what was tried, whether it held, and how that was seen; `reasons` say
    why each better tier is not the one."""

    tier: Tier
    boundary: Literal["full", "partial", "none"]
    summary: str
    claims: tuple[tuple[str, bool, str], ...] = ()
    reasons: tuple[str, ...] = ()


def prove(wish: str) -> Proof:
    """The best tier that proves itself here, or the one by name. Raises SandboxError where that one does not."""
    if wish == "none":
        return Proof("none", "none", "none")
    reasons: list[str] = []
    wanted: tuple[Tier, ...] = ("bubblewrap", "landlock") if wish == "auto" else (wish,)  # type: ignore[assignment]
    for tier in wanted:
        try:
            return _try(tier, tuple(reasons))
        except SandboxError as error:
            reasons.append(f"{tier}: {error}")
    if wish != "auto":
        raise SandboxError(f"the sandbox does not prove itself here: {'; '.join(reasons)}")
    return Proof("none", "none", "none", reasons=tuple(reasons))


def confine(proof: Proof, policy: Policy) -> Confinement:
    """The confinement of a session in a tier that was proved."""
    return Confined(proof.tier, proof.summary, recipe(proof.tier, policy))


def _try(tier: Tier, reasons: tuple[str, ...]) -> Proof:
    import tempfile

    from laguna_agent.sandbox.wardens import Warden

    with tempfile.TemporaryDirectory() as folder:
        warden = Warden(recipe(tier, Policy(root=Path(folder).resolve()))("workspace"))
        warden.close()
    summary = "landlock {} + seccomp" if tier == "landlock" else "bubblewrap + landlock {} + seccomp"
    return Proof(tier, "full" if tier == "bubblewrap" else "partial", summary.format(warden.landlock), reasons=reasons)
