"""The tiers that this machine has. One that it lacks is skipped with the reason that its probe gave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.sandbox.confinement import Tier
from tests.sandbox.confining import Ground, why_not

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


@pytest.fixture
def ground(make_ground: Grounds, tier: Tier) -> Ground:
    """A workspace in each tier."""
    return make_ground(tier)


@pytest.fixture
def full(make_ground: Grounds, bubblewrap: Tier) -> Ground:
    """A workspace in the best tier."""
    return make_ground(bubblewrap)
