"""Drawing tokens: against the definition of each option, and against transformers' own."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.laguna.sampling import (
    LOWEST_LOGPROB,
    Sampler,
    SamplingOptions,
    log_probabilities,
    probabilities,
)
from laguna_agent.errors import ProviderError, UsageError

LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.5, float("-inf"), 0.0, 2.9])


def drawn_by(sampler: Sampler) -> int:
    """A token that the sequence then goes on with."""
    token = sampler.choose(LOGITS)
    sampler.made(token)
    return token


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.1, 3.0),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0.0, 0.9),
)
def test_probabilities_are_those_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    from transformers.generation import logits_process as oracle

    logits = torch.randn(37, generator=torch.Generator().manual_seed(seed)) * 3
    scores = oracle.TemperatureLogitsWarper(temperature)(None, logits[None])
    if top_k:
        scores = oracle.TopKLogitsWarper(top_k)(None, scores)
    scores = oracle.TopPLogitsWarper(top_p)(None, scores)
    scores = oracle.MinPLogitsWarper(min_p)(None, scores)
    found = probabilities(logits, SamplingOptions(temperature, top_k, top_p, min_p))
    torch.testing.assert_close(found, torch.softmax(scores, -1)[0], atol=1e-6, rtol=1e-5)


def test_draws_follow_the_probabilities() -> None:
    options = SamplingOptions(temperature=1.3, top_k=4, seed=11)
    sampler = Sampler(options)
    drawn = Counter(drawn_by(sampler) for _ in range(8_000))
    expected = probabilities(LOGITS, options)
    assert set(drawn) == {0, 1, 3, 6}
    for token, count in drawn.items():
        assert count / 8_000 == pytest.approx(expected[token].item(), abs=0.018)


def test_a_seed_repeats_and_another_does_not() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        return [drawn_by(sampler) for _ in range(50)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
    assert draws(None) != draws(None)


def test_the_coldest_temperature_is_greedy() -> None:
    assert Sampler(SamplingOptions()).choose(LOGITS) == 1
    assert {Sampler(SamplingOptions(temperature=1e-30, seed=seed)).choose(LOGITS) for seed in range(9)} == {1}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers(bad: float, temperature: float) -> None:
    with pytest.raises(ProviderError, match="not finite numbers"):
        Sampler(SamplingOptions(temperature=temperature)).choose(torch.tensor([0.0, bad, 1.0]))
    with pytest.raises(ProviderError, match="not finite numbers"):
        Sampler(SamplingOptions(temperature=temperature)).choose(torch.full((3,), float("-inf")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": 2.0}, "min_p is 2.0"),
        ({"seed": -1}, "seed is -1"),
        ({"frequency_penalty": float("nan")}, "frequency_penalty is nan"),
        ({"presence_penalty": float("inf")}, "presence_penalty is inf"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
    ],
)
def test_options_out_of_range(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SamplingOptions(**options)  # type: ignore[arg-type]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    penalty=st.floats(0.3, 3.0),
    prompt=st.lists(st.integers(0, 36), min_size=1, max_size=20),
    made=st.lists(st.integers(0, 36), max_size=20),
)
def test_the_repetition_penalty_is_that_of_transformers(
    seed: int, penalty: float, prompt: list[int], made: list[int]
) -> None:
    from transformers.generation import logits_process as oracle

    logits = torch.randn(37, generator=torch.Generator().manual_seed(seed)) * 3
    logits[5] = float("-inf")
    expected = oracle.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + made]), logits[None].clone())[0]
    sampler = Sampler(SamplingOptions(repetition_penalty=penalty), prompt, 37)
    for token in made:
        sampler.made(token)
    sampler.penalise(logits)
    torch.testing.assert_close(logits, expected)


def test_frequency_and_presence_count_the_answer_only() -> None:
    sampler = Sampler(SamplingOptions(frequency_penalty=0.5, presence_penalty=0.25), [1, 1, 2], 7)
    for token in (3, 3, 6):
        sampler.made(token)
    row = LOGITS.clone()
    sampler.penalise(row)
    torch.testing.assert_close(row - LOGITS, torch.tensor([0, 0, 0, -1.25, float("nan"), 0, -0.75]), equal_nan=True)
    assert sampler.choose(row) == 1


def test_penalties_change_what_greedy_says() -> None:
    sampler = Sampler(SamplingOptions(presence_penalty=1.0), [], 7)
    said = []
    for _ in range(4):
        row = LOGITS.clone()
        sampler.penalise(row)
        said.append(sampler.choose(row))
        sampler.made(said[-1])
    assert said == [1, 6, 3, 1]


def test_a_draw_depends_on_its_place_and_on_no_draw_before_it() -> None:
    def third(forced: bool) -> int:
        sampler = Sampler(SamplingOptions(temperature=2.0, seed=8))
        for _ in range(2):
            sampler.made(0 if forced else drawn_by_peek(sampler))
        return sampler.choose(LOGITS)

    def drawn_by_peek(sampler: Sampler) -> int:
        sampler.choose(LOGITS)
        return sampler.choose(LOGITS)

    assert third(True) == third(False)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), top_p=st.floats(0.01, 0.999), sharpness=st.floats(0.0, 6.0))
def test_a_large_vocabulary_keeps_the_same_nucleus(seed: int, top_p: float, sharpness: float) -> None:
    """The likeliest tokens are looked at before all are sorted: flat distributions need all, sharp ones do not."""
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(seed)) * sharpness
    found = probabilities(logits, SamplingOptions(1.0, top_p=top_p))
    share = torch.softmax(logits, -1)
    ordered = share.sort(descending=True).values
    kept = ordered.double().cumsum(0) - ordered < top_p
    at = int(kept.sum())
    # The sum is rounded; the token at the very edge may fall on either side.
    assert abs(int((found > 0).sum()) - at) <= 1
    assert share[found > 0].min() >= ordered[at]
    assert found.sum().item() == pytest.approx(1.0)


def test_log_probabilities_are_the_models_and_finite() -> None:
    expected = torch.log_softmax(LOGITS, -1)
    score, top = log_probabilities(LOGITS, 0, 3)
    assert score == pytest.approx(expected[0].item(), abs=1e-6)
    assert [index for index, _ in top] == [1, 6, 3]
    assert [value for _, value in top] == pytest.approx(expected[[1, 6, 3]].tolist(), abs=1e-6)
    assert log_probabilities(LOGITS, 4, 0) == (LOWEST_LOGPROB, ())
    assert len(log_probabilities(LOGITS, 4, 99)[1]) == 7
