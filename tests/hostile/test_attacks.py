"""No attack has an effect outside the workspace, on what is protected in it, or on a key: in every tier there is."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache

import pytest

from laguna_agent.sandbox.confinement import Tier
from laguna_agent.sandbox.probe import CLAIMS
from laguna_agent.sandbox.tiers import examine
from tests.hostile.attacks_processes import AFTER_THE_WARDEN
from tests.hostile.case import Case
from tests.hostile.conftest import TIERS, Attack
from tests.hostile.groups import GROUPS

# Whoever asks first waits for a whole group.
pytestmark = pytest.mark.timeout(600)
CASES = [
    pytest.param(tier, group, case, id=f"{tier}-{group}-{case.id}")
    for tier in TIERS
    for group, cases in GROUPS.items()
    for case in cases
]


@cache
def holds(tier: Tier, claim: str) -> bool:
    """Whether the probe finds that a tier of this machine holds what it claims."""
    words = next(each.words for each in CLAIMS if each.key == claim)
    return any(held for said, held, _ in examine(tier).claims if said == words)


def known(case: Case, tier: Tier) -> str:
    """Why an attack is known to get through on this machine; "" where it must not."""
    return "" if case.claim and case.open.get(tier) and holds(tier, case.claim) else case.open.get(tier, "")


@pytest.mark.parametrize(("tier", "group", "case"), CASES)
def test_has_no_effect(attack: Attack, tier: Tier, group: str, case: Case) -> None:
    outcome = attack(tier, group)
    seen = outcome.seen.get(case.id)
    if seen is None and case in AFTER_THE_WARDEN and "sandbox" in outcome.stderr:
        pytest.skip(f"the program refused to go on: {outcome.stderr.strip()}")
    assert seen is not None, f"the program ended before this attack: {outcome.stderr} {outcome.late}"
    if reason := known(case, tier):
        assert seen.effects, f"{case.id} has no effect any more in the tier {tier}: take `open` away"
        pytest.xfail(f"known: {reason}")
    assert not seen.effects, seen.results


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("tier", TIERS)
def test_leaves_nothing_behind(attack: Attack, tier: Tier, group: str) -> None:
    outcome = attack(tier, group)
    opened = any(known(case, tier) for case in GROUPS[group])
    # What is open is told above; the canaries that it showed are in the log of the run.
    late = [each for each in outcome.late if not (opened and ("wrote down" in each or each.startswith("outside/")))]
    assert not late, outcome.stderr
    assert outcome.exit_code is not None
    assert "Traceback" not in outcome.stderr


def plain(tier: str) -> bool:
    """Whether the machine has what a tier is made of, found out without any code of ours."""
    if tier == "landlock":
        return ctypes.CDLL(None).syscall(444, None, 0, 1) >= 1
    if tier == "seatbelt":
        return shutil.which("sandbox-exec") is not None
    words = [
        "bwrap",
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--ro-bind",
        "/",
        "/",
        "--proc",
        "/proc",
        "true",
    ]
    return shutil.which("bwrap") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_is_there_where_the_machine_has_what_it_needs(available: Callable[[str], str], tier: str) -> None:
    """A wall that fell takes its tier away, and what then is skipped would hide it."""
    if not plain(tier):
        pytest.skip(f"{tier}: {available(tier) or 'not to be had by itself'}")
    assert not available(tier)


def test_some_tier_holds_here(available: Callable[[str], str]) -> None:
    reasons = {tier: available(tier) for tier in TIERS}
    assert "" in reasons.values(), reasons


def test_who_attacks() -> None:
    """Root has powers that walls must take away: say it where the suite could not try them."""
    if os.geteuid() != 0:
        pytest.skip(f"not root (uid {os.geteuid()}): bubblewrap as root, and root's own attacks, were not tried")


def test_there_are_many() -> None:
    assert len({case.id for cases in GROUPS.values() for case in cases}) >= 150
