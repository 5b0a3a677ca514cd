"""Without walls every attack has its effect: what tests nothing shows here."""

from __future__ import annotations

import os

import pytest

from tests.hostile.case import Case
from tests.hostile.conftest import Attack
from tests.hostile.groups import WITHOUT_WALLS

pytestmark = pytest.mark.timeout(600)
CASES = [pytest.param(group, case, id=f"{group}-{case.id}") for group, cases in WITHOUT_WALLS.items() for case in cases]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "case"), CASES)
def test_has_its_effect_without_walls(attack: Attack, group: str, case: Case) -> None:
    seen = attack("none", group).seen.get(case.id)
    assert seen is not None, "the program ended before this attack"
    if case.proof:
        pytest.skip(f"needs no effect: {case.proof}") if not seen.effects else None
    elif os.geteuid() != 0 and not seen.effects:
        pytest.skip("not root")
    assert seen.effects, seen.results
