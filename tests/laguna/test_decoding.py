"""Decodings: what one makes does not depend on the batch around it, and its cache is ready for the next turn."""

from __future__ import annotations

import pytest
import torch

from laguna_agent.backend.laguna.decoding import Decoding, DecodingOptions, generate, step
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.sampling import SamplingOptions
from laguna_agent.errors import ContextTooLong, UsageError
from tests.laguna.checkpoints import CASES, golden
from tests.laguna.small_models import small_config, small_model


def watched(model: CausalLM) -> list[int]:
    """A list that grows by the number of tokens of every forward pass."""
    counts: list[int] = []
    model.model.norm.register_forward_hook(lambda _module, inputs, _output: counts.append(len(inputs[0])))
    return counts


@pytest.mark.parametrize("case", CASES)
def test_greedy_generation_of_the_golden_cases(case: str) -> None:
    model, expected = golden(case)
    prompt, tokens = expected["prompt0.input_ids"].tolist(), expected["greedy.tokens"].tolist()
    assert list(generate(model, prompt, model.new_cache(), DecodingOptions(max_tokens=24), chunk=2)) == tokens
    stopping = DecodingOptions(max_tokens=24, stop=frozenset({tokens[5]}))
    assert list(generate(model, prompt, model.new_cache(), stopping)) == tokens[: tokens.index(tokens[5]) + 1]


def test_each_token_is_read_once() -> None:
    model = small_model()
    counts = watched(model)
    cache = model.new_cache()
    prompt = [1, 2, 3, 4, 5, 6, 7]
    for turn in range(6):
        options = DecodingOptions(SamplingOptions(1.0, seed=turn), max_tokens=5)
        answer = list(generate(model, prompt, cache, options, chunk=3))
        cache.snapshot()
        prompt += [*answer, turn, turn + 1, turn + 2]
    # The last answer's last token and the three after it were never read.
    assert sum(counts) == len(prompt) - 4


def test_the_context_ends_the_answer() -> None:
    model = small_model(small_config(context=10))
    found = list(generate(model, [1] * 7, model.new_cache(), DecodingOptions(max_tokens=50)))
    # Three more tokens have a position; what follows the last of them can still be said.
    assert len(found) == 4
    with pytest.raises(ContextTooLong, match="the prompt has 11 tokens, the model reads at most 10"):
        Decoding([1] * 11, model.new_cache(), DecodingOptions())
    with pytest.raises(UsageError, match="the prompt has no tokens"):
        Decoding([], model.new_cache(), DecodingOptions())
    with pytest.raises(UsageError, match="token id 41 at place 1: the model knows ids 0 to 40"):
        Decoding([1, 41], model.new_cache(), DecodingOptions())


def test_reading_only() -> None:
    model = small_model()
    cache = model.new_cache()
    decoding = Decoding(range(20), cache, DecodingOptions(max_tokens=0))
    step(model, [decoding], chunk=7)
    assert (decoding.prompt_done, decoding.finished) == (7, None)
    while not decoding.done:
        step(model, [decoding], chunk=7)
    assert (decoding.finished, decoding.tokens, cache.tokens) == ("length", [], list(range(20)))
    torch.testing.assert_close(
        model([Piece(torch.tensor([3]), cache)])[0],
        model([Piece(torch.tensor([*range(20), 3]))])[-1],
        atol=2e-5,
        rtol=1e-4,
    )
