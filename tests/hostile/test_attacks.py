"""No attack has an effect outside the workspace, on what is protected in it, or on a key: in every tier there is."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.hostile.case import Case
from tests.hostile.conftest import TIERS, Attack
from tests.hostile.groups import GROUPS

CASES = [
    pytest.param(tier, group, case, id=f"{tier}-{group}-{case.id}")
    for tier in TIERS
    for group, cases in GROUPS.items()
    for case in cases
]


@pytest.mark.parametrize(("tier", "group", "case"), CASES)
def test_has_no_effect(attack: Attack, tier: str, group: str, case: Case) -> None:
    seen = attack(tier, group).seen.get(case.id)
    assert seen is not None, "the program ended before this attack"
    if tier in case.open:
        assert seen.effects, f"{case.id} has no effect any more in the tier {tier}: take `open` away"
        pytest.xfail(f"known: {case.open[tier]}")
    assert not seen.effects, seen.results


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("tier", TIERS)
def test_leaves_nothing_behind(attack: Attack, tier: str, group: str) -> None:
    outcome = attack(tier, group)
    opened = any(tier in case.open for case in GROUPS[group])
    late = [each for each in outcome.late if not (opened and "wrote down" in each)]
    assert not late, outcome.stderr
    assert outcome.exit_code is not None
    assert "Traceback" not in outcome.stderr


def test_some_tier_holds_here(available: Callable[[str], str]) -> None:
    reasons = {tier: available(tier) for tier in TIERS}
    assert "" in reasons.values(), reasons


def test_who_attacks() -> None:
    """Root has powers that walls must take away: say it where the suite could not try them."""
    if os.geteuid() != 0:
        pytest.skip(f"not root (uid {os.geteuid()}): bubblewrap as root, and root's own attacks, were not tried")


def test_there_are_many() -> None:
    assert len({case.id for cases in GROUPS.values() for case in cases}) >= 150
