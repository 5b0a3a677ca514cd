"""From a tier, a policy and a kind to the recipe of a warden.

The one place that knows how each tier turns a policy into mounts, rules and a reach; must not know processes.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.bubblewrap import view
from laguna_agent.sandbox.confinement import Kind, Tier
from laguna_agent.sandbox.landlock_tier import DEVICES, changeable_paths, readable_paths
from laguna_agent.sandbox.placeholders import Placeholders
from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.programs import find_bubblewrap
from laguna_agent.sandbox.protected import Protected, find_protected
from laguna_agent.sandbox.seatbelt import PROGRAM, profile
from laguna_agent.sandbox.warden.walls import Rules
from laguna_agent.sandbox.wardens import Recipe

INSTALL = "install the system's package bubblewrap, or pip install 'laguna-agent[sandbox]'"
MOST_PROCESSES = 2_000
"""Processes of one kind of confinement at once; beyond, all of them are ended."""


def recipe(tier: Tier, policy: Policy, *, apart: bool = False) -> Callable[[Kind], Recipe]:
    """How to put up a warden of each kind in a tier. `apart`: the warden makes namespaces for its processes or is
    none; where there is a wrapper, that does it. What it gives raises SandboxError."""
    if tier in ("bubblewrap", "landlock") and sys.platform != "linux":
        raise SandboxError(f"{tier} needs Linux, and this is {platform.system()}")
    if tier == "bubblewrap":
        program = find_bubblewrap()
        if program is None:
            raise SandboxError(f"there is no bwrap; {INSTALL}")
        if _can_be_written(program, policy):
            raise SandboxError(f"{program} lies where commands may write: they could exchange it; {INSTALL}")
        found = program
        return lambda kind: _with_mounts(found, policy, kind)
    if tier == "landlock":
        if _can_be_written(python := Path(os.path.realpath(sys.executable)), policy):
            raise SandboxError(f"{python} lies where commands may write, and must not put up walls: use another")
        return lambda kind: _without_mounts(policy, kind, apart=apart)
    if tier == "seatbelt":
        if sys.platform != "darwin":
            raise SandboxError(f"sandbox-exec is a program of macOS, and this is {platform.system()}")
        return lambda kind: _with_a_profile(policy, kind)
    raise SandboxError(f"there is no sandbox {tier!r}")


def _can_be_written(program: Path, policy: Policy) -> bool:
    return any(program.is_relative_to(each) for each in (*policy.workspace, *policy.writable))


def _with_mounts(program: Path, policy: Policy, kind: Kind) -> Recipe:
    protected, ended = _kept(policy, kind)
    try:
        seen = view(program, policy, kind, protected)
    except OSError as error:
        ended()
        raise SandboxError(f"the workspace cannot be looked at: {error}") from error
    rules: Rules = {
        "walls": True,
        "writable": [*seen.writable],
        "changeable": [],
        "readable": None,
        "identities": [*seen.identities],
        "reach": "world" if kind == "network" else "namespace",
        "own": True,
        "apart": False,
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


def _without_mounts(policy: Policy, kind: Kind, *, apart: bool) -> Recipe:
    rules: Rules = {
        "walls": True,
        "writable": [*map(str, changeable_paths(policy, kind)), *DEVICES],
        "changeable": [*map(str, changeable_paths(policy, kind))],
        "readable": [*readable_paths(policy)],
        "identities": [],
        "reach": "world" if kind == "network" else "nothing",
        "own": False,
        "apart": apart,
        "kernel": True,
        "processes": MOST_PROCESSES,
    }
    return Recipe((), rules)


def _with_a_profile(policy: Policy, kind: Kind) -> Recipe:
    if not PROGRAM.is_file():
        raise SandboxError(f"there is no {PROGRAM}")
    rules: Rules = {
        "walls": True,
        "writable": [],
        "changeable": [],
        "readable": None,
        "identities": [],
        "reach": "world" if kind == "network" else "nothing",
        "own": False,
        "apart": False,
        "kernel": False,
        "processes": MOST_PROCESSES,
    }
    return Recipe((str(PROGRAM), "-p", profile(policy, kind)), rules)
