"""Runs of the program that many tests look at: each is made once, whichever worker asks first."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import pytest

from laguna_agent.sandbox.confinement import Tier
from tests.hostile.driving import Outcome, drive
from tests.hostile.groups import GROUPS, WITHOUT_WALLS, house_for
from tests.hostile.house import House

TIERS: tuple[Tier, ...] = ("seatbelt",) if sys.platform == "darwin" else ("bubblewrap", "landlock")


T = TypeVar("T")


class Attack(Protocol):
    """What came of a group of attacks in a tier; skips where the tier is not to be had."""

    def __call__(self, tier: str, group: str) -> Outcome: ...


class Missing(msgspec.Struct):
    """Why a tier is not to be had here; "" where it is."""

    reason: str


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this test run share."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "hostile"
    shared.mkdir(exist_ok=True)
    return shared


def once(kept: Path, name: str, type: type[T], make: Callable[[], T]) -> T:
    """What `make` gives, made by the first who asks and read by the others."""
    with (kept / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = kept / f"{name}.json"
        if not file.exists():
            file.write_bytes(msgspec.json.encode(make()))
        return msgspec.json.decode(file.read_bytes(), type=type)


def missing(tier: str) -> Missing:
    """Ask the program for a tier: it must refuse to start where that does not prove itself."""
    house = House()
    try:
        outcome = drive(house, [], tier)
    finally:
        house.close()
    return Missing("" if outcome.exit_code == 0 else outcome.stderr.strip())


@pytest.fixture(scope="session")
def available(kept: Path) -> Callable[[str], str]:
    """Why a tier is not to be had here; "" where it is."""
    return lambda tier: once(kept, f"tier-{tier}", Missing, lambda: missing(tier)).reason


@pytest.fixture(scope="session")
def attack(kept: Path, available: Callable[[str], str]) -> Attack:
    read: dict[tuple[str, str], Outcome] = {}

    def run(tier: str, group: str) -> Outcome:
        if tier != "none" and (reason := available(tier)):
            pytest.skip(f"no {tier} here: {reason}")
        if (tier, group) not in read:
            read[tier, group] = once(kept, f"{tier}-{group}", Outcome, lambda: in_a_house(tier, group))
        return read[tier, group]

    return run


def in_a_house(tier: str, group: str) -> Outcome:
    """Run a group of attacks in a house of its own."""
    house = house_for(tier, group)
    # What mounts without walls must not mount for this machine.
    before = ["unshare", "-m"] if tier == "none" and os.geteuid() == 0 else []
    try:
        return drive(house, (WITHOUT_WALLS if tier == "none" else GROUPS)[group], tier, before=before)
    finally:
        house.close()


@pytest.fixture(scope="session")
def best(available: Callable[[str], str]) -> str:
    """The best tier of this machine."""
    reasons = {tier: available(tier) for tier in TIERS}
    tier = next((tier for tier, reason in reasons.items() if not reason), None)
    if tier is None:
        pytest.skip(f"no sandbox: {reasons}")
    return tier


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.close()
