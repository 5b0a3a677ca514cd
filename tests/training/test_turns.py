"""Whose turn it is, and the shuffle that is never written down."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.errors import ConfigError
from laguna_agent.training.data.apportion import Turns
from laguna_agent.training.data.shuffle import shuffled


@given(st.lists(st.integers(0, 1000) | st.floats(1e-3, 10), min_size=1, max_size=12).filter(lambda all: sum(all) > 0))
@settings(max_examples=60)
def test_every_beginning_has_the_shares_to_within_one_turn(weights: list[float]) -> None:
    turns, total = Turns(weights), sum(weights)
    given_ = [0] * len(weights)
    for number in range(1, 401):
        given_[turns.next()] += 1
        assert all(abs(had - number * weight / total) < 1 for had, weight in zip(given_, weights, strict=True))


def test_taking_whoever_lacks_most_would_not() -> None:
    """The rule is not the obvious one; this is what the obvious one does."""
    weights = [1.0] * 30 + [30.0] * 3 + [200.0]
    total, given_, worst = sum(weights), [0] * 34, 0.0
    for number in range(1, 321):
        lacking = [number * weight / total - had for weight, had in zip(weights, given_, strict=True)]
        given_[lacking.index(max(lacking))] += 1
        worst = max(worst, *(abs(number * w / total - had) for w, had in zip(weights, given_, strict=True)))
    assert worst > 1
    turns, given_ = Turns(weights), [0] * 34
    for number in range(1, 321):
        given_[turns.next()] += 1
        assert all(abs(number * w / total - had) < 1 for w, had in zip(weights, given_, strict=True))


def test_weights_that_are_none_are_told() -> None:
    for weights in ([0.0, 0.0], [-1.0, 2.0], [float("nan")], [float("inf")]):
        with pytest.raises(ConfigError):
            Turns(weights)


@given(st.integers(1, 500), st.integers(0, 2**63 - 1), st.integers(0, 5))
@settings(max_examples=60)
def test_an_epoch_has_every_row_once(count: int, seed: int, epoch: int) -> None:
    rows = [shuffled(position, count, seed=seed, epoch=epoch) for position in range(count)]
    assert sorted(rows) == list(range(count))


def test_the_shuffle_shuffles() -> None:
    count = 1000
    one = [shuffled(position, count, seed=1, epoch=0) for position in range(count)]
    two = [shuffled(position, count, seed=1, epoch=1) for position in range(count)]
    other = [shuffled(position, count, seed=2, epoch=0) for position in range(count)]
    for each in (one, two, other):
        assert sum(row == position for position, row in enumerate(each)) < 10
        # Neighbours do not stay together, and every tenth of the rows is met in every tenth of the epoch.
        assert sum(abs(a - b) == 1 for a, b in pairwise(each)) < 10
        met = Counter((position * 10 // count, row * 10 // count) for position, row in enumerate(each))
        assert len(met) == 100 and max(met.values()) < 30
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 10
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_a_shuffle_of_more_rows_than_fit_anywhere() -> None:
    rows = {shuffled(position, 10**15, seed=0, epoch=0) for position in range(100)}
    assert len(rows) == 100 and max(rows) > 10**14
    with pytest.raises(IndexError):
        shuffled(5, 5, seed=0, epoch=0)
