"""Drawing tokens and the generating loop: against the definition of each option, and against transformers' own."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.sampling import Sampler, SamplingOptions, generate, prefill, probabilities
from laguna_agent.errors import ContextTooLong, ProviderError, UsageError
from tests.laguna.checkpoints import CASES, golden
from tests.laguna.small_models import small_config, small_model

LOGITS = torch.tensor([1.0, 3.0, -2.0, 2.5, float("-inf"), 0.0, 2.9])


def watched(model: CausalLM) -> list[int]:
    """A list that grows by the number of tokens of every forward pass."""
    counts: list[int] = []
    model.model.norm.register_forward_hook(lambda _module, inputs, _output: counts.append(len(inputs[0])))
    return counts


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
    drawn = Counter(sampler.choose(LOGITS) for _ in range(8_000))
    expected = probabilities(LOGITS, options)
    assert set(drawn) == {0, 1, 3, 6}
    for token, count in drawn.items():
        assert count / 8_000 == pytest.approx(expected[token].item(), abs=0.018)


def test_a_seed_repeats_and_another_does_not() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        return [sampler.choose(LOGITS) for _ in range(50)]

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
    ],
)
def test_options_out_of_range(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SamplingOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_greedy_generation_of_the_golden_cases(case: str) -> None:
    model, expected = golden(case)
    prompt, tokens = expected["prompt0.input_ids"].tolist(), expected["greedy.tokens"].tolist()
    found = generate(model, prompt, model.new_cache(), SamplingOptions(), max_tokens=24, chunk=2)
    assert list(found) == tokens
    stopped = generate(model, prompt, model.new_cache(), SamplingOptions(), max_tokens=24, stop={tokens[5]})
    assert list(stopped) == tokens[: tokens.index(tokens[5]) + 1]


def test_each_token_is_read_once() -> None:
    model = small_model()
    counts = watched(model)
    cache = model.new_cache()
    prompt = [1, 2, 3, 4, 5, 6, 7]
    for turn in range(6):
        answer = list(generate(model, prompt, cache, SamplingOptions(1.0, seed=turn), max_tokens=5, chunk=3))
        cache.snapshot()
        prompt += [*answer, turn, turn + 1, turn + 2]
    # The last answer's last token and the three after it were never read.
    assert sum(counts) == len(prompt) - 4
    fresh = small_model()
    torch.testing.assert_close(
        prefill(model, prompt, cache), prefill(fresh, prompt, fresh.new_cache()), atol=2e-5, rtol=1e-4
    )


def test_generation_depends_on_nothing_before_it() -> None:
    model = small_model()
    options = SamplingOptions(temperature=1.0, seed=5)
    fresh = list(generate(model, [9, 8, 7], model.new_cache(), options, max_tokens=12))
    used = model.new_cache()
    list(generate(model, [9, 8, 1, 2, 3], used, SamplingOptions(), max_tokens=9))
    assert list(generate(model, [9, 8, 7], used, options, max_tokens=12)) == fresh


def test_the_context_ends_the_answer() -> None:
    model = small_model(small_config(context=10))
    found = list(generate(model, [1] * 7, model.new_cache(), SamplingOptions(), max_tokens=50))
    # Three more tokens have a position; what follows the last of them can still be said.
    assert len(found) == 4
    with pytest.raises(ContextTooLong, match="the prompt has 11 tokens, the model reads at most 10"):
        list(generate(model, [1] * 11, model.new_cache(), SamplingOptions(), max_tokens=1))
    with pytest.raises(UsageError, match="the prompt has no tokens"):
        list(generate(model, [], model.new_cache(), SamplingOptions(), max_tokens=1))
    assert list(generate(model, [1], model.new_cache(), SamplingOptions(), max_tokens=0)) == []


def test_a_prefill_can_be_stopped_and_goes_on_where_it_was() -> None:
    model = small_model()
    cache = model.new_cache()
    heard: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        heard.append((done, total))
        if done >= 8:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        prefill(model, list(range(20)), cache, chunk=4, on_chunk=stop)
    assert heard == [(4, 20), (8, 20)]
    counts = watched(model)
    logits = prefill(model, list(range(20)), cache, chunk=100)
    assert counts == [12]
    torch.testing.assert_close(logits, model([Piece(torch.arange(20))])[-1], atol=2e-5, rtol=1e-4)
