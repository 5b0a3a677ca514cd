"""The tiers that this machine has. One that it lacks is skipped with the reason that its probe gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.sandbox.confinement import Tier
from tests.sandbox.confining import Ground, proved, why_not

Grounds = Callable[..., Ground]


@pytest.fixture(params=["bubblewrap", "landlock"])
def tier(request: pytest.FixtureRequest) -> Tier:
    """Each tier of Linux."""
    found: Tier = request.param
    if reason := why_not(found):
        pytest.skip(f"{found}: {reason}")
    return found


@pytest.fixture
def bubblewrap() -> Tier:
    """The best tier."""
    if reason := why_not("bubblewrap"):
        pytest.skip(f"bubblewrap: {reason}")
    return "bubblewrap"


@pytest.fixture
def make_ground(tmp_path: Path) -> Iterator[Grounds]:
    """Makes a `Ground`, and ends it."""
    made: list[Ground] = []

    def make(tier: Tier, **policy: Any) -> Ground:
        made.append(Ground(tier, tmp_path, **policy))
        return made[-1]

    yield make
    for each in made:
        each.confinement.close()


@pytest.fixture(params=["bubblewrap", "landlock", "landlock-without-namespaces"])
def ground(request: pytest.FixtureRequest, make_ground: Grounds) -> Ground:
    """A workspace in each tier, and in each form that one may have on a machine."""
    tier: Tier = request.param.partition("-")[0]
    return made_as_can_be(make_ground, tier, apart=tier == "landlock" and request.param == "landlock")


def made_as_can_be(make_ground: Grounds, tier: Tier, *, apart: bool) -> Ground:
    """Skips where the machine lacks the tier, or the namespaces that `apart` asks for."""
    if reason := why_not(tier):
        pytest.skip(f"{tier}: {reason}")
    if apart and not proved(tier).apart:
        pytest.skip(f"{tier}: {proved(tier).reasons}")
    return make_ground(tier, apart=apart)


@pytest.fixture
def full(make_ground: Grounds, bubblewrap: Tier) -> Ground:
    """A workspace in the best tier."""
    return make_ground(bubblewrap)
