"""The cache as a person's session uses it: grows, goes back, branches; always the numbers of a fresh start."""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.laguna.cache import SNAPSHOT_BYTES, KVCache, total_bytes
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.errors import ContextTooLong
from tests.laguna.small_models import FULL, MIXED, SLIDING, small_config, small_model

MODELS = {
    (kinds, window): small_model(small_config(kinds, window))
    for kinds in (MIXED, (FULL, FULL), (SLIDING, SLIDING))
    for window in (1, 3, 8)
}


def append(model: CausalLM, cache: KVCache, ids: list[int]) -> None:
    """Append to a cache, and fail unless the logits are those of reading all its tokens afresh."""
    before = cache.length
    found = model([Piece(torch.tensor(ids, dtype=torch.int64), cache)])
    afresh = model([Piece(torch.tensor(cache.tokens, dtype=torch.int64))])
    torch.testing.assert_close(found, afresh[before:], atol=2e-5, rtol=1e-4)


Move = tuple[str, int]
MOVES = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "snapshot", "rewind", "fork", "switch", "drop", "batch"]),
        st.integers(0, 1 << 30),
    ),
    min_size=6,
    max_size=24,
)


class Session:
    """Branches of one conversation; the last is the one being written."""

    def __init__(self, model: CausalLM, slack: int) -> None:
        self.model, self.branches = model, [model.new_cache(at_once=0, slack=slack, max_snapshots=4)]

    def move(self, what: str, number: int) -> None:
        """Do one thing and check all that must hold after it."""
        cache, rng = self.branches[-1], random.Random(number)
        ids = [rng.randrange(41) for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 17]))]
        room = cache.length + len(ids) <= self.model.config.context_length
        if what == "append" and room:
            append(self.model, cache, ids)
        elif what == "snapshot":
            cache.snapshot()
        elif what == "rewind":
            self.rewind(cache, number % (cache.length + 1))
        elif what == "fork":
            self.branches.append(cache.fork())
        elif what == "switch":
            self.branches.append(self.branches.pop(number % len(self.branches)))
        elif what == "drop" and len(self.branches) > 1:
            self.branches.pop()
        elif what == "batch":
            self.batch(ids[:3])

    def rewind(self, cache: KVCache, length: int) -> None:
        """Back to `length`, or before it; a snapshot's length is always reached."""
        tokens, kept = list(cache.tokens), cache.snapshots.lengths()
        reached = cache.rewind(length)
        assert cache.tokens == tokens[:reached]
        assert reached == length or (reached < length and SLIDING in {at.attention for at in cache.config.layers})
        assert reached >= max([0, *(place for place in kept if place <= length)])
        assert reached == length or len(tokens) - length > cache.slack

    def batch(self, ids: list[int]) -> None:
        """All branches at once, each its own tokens."""
        pieces = [
            Piece(torch.tensor([(token + at) % 41 for token in ids], dtype=torch.int64), cache)
            for at, cache in enumerate(self.branches)
        ]
        if all(cache.length + len(ids) <= self.model.config.context_length for cache in self.branches):
            found = self.model(pieces).split(len(ids)) if ids else []
            for cache, logits in zip(self.branches, found, strict=False):
                afresh = self.model([Piece(torch.tensor(cache.tokens))])
                torch.testing.assert_close(logits, afresh[-len(ids) :], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kinds", [MIXED, (FULL, FULL), (SLIDING, SLIDING)], ids=["mixed", "full", "sliding"])
@settings(max_examples=25)
@given(moves=MOVES, window=st.sampled_from([1, 3, 8]), slack=st.sampled_from([0, 2, 64]))
def test_any_session(kinds: tuple[str, ...], moves: list[Move], window: int, slack: int) -> None:
    session = Session(MODELS[kinds, window], slack)
    for what, number in moves:
        session.move(what, number)
    for cache in session.branches:
        append(session.model, cache, [1, 2])


def test_turns_that_are_returned_to_cost_nothing() -> None:
    model = small_model()
    cache = model.new_cache(at_once=0, slack=0)
    for turn in range(1, 6):
        append(model, cache, [turn] * 11)
        cache.snapshot()
    for turn in (4, 3, 1):
        assert cache.rewind(11 * turn) == 11 * turn
        append(model, cache, [40] * 9)
        assert cache.rewind(11 * turn) == 11 * turn


def test_a_snapshot_of_an_abandoned_turn_is_forgotten() -> None:
    model = small_model()
    cache = model.new_cache(at_once=0, slack=0)
    for turn in (1, 2):
        append(model, cache, [turn] * 10)
        cache.snapshot()
    cache.rewind(10)
    append(model, cache, [3] * 15)
    assert cache.rewind(20) == 10
    append(model, cache, [3] * 11)


def test_reuse_finds_the_longest_prefix_and_leaves_one_token() -> None:
    model = small_model(small_config((FULL, FULL)))
    cache = model.new_cache()
    append(model, cache, [1, 2, 3, 4, 5])
    assert cache.reuse([1, 2, 3, 9, 9]) == 3
    assert cache.reuse([1, 2, 3]) == 2
    assert cache.reuse([7]) == 0
    assert cache.tokens == []


def test_a_fork_shares_what_both_have() -> None:
    model = small_model(small_config((FULL, FULL)))
    cache = model.new_cache()
    append(model, cache, [3] * 150)
    alone = total_bytes([cache])
    forks = [cache.fork() for _ in range(8)]
    assert total_bytes([cache, *forks]) == alone
    for fork in forks:
        append(model, fork, [4])
    assert total_bytes([cache, *forks]) < 4 * alone


def test_the_first_of_two_goes_back_and_writes_anew() -> None:
    model = small_model(small_config((FULL, FULL)))
    cache = model.new_cache()
    append(model, cache, [3] * 10)
    fork = cache.fork()
    cache.rewind(4)
    append(model, cache, [5] * 9)
    append(model, fork, [6])
    append(model, cache, [7])


def test_a_chain_of_forks_stays_in_one_piece() -> None:
    model = small_model(small_config((FULL, FULL)))
    cache = model.new_cache()
    for turn in range(10):
        append(model, cache, [turn, turn + 1])
        cache = cache.fork()
    append(model, cache, [3])
    assert len(list(cache.storage())) == 1


def test_snapshots_are_bounded_and_thin_out_into_the_past() -> None:
    cache = small_model().new_cache(max_snapshots=6)
    for _ in range(60):
        cache.begin([1]).commit()
        cache.snapshot()
        cache.snapshot()
        assert len(cache.snapshots.lengths()) <= 6
    places = cache.snapshots.lengths()
    assert (places[0], places[-2:]) == (1, [59, 60])
    gaps = [later - earlier for earlier, later in itertools.pairwise(places)]
    assert gaps == sorted(gaps, reverse=True)


def laguna_xs() -> ModelConfig:
    """The attention of Laguna XS: 10 full and 30 sliding layers, 8 KV heads."""
    return msgspec.structs.replace(
        small_config(((FULL,) + (SLIDING,) * 3) * 10, window=512, context=1 << 17), kv_heads=8, head_dim=128
    )


def session(cache: KVCache, turns: int, prompt: int, answer: int) -> list[int]:
    """Both ends of every answer; tokens only, for the cache lies nowhere."""
    ends = []
    for _ in range(turns):
        for tokens in (prompt, answer):
            for begin in range(0, tokens, 512):
                cache.begin([1] * min(512, tokens - begin)).commit()
            cache.snapshot()
            ends.append(cache.length)
    return ends


def test_snapshots_of_laguna_xs_share_windows_and_stay_below_their_bound() -> None:
    token = 30 * 2 * 8 * 128 * 2
    cache = KVCache(laguna_xs(), format="f16", device="meta", snapshot_bytes=1 << 40)
    ends = session(cache, 20, 300, 90)
    assert cache.snapshots.lengths() == ends
    # 40 windows of 511 tokens, but every token once.
    assert cache.snapshots.nbytes() == ends[-1] * token < 40 * 511 * token // 2
    far = session(cache, 1, 5000, 90)
    assert cache.snapshots.nbytes() <= (ends[-1] + 511 + 90) * token
    bounded = KVCache(laguna_xs(), format="f16", device="meta")
    for turn in range(1, 21):
        session(bounded, 1, 900, 200)
        assert bounded.snapshots.nbytes() <= SNAPSHOT_BYTES
        assert bounded.snapshots.lengths()[-2:] == [turn * 1100 - 200, turn * 1100]
        assert bounded.snapshots.lengths()[0] == 900
    assert len(bounded.snapshots.lengths()) >= 8
    assert far[-1] == cache.length


def test_beyond_the_context() -> None:
    model = small_model(small_config(context=10))
    cache = model.new_cache()
    append(model, cache, [1] * 8)
    with pytest.raises(ContextTooLong, match="11 tokens were given, the model reads at most 10"):
        model([Piece(torch.tensor([1, 2, 3]), cache)])
    with pytest.raises(ContextTooLong, match="8 are in its cache and 3 more"):
        cache.begin([1, 2, 3])
    append(model, cache, [1, 2])
    assert cache.length == 10


def test_a_pass_that_breaks_off_harms_nothing_before_the_last_snapshot() -> None:
    model = small_model()
    cache = model.new_cache(at_once=0, slack=0)
    append(model, cache, [5] * 9)
    cache.snapshot()
    append(model, cache, [6] * 2)

    def break_off(*_: object) -> None:
        raise KeyboardInterrupt

    hook = model.model.layers[3].register_forward_pre_hook(break_off)
    with pytest.raises(KeyboardInterrupt):
        model([Piece(torch.tensor([7] * 20), cache)])
    hook.remove()
    assert cache.length == 11
    with pytest.raises(RuntimeError, match="lost keys before token 11: rewind"):
        model([Piece(torch.tensor([7]), cache)])
    assert cache.rewind(11) == 9
    append(model, cache, [8] * 4)


def test_rewinding_forward_is_refused() -> None:
    cache = small_model().new_cache()
    with pytest.raises(ValueError, match="cannot rewind to 1 tokens: the cache has 0"):
        cache.rewind(1)
