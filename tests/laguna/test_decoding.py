"""Decodings: what one makes depends on nothing around it, and its cache is ready for the next turn."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.laguna.cache_format import KVFormatName
from laguna_agent.backend.laguna.decoding import Decoding, DecodingOptions, Token, generate, step
from laguna_agent.backend.laguna.model import CausalLM, Piece
from laguna_agent.backend.laguna.sampling import SamplingOptions
from laguna_agent.errors import ContextTooLong, ModelStopped, ProviderError, UsageError
from tests.laguna.checkpoints import CASES, golden
from tests.laguna.small_models import FULL, MIXED, SLIDING, small_config, small_model

GREEDY = SamplingOptions()


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


@pytest.mark.parametrize("draft", [0, 8])
def test_golden_greedy_tokens_in_a_batch_of_five(draft: int) -> None:
    """One prompt is read while others are in the middle of their answers."""
    for case in CASES:
        model, expected = golden(case)
        prompts = [expected[f"prompt{index % 2}.input_ids"].tolist() for index in range(5)]
        options = DecodingOptions(max_tokens=24, draft=draft)
        decodings: list[Decoding] = []
        for prompt in prompts:
            decodings.append(Decoding(prompt, model.new_cache(), options))
            step(model, decodings, chunk=3)
        run(model, decodings, chunk=3)
        for decoding in decodings[::2]:
            assert decoding.tokens == expected["greedy.tokens"].tolist()
        assert decodings[1].tokens == decodings[3].tokens


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


def some_options(rng: random.Random) -> DecodingOptions:
    """Anything that may be asked for."""
    sampling = SamplingOptions(
        temperature=rng.choice([0.0, 0.0, 0.7, 1.5]),
        top_k=rng.choice([0, 0, 5]),
        top_p=rng.choice([1.0, 0.9]),
        min_p=rng.choice([0.0, 0.05]),
        seed=rng.randrange(1 << 40),
        frequency_penalty=rng.choice([0.0, 0.0, 0.3]),
        presence_penalty=rng.choice([0.0, 0.0, 0.5]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
    )
    return DecodingOptions(
        sampling,
        max_tokens=rng.randrange(1, 40),
        stop=frozenset(rng.sample(range(41), rng.choice([0, 0, 1]))),
        logprobs=rng.choice([None, None, 0, 3]),
        draft=rng.choice([0, 1, 7, 64]),
    )


class Asker:
    """Asks for one decoding, forcing and ending at places that depend on the tokens alone."""

    def __init__(self, rng: random.Random, prompt: Sequence[int]) -> None:
        self.prompt, self.options = list(prompt), some_options(rng)
        self.force_at, self.end_at = rng.choice([None, 0, 3, 9]), rng.choice([None, None, 14])
        self.forced = [rng.randrange(41) for _ in range(rng.choice([1, 4, 80]))]
        self.heard: list[Token] = []

    def start(self, model: CausalLM, options: DecodingOptions | None = None) -> Decoding:
        """A new decoding."""
        self.heard = []
        decoding = Decoding(self.prompt, model.new_cache(), options or self.options, watch=self.watch)
        if self.force_at == 0:
            decoding.force(self.forced)
        self.decoding = decoding
        return decoding

    def watch(self, token: Token) -> None:
        """Hear a token."""
        self.heard.append(token)
        if len(self.heard) == self.force_at:
            self.decoding.force(self.forced)
        if len(self.heard) == self.end_at:
            self.decoding.end()


def run(model: CausalLM, decodings: Sequence[Decoding], chunk: int = 512) -> int:
    """Step until all are done; how many passes that took. Checks every cache after every pass."""
    passes = 0
    while not all(decoding.done for decoding in decodings):
        step(model, decodings, chunk=chunk)
        passes += 1
        for decoding in decodings:
            whole = [*decoding._ids[: decoding.prompt_total], *decoding.tokens]
            assert decoding.cache.tokens == whole[: decoding.cache.length]
            if decoding.tokens:
                assert decoding.cache.length == len(whole) - 1
    return passes


def run_drafting(model: CausalLM, decoding: Decoding) -> None:
    """Step until it is done, drafting wherever it can: whether that pays depends on the machine's mood."""
    assert decoding._drafter is not None
    while not decoding.done:
        decoding._drafter.resting = 0
        step(model, [decoding])


def same(found: Sequence[Token], expected: Sequence[Token]) -> None:
    """The same tokens with nearly the same log-probabilities."""
    assert [token.id for token in found] == [token.id for token in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [value for _, value in one.top] == pytest.approx([value for _, value in other.top], abs=1e-3)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_a_batch_makes_what_each_makes_alone(seed: int) -> None:
    rng = random.Random(seed)
    kinds = rng.choice([MIXED, (FULL, FULL), (SLIDING, SLIDING)])
    model = small_model(small_config(kinds, window=rng.choice([2, 3, 9]), context=150), seed)
    askers = [Asker(rng, [rng.randrange(41) for _ in range(rng.choice([1, 2, 19, 60]))]) for _ in range(5)]
    alone = []
    for asker in askers:
        decoding = asker.start(model)
        run(model, [decoding])
        alone.append((decoding.finished, asker.heard))
        assert [token.id for token in asker.heard] == decoding.tokens
    decodings: list[Decoding] = []
    for asker in askers:
        # They come one after the other, while the others are on their way.
        decodings.append(asker.start(model))
        for _ in range(rng.randrange(3)):
            step(model, decodings, chunk=rng.choice([3, 17]))
    run(model, decodings, chunk=9)
    for asker, decoding, (finished, heard) in zip(askers, decodings, alone, strict=True):
        assert decoding.finished == finished
        same(asker.heard, heard)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1 << 30), draft=st.integers(1, 64))
def test_a_draft_changes_no_token(seed: int, draft: int) -> None:
    rng = random.Random(seed)
    model = small_model(small_config(rng.choice([MIXED, (SLIDING, FULL)]), context=400), seed)
    # A text that repeats itself, so that there is something to look up.
    motif = [rng.randrange(41) for _ in range(7)]
    asker = Asker(rng, motif * 3 + [rng.randrange(41)] + motif)
    options = asker.options
    wanted = {"max_tokens": 70, "stop": frozenset({rng.randrange(41)}) if rng.random() < 0.3 else frozenset()}
    plain = DecodingOptions(options.sampling, logprobs=options.logprobs, draft=0, **wanted)
    run(model, [asker.start(model, plain)])
    expected, cache = list(asker.heard), asker.decoding.cache.tokens
    drafted = DecodingOptions(options.sampling, logprobs=options.logprobs, draft=draft, **wanted)
    decoding = asker.start(model, drafted)
    run_drafting(model, decoding)
    same(asker.heard, expected)
    assert decoding.cache.tokens == cache


def test_drafts_save_passes_and_are_taken_back_where_they_are_wrong() -> None:
    model = small_model(small_config(context=2000))
    counts = watched(model)
    prompt = [5, 6, 7, 8, 9] * 4
    expected = list(generate(model, prompt, model.new_cache(), DecodingOptions(max_tokens=150)))
    assert len(counts) == 150
    counts.clear()
    decoding = Decoding(prompt, model.new_cache(), DecodingOptions(max_tokens=150, draft=16))
    run_drafting(model, decoding)
    assert decoding.tokens == expected
    assert len(counts) < 130
    assert sum(counts) > 150 + len(prompt)


@pytest.mark.parametrize("kept", ["f16", "int8", "fp8"])
def test_a_draft_changes_no_token_whatever_the_cache_keeps(kept: KVFormatName) -> None:
    """A row of a draft sees the keys before it as a pass of its own would: rounded."""
    for seed in range(2):
        model = small_model(small_config(window=5), seed)
        prompt = [5, 6, 7, 8, 9] * 4
        options = DecodingOptions(max_tokens=50)
        expected = list(generate(model, prompt, model.new_cache(kept), options))
        decoding = Decoding(prompt, model.new_cache(kept), DecodingOptions(max_tokens=50, draft=12))
        run_drafting(model, decoding)
        assert decoding.tokens == expected


def test_what_is_forced_is_read_in_one_pass() -> None:
    model = small_model()
    counts = watched(model)
    decoding = Decoding([1, 2, 3], model.new_cache(), DecodingOptions(max_tokens=50))
    decoding.force(range(10))
    step(model, [decoding])
    assert decoding.tokens[:10] == list(range(10))
    assert (counts, len(decoding.tokens)) == ([13], 11)
    decoding.force([*range(40), *range(35)])
    step(model, [decoding])
    # What does not fit any more is not read.
    assert (counts, decoding.finished) == ([13, 39], "length")
    assert decoding.tokens[11:] == list(range(39))
    long = Decoding([1], model.new_cache(), DecodingOptions(max_tokens=100))
    long.force([5] * 99)
    run(model, [long])
    # Never more at a time than the sliding layers could give back.
    assert counts[2:] == [1 + 64, 1 + 34]
    assert long.tokens[:99] == [5] * 99


def test_a_forced_stop_ends_and_the_rest_is_forgotten() -> None:
    model = small_model()
    decoding = Decoding([1], model.new_cache(), DecodingOptions(stop=frozenset({9})))
    decoding.force([3, 9, 4])
    step(model, [decoding])
    assert (decoding.tokens, decoding.finished, decoding.cache.tokens) == ([3, 9], "stop", [1, 3])


@pytest.mark.parametrize("draft", [0, 8])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_log_probabilities_are_those_of_the_whole_text(draft: int, temperature: float) -> None:
    model = small_model(small_config(window=5, context=300))
    sampling = SamplingOptions(temperature, seed=3, repetition_penalty=1.3)
    heard: list[Token] = []
    options = DecodingOptions(sampling, max_tokens=60, logprobs=4, draft=draft)
    prompt = [4, 5, 6, 7] * 3
    decoding = Decoding(prompt, model.new_cache(), options, watch=heard.append)
    decoding.force([8, 9, 8, 9])
    run(model, [decoding])
    scores = torch.log_softmax(model([Piece(torch.tensor(prompt + decoding.tokens))]), -1)[len(prompt) - 1 : -1]
    for token, row in zip(heard, scores, strict=True):
        assert token.logprob == pytest.approx(row[token.id].item(), abs=1e-4)
        best = torch.topk(row, 4)
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [row[index].item() for index, _ in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert len(heard) == 60


def test_the_cache_serves_the_next_turn_after_any_end() -> None:
    model = small_model(small_config(window=5, context=300))
    for end_at in (None, 1, 5, 11):
        asker = Asker(random.Random(1), [1, 2, 3] * 5)
        asker.force_at, asker.end_at = 4, end_at
        decoding = asker.start(model, DecodingOptions(max_tokens=30, draft=9))
        run(model, [decoding])
        assert decoding.finished == ("length" if end_at is None else "stop")
        whole = asker.prompt + decoding.tokens
        turn = Decoding([*whole, 7, 7, 7], decoding.cache, DecodingOptions(max_tokens=10))
        assert turn.reused == len(whole) - 1
        run(model, [turn])
        assert turn.tokens == list(generate(model, [*whole, 7, 7, 7], model.new_cache(), turn.options))


def test_one_that_is_left_between_chunks_goes_on_where_it_was() -> None:
    model = small_model()
    counts = watched(model)
    cache = model.new_cache()
    first, other = (Decoding(range(20), held, DecodingOptions()) for held in (cache, model.new_cache()))
    step(model, [first, other], chunk=8)
    step(model, [first, other], chunk=8)
    # The chunk is shared by all that read.
    assert (counts, first.prompt_done, other.prompt_done, first.tokens) == ([8, 8], 8, 8, [])
    counts.clear()
    again = Decoding(range(20), cache, DecodingOptions(max_tokens=3))
    assert again.reused == 8
    run(model, [again])
    assert counts[0] == 12
    assert again.tokens == list(generate(model, list(range(20)), model.new_cache(), again.options))


def test_a_sequence_that_fails_leaves_the_others_alone() -> None:
    model = small_model()
    expected = list(generate(model, [1, 2, 3], model.new_cache(), DecodingOptions(max_tokens=9)))
    model.model.embed_tokens.weight[40] = float("nan")
    good, bad = (Decoding(ids, model.new_cache(), DecodingOptions(max_tokens=9)) for ids in ([1, 2, 3], [1, 40]))
    told: list[Token] = []

    def refuse(token: Token) -> None:
        told.append(token)
        if len(told) == 4:
            raise ModelStopped("enough", reason="empty")

    refused = Decoding([1, 2, 3], model.new_cache(), DecodingOptions(max_tokens=9), watch=refuse)
    run(model, [bad, good, refused])
    assert isinstance(bad.failed, ProviderError)
    assert "not finite numbers" in str(bad.failed)
    assert (bad.finished, bad.tokens) == (None, [])
    assert isinstance(refused.failed, ModelStopped)
    assert (good.finished, good.failed) == ("length", None)
    assert good.tokens == expected
    assert refused.tokens == expected[:4]
    with pytest.raises(ProviderError, match="not finite numbers"):
        list(generate(model, [40], model.new_cache(), DecodingOptions(max_tokens=1)))


def test_after_an_error_of_the_pass_all_can_go_on() -> None:
    model = small_model()
    expected = [list(generate(model, ids, model.new_cache(), DecodingOptions(max_tokens=12))) for ids in ([1], [2, 3])]
    calls = 0

    def stumble(token: Token) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyError("a bug of whoever listens")

    options = DecodingOptions(max_tokens=12, draft=4)
    decodings = [Decoding(ids, model.new_cache(), options, watch=stumble) for ids in ([1], [2, 3])]
    with pytest.raises(KeyError):
        run(model, decodings)
    run(model, decodings)
    assert [decoding.tokens for decoding in decodings] == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [({"max_tokens": -1}, "max_tokens is -1"), ({"draft": -2}, "draft is -2"), ({"logprobs": -1}, "logprobs is -1")],
)
def test_options_out_of_range(options: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DecodingOptions(**options)  # type: ignore[arg-type]
