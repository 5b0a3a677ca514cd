"""What sessions save by sharing caches: every token is computed once, whoever asks for it again."""

from __future__ import annotations

import random
import time

import pytest
import torch

from laguna_agent.backend.laguna.cache_store import CacheStore
from laguna_agent.backend.laguna.decoding import DecodingOptions, generate
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.sampling import SamplingOptions
from tests.laguna.small_models import FULL, MIXED, small_config, small_model

PLENTY = 1 << 30


class Agent:
    """Conversations on one model through one store, with a count of computed tokens."""

    def __init__(self, budget: int = PLENTY, model: CausalLM | None = None) -> None:
        self.model = model or small_model(small_config(context=4000))
        self.store = CacheStore(self.model.new_cache, budget)
        self.computed = 0
        self.model.model.norm.register_forward_hook(lambda _module, inputs, _output: self.count(len(inputs[0])))

    def count(self, tokens: int) -> None:
        """A forward pass was made."""
        self.computed += tokens

    def turn(self, prompt: list[int], answer: int = 4) -> list[int]:
        """The prompt with its answer, the cache at rest again at the turn's boundary."""
        cache = self.store.take(prompt)
        options = DecodingOptions(SamplingOptions(1.0, seed=len(prompt)), max_tokens=answer)
        made = list(generate(self.model, prompt, cache, options))
        # The last token of an answer is read too, so that the boundary lies behind it.
        assert not list(generate(self.model, prompt + made, cache, DecodingOptions(max_tokens=0)))
        cache.snapshot()
        self.store.put(cache)
        return prompt + made


def test_twenty_turns_compute_each_token_once_before_and_after_going_back_and_branching() -> None:
    agent = Agent()
    rng = random.Random(1)
    history: list[int] = []
    ends: list[int] = []
    for _ in range(20):
        history = agent.turn(history + [rng.randrange(41) for _ in range(rng.randrange(1, 40))])
        ends.append(len(history))
    assert agent.computed == len(history)
    agent.computed = 0
    back = agent.turn([*history[: ends[11]], 40, 39, 38])
    assert agent.computed == len(back) - ends[11]
    agent.computed = 0
    left, right = agent.turn([*back, 1, 2]), agent.turn([*back, 3, 4])
    assert agent.computed == len(left) + len(right) - 2 * len(back)
    agent.computed = 0
    resumed = agent.turn([*history, 5])
    assert agent.computed == len(resumed) - len(history)


def test_subagents_share_their_beginning() -> None:
    agent = Agent(model=small_model(small_config((FULL, FULL), context=4000)))
    system = agent.turn([7] * 300)
    alone, agent.computed = agent.store.bytes(), 0
    for subagent in range(6):
        agent.turn([*system, subagent, subagent])
    assert agent.computed == 6 * 6
    assert len(agent.store) == 6
    assert agent.store.bytes() < 3 * alone


@pytest.mark.parametrize("kinds", [MIXED, (FULL, FULL)])
def test_what_the_store_offers_changes_no_token(kinds: tuple[str, ...]) -> None:
    config = small_config(kinds, context=4000)  # type: ignore[arg-type]
    agent, rng = Agent(budget=90_000, model=small_model(config)), random.Random(2)
    known: list[list[int]] = [[1]]
    for _ in range(24):
        whole = rng.choice(known)
        prompt = [*whole[: rng.randrange(1, len(whole) + 1)], *(rng.randrange(41) for _ in range(rng.randrange(1, 9)))]
        options = DecodingOptions(SamplingOptions(1.0, seed=len(prompt)), max_tokens=4)
        fresh = generate(agent.model, prompt, agent.model.new_cache(), options)
        expected = [*prompt, *fresh]
        assert agent.turn(prompt) == expected
        known.append(expected)
    assert agent.store.bytes() <= 90_000 or len(agent.store) == 1


def test_the_least_recently_used_goes_first() -> None:
    agent = Agent(model=small_model(small_config((FULL, FULL), context=4000)))
    one = agent.turn([1] * 50)
    size = agent.store.bytes()
    two = agent.turn([2] * 50)
    agent.store.budget = int(2.5 * size)
    one = agent.turn([*one, 1])
    agent.turn([3] * 50)
    agent.computed = 0
    agent.turn([*one, 1])
    assert agent.computed == 5
    agent.computed = 0
    agent.turn([*two, 2])
    assert agent.computed == len(two) + 5


@pytest.mark.parametrize("kinds", [MIXED, (FULL, FULL)])
def test_a_cache_in_use_is_nobody_elses(kinds: tuple[str, ...]) -> None:
    config = small_config(kinds, context=4000)  # type: ignore[arg-type]
    agent = Agent(model=small_model(config))
    history = agent.turn([1, 2, 3])
    first = agent.store.take([*history, 1])
    agent.model([Piece(torch.tensor([1] * 5), first)])
    second = agent.store.take([*history, 2])
    assert first is not second
    assert (first.length, second.length) == (len(history) + 5, len(history))
    for cache in (second, first):
        found = agent.model([Piece(torch.tensor([2] * 9), cache)])
        afresh = agent.model([Piece(torch.tensor(cache.tokens))])
        torch.testing.assert_close(found, afresh[-9:], atol=2e-5, rtol=1e-4)
    agent.store.put(first)
    agent.store.put(second)
    assert agent.store.take([*history, 1]).length == len(history)
    agent.store.clear()
    # The last cache taken is in use no more: nobody holds it.
    assert agent.store.take([*history, 1]).length == 0


def test_an_empty_prompt_takes_an_empty_cache() -> None:
    agent = Agent()
    agent.turn([1, 2, 3])
    assert agent.store.take([]).length == 0


def test_sixteen_subagents_at_once_hold_their_beginning_once() -> None:
    agent = Agent(model=small_model(small_config((FULL, FULL), context=4000)))
    system = agent.turn([7] * 600)
    alone = agent.store.bytes()
    taken = [agent.store.take([*system, subagent]) for subagent in range(16)]
    assert [cache.length for cache in taken] == [len(system)] * 16
    for subagent, cache in enumerate(taken):
        agent.model([Piece(torch.tensor([subagent] * 3), cache)])
        agent.store.put(cache)
    assert agent.store.bytes() < 5 * alone


def test_a_short_fork_does_not_keep_all_that_it_came_from() -> None:
    agent = Agent(model=small_model(small_config((FULL, FULL), context=8000)))
    agent.turn([5] * 10 + [6] * 5000)
    large = agent.store.bytes()
    agent.turn([5] * 10 + [7] * 20)
    agent.store.budget = large // 2
    agent.turn([8] * 10)
    assert agent.store.bytes() < large // 4
    agent.computed = 0
    agent.turn([5] * 10 + [7] * 20 + [9])
    assert agent.computed < 10


def test_one_cache_above_the_budget_stays_and_gives_up_snapshots() -> None:
    agent = Agent(budget=1)
    history = [1]
    for _ in range(6):
        history = agent.turn([*history, *[2] * 30])
        assert len(agent.store) == 1
    assert len(agent.store.take([*history, 3]).snapshots.lengths()) == 2


def test_a_cache_whose_turn_failed_is_as_good_as_before() -> None:
    agent = Agent()
    history = agent.turn([3] * 200)

    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    hook = agent.model.model.layers[2].register_forward_pre_hook(break_off)
    cache = agent.store.take([*history, *[4] * 300])
    with pytest.raises(KeyboardInterrupt):
        agent.model([Piece(torch.tensor([4] * 300), cache)])
    hook.remove()
    agent.store.put(cache)
    agent.computed = 0
    prompt = [*history, *[5] * 40]
    expected = list(
        generate(agent.model, prompt, agent.model.new_cache(), DecodingOptions(SamplingOptions(), max_tokens=4))
    )
    agent.computed = 0
    cache = agent.store.take(prompt)
    assert cache.length == len(history)
    assert list(generate(agent.model, prompt, cache, DecodingOptions(SamplingOptions(), max_tokens=4))) == expected
    assert agent.computed == 40 + 3


def test_taking_from_many_long_caches_takes_no_time() -> None:
    model = small_model(small_config(MIXED, window=64, context=1 << 16))
    store, rng = CacheStore(model.new_cache, PLENTY), random.Random(3)
    head = [rng.randrange(41) for _ in range(10_000)]
    prompts = [head + [rng.randrange(41) for _ in range(10_000)] for _ in range(50)]
    for prompt in prompts:
        cache = model.new_cache()
        for begin in range(0, 20_000, 2_000):
            cache.begin(prompt[begin : begin + 2_000]).commit()
            cache.snapshot()
        store.put(cache)
    start = time.process_time()
    cache = store.take([*prompts[20], 1])
    assert time.process_time() - start < 0.2
    assert cache.length == 20_000
    # Elsewhere only the nearest snapshot before can be gone back to.
    assert store.take([*prompts[7][:15_000], 0]).length == 14_000
