"""The learning rate's schedule: its parts, its joints, and that it is a function of the step alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.training.schedule import wsd

RUNS = st.fixed_dictionaries(
    {
        "steps": st.integers(4, 500),
        "warmup": st.integers(0, 50),
        "decay": st.integers(0, 100).map(lambda hundredths: hundredths / 100),
        "floor": st.floats(0.0, 1.0),
    }
)


def test_its_three_parts() -> None:
    run = {"steps": 1000, "warmup": 100, "decay": 0.3, "floor": 0.05}
    assert wsd(1, **run) == pytest.approx(0.01)
    assert wsd(50, **run) == pytest.approx(0.5)
    assert {wsd(step, **run) for step in range(100, 701)} == {1.0}
    # 1 - sqrt of the part of the decay that is gone (arXiv 2405.18392), scaled to end at the floor.
    assert wsd(775, **run) == pytest.approx(0.05 + 0.95 * (1 - math.sqrt(0.25)))
    assert wsd(1000, **run) == pytest.approx(0.05)


@settings(max_examples=60)
@given(RUNS)
def test_it_rises_stays_and_falls_within_its_bounds(run: dict[str, float]) -> None:
    rates = [wsd(step, **run) for step in range(int(run["steps"]) + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    if run["warmup"] <= run["steps"] and run["decay"] > 0:
        assert rates[-1] == pytest.approx(run["floor"])


@settings(max_examples=60)
@given(RUNS, st.floats(0, 1))
def test_it_is_continuous(run: dict[str, float], share: float) -> None:
    step = share * run["steps"]
    near = wsd(step + 1e-9, **run) - wsd(step, **run)
    # The root is steep where the decay begins, and nowhere steeper.
    steepest = 1e-9 * (1 / max(run["warmup"], 1)) + math.sqrt(1e-9 / max(run["decay"] * run["steps"], 1e-9)) + 1e-12
    assert abs(near) <= steepest * 1.01 or run["decay"] * run["steps"] < 1e-6
