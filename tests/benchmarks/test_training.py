"""The training benchmark: the arithmetic between its figures and its table, its corpus, and that every claim runs."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import training
import training_data
from training_claims import Row, bracketed, interleaved, markdown, ratios, spread, steps_to
from training_corpus import Corpus, corpus, held_out, sources
from training_costs import geometry_of
from training_runs import LENGTH, TINY, Run, micro, model_of, rate
from training_steps import searched, shown

from laguna_agent.training.step_costs import parameters
from tests.benchmarks.conftest import BENCHMARKS


@pytest.mark.parametrize(
    ("loss", "steps"),
    [
        (4.0, 80.0),  # a run ended there
        (3.5, math.sqrt(80 * 100)),  # in the middle, by the logarithm of the steps
        (2.9, math.inf),  # none was so good
        (5.0, 60.0),  # all were, or the shortest ended there: at most as many as it
        (6.0, 60.0),
    ],
)
def test_steps_are_read_between_runs(loss: float, steps: float) -> None:
    assert steps_to(loss, {60: 5.0, 80: 4.0, 100: 3.0}) == pytest.approx(steps)


def test_a_lucky_short_run_does_not_count() -> None:
    # 70 steps got there, 85 did not: what is read lies behind 85.
    assert 85 < steps_to(4.0, {60: 4.5, 70: 3.9, 85: 4.1, 100: 3.8}) < 100
    # The longest run did not get there, though a shorter one did: a line through both would be read backwards.
    assert steps_to(4.0, {60: 4.5, 70: 3.9, 100: 4.1}) <= 70
    assert steps_to(3.85, {100: 4.1, 70: 3.9, 60: 4.5}) == math.inf


def searched_for(best: float, grid: Sequence[float]) -> tuple[float, dict[float, float], bool, list[float]]:
    asked: list[float] = []

    def losses(rates: Sequence[float]) -> list[float]:
        asked.extend(rates)
        return [abs(math.log2(rate / best)) for rate in rates]

    return *bracketed(grid, losses), asked


def test_a_search_goes_beyond_its_grid_on_both_sides() -> None:
    for best, asked in ((2.0, [1, 2, 4]), (0.25, [1, 2, 4, 0.5, 0.25, 0.125]), (8.0, [1, 2, 4, 8, 16])):
        found, losses, whole, order = searched_for(best, [1, 2, 4])
        assert (found, whole, order) == (best, True, asked)
        assert min(losses) < found < max(losses)


def test_a_search_without_end_says_so() -> None:
    found, losses, whole, _ = searched_for(2.0**20, [1, 2, 4])
    assert (found, whole) == (64, False)
    assert "at the edge" in searched(losses, whole)


def test_a_diverged_run_is_the_worst() -> None:
    found, losses, whole = bracketed([1, 2, 4], lambda rates: [math.nan if rate == 4 else 1 / rate for rate in rates])
    assert (found, whole, losses[4]) == (2, True, math.inf)


def test_figures_as_they_are_shown() -> None:
    assert spread([0.8]) == "0.80"
    assert spread([0.9, 0.7, 0.8], ".1f") == "0.8 (0.7..0.9)"
    assert shown([0.8, 0.7], 0.6) == "0.75 (0.70..0.80)"
    assert "0.60 means at most" in shown([0.8, 0.6], 0.6)
    assert shown([math.inf, 0.8], 0.6) == "not reached in 1 of 2 seeds, else 0.80"
    assert shown([math.inf], 0.6) == "not reached in 1 of 1 seeds"
    assert searched({2e-3: 3.5, 1e-3: 4.0}, True) == "0.001: 4.000, **0.002: 3.500**"


def test_the_table() -> None:
    rows = [Row("a", "b", "c"), Row("d", "e", "f", ">= 2", True), Row("g", "h", "i", ">= 2", False)]
    assert markdown(rows).splitlines() == [
        "| claim | naive arm | figure | aim | held |",
        "| --- | --- | --- | --- | --- |",
        "| a | b | c | – | – |",
        "| d | e | f | >= 2 | yes |",
        "| g | h | i | >= 2 | **no** |",
    ]


def test_rounds_go_through_all_arms_in_turn() -> None:
    calls: list[str] = []
    taken = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert "".join(calls) == "abababab"
    assert [len(seconds) for seconds in taken.values()] == [3, 3]
    assert ratios({"a": [2.0, 9.0], "b": [1.0, 3.0]}, "a", "b") == [2.0, 3.0]


def test_claims_are_chosen_by_name() -> None:
    assert training.chosen("state, steps") == ["state", "steps"]
    for bad in ("stats", "", ","):
        with pytest.raises(ArgumentTypeError, match="there are steps, overhead"):
            training.chosen(bad)
    assert sum(claim.budget for claim in training.CLAIMS.values()) < 25 * 60


def test_the_schedule_rises_stays_and_falls() -> None:
    rates = [rate(step, 100) for step in range(100)]
    assert rates[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert set(rates[5:60]) == {1.0}
    assert rates[70] == pytest.approx(1 - math.sqrt(1 - 30 / 40))
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert 0 < rates[99] < 0.02
    assert all(0 < rate(step, steps) <= 1 for steps in (1, 2, 5) for step in range(steps))


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("cache")
    made = corpus(folder, quick=True)
    again = corpus(folder, quick=True)
    assert np.array_equal(made.learned, again.learned)
    assert not list(folder.rglob("part-*"))
    return made


def test_what_is_held_out_is_not_learned(small_corpus: Corpus) -> None:
    texts = list(sources(quick=True).values())
    assert 0 < sum(map(held_out, texts)) < len(texts) / 4
    assert int(small_corpus.lengths.sum()) == len(small_corpus.learned)
    assert len(small_corpus.lengths) + sum(map(held_out, texts)) == len(texts)


def test_arms_of_a_seed_see_the_same(small_corpus: Corpus) -> None:
    short, long = (list(small_corpus.batches(steps, 512, LENGTH, 3)) for steps in (3, 5))
    for one, other in zip(short, long, strict=False):
        assert torch.equal(one.ids, other.ids)
    assert not torch.equal(short[0].ids, next(small_corpus.batches(1, 512, LENGTH, 4)).ids)
    pack = short[0]
    assert pack.lengths == (LENGTH,) * 4
    # Each token's target is the one behind it, also at the end of a sequence, where the ids are cut.
    inside = torch.arange(512) % LENGTH != LENGTH - 1
    assert torch.equal(pack.targets[inside], pack.ids.roll(-1)[inside])
    cuts = {tuple(row.tolist()) for step in long for row in step.ids.view(-1, LENGTH)}
    assert len(cuts) == 20


def test_micro_batches_are_the_step(small_corpus: Corpus) -> None:
    (pack,) = small_corpus.batches(1, 1024, LENGTH, 0)
    parts = micro(pack, 384)
    assert [len(part.lengths) for part in parts] == [3, 3, 2]
    assert torch.equal(torch.cat([part.targets for part in parts]), pack.targets)


def test_the_formulae_know_the_model_that_is_measured() -> None:
    model = model_of(TINY, 0)
    assert parameters(geometry_of(model)).total == sum(parameter.numel() for parameter in model.parameters())


def test_a_planted_copy_is_as_alike_as_said() -> None:
    assert training_data.jaccard("a b c d e f", "a b c d e g") == 1 / 3
    assert training_data.jaccard("a b c", "a b c") == 1.0
    text = "\n".join(f"value_{at} = compute(value_{at * 7 % 90}, {at})" for at in range(200))
    for similarity in (0.95, 0.85, 0.5):
        planted = training_data.edited(text, similarity, random.Random(0))
        assert similarity - 0.03 < planted.similarity <= similarity
        assert planted.similarity == training_data.jaccard(text, planted.copy)


def test_two_runs_that_differ_are_two() -> None:
    assert len({Run("muon", 1e-3, 5, 512), Run("muon", 1e-3, 5, 512), Run("adamw", 1e-3, 5, 512)}) == 2


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("claim", list(training.CLAIMS))
def test_every_claim_runs(claim: str, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    argv = [sys.executable, str(BENCHMARKS / "training.py"), "--quick", "--claims", claim, "--json", str(found)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=590, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| claim | naive arm | figure | aim | held |")
    assert "the figures mean nothing" in done.stdout
    written = json.loads(found.read_text())
    assert list(written["seconds"]) == [claim]
    assert len(written["rows"]) == done.stdout.count("\n| ") - 1
