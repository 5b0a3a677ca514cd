"""The guard's decisions, on losses alone."""

from __future__ import annotations

import math

import pytest

from laguna_agent.errors import TrainingDiverged
from laguna_agent.training.guard import LEAST, Guard


def seen(*losses: float, spike: float = 1.5, roll_backs: int = 2) -> Guard:
    guard = Guard(spike=spike, window=16, roll_backs=roll_backs)
    for loss in losses:
        guard.applied(loss)
    return guard


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_bad_from_the_first_step_on(loss: float) -> None:
    assert "loss" in seen().objection(loss, 1.0)
    assert "gradients" in seen().objection(1.0, loss)


def test_a_spike_is_far_above_the_median_and_not_what_is_usual() -> None:
    steady = [2.0, 2.1, 1.9, 2.0] * 3
    assert seen(*steady).objection(3.1, 1.0) != ""
    assert seen(*steady).objection(2.9, 1.0) == ""
    # A single outlier that was let in does not move the median.
    assert seen(*steady, 50.0).objection(3.3, 1.0) != ""
    # Where the loss jumps about by itself, half as much again is no spike.
    assert seen(*[0.1, 0.2, 0.05, 0.3] * 3).objection(0.5, 1.0) == ""


def test_the_first_steps_cannot_spike() -> None:
    assert seen(*[1.0] * (LEAST - 1)).objection(100.0, 1.0) == ""
    assert seen(*[1.0] * LEAST).objection(100.0, 1.0) != ""


def test_roll_backs_are_counted_beyond_the_state_that_is_gone_back_to() -> None:
    guard = seen(1.0, 1.0)
    state = guard.state_dict()
    guard.applied(5.0)
    guard.roll_back(3, "bad", state)
    guard.roll_back(3, "bad", state)
    assert guard.state_dict() == {"losses": [1.0, 1.0], "rolled_back": 2}
    with pytest.raises(TrainingDiverged, match="step 3: worse; 2 roll-backs") as caught:
        guard.roll_back(3, "worse", state)
    assert caught.value.exit_code == 4
