"""Decodings under a grammar: drafts and forced tokens change no token, and what breaks the grammar breaks alone."""

from __future__ import annotations

import random

import pytest

from laguna_agent.backend.laguna.constraint import Constraint, ConstraintBroken, TokenMasks
from laguna_agent.backend.laguna.decoding import Decoding, DecodingOptions, Token, generate, step
from laguna_agent.backend.laguna.sampling import SamplingOptions
from laguna_agent.backend.laguna.tool_grammar import tool_grammar
from tests.laguna.constrained_answers import FAMILIES, STOP, TOKENIZER, VOCABULARY, random_laguna, start
from tests.laguna.conversations import SHELL

MASKS = TokenMasks(TOKENIZER.vocab_size, threads=1)


def said(decoding: Decoding) -> str:
    """Its text."""
    return TOKENIZER.decode(decoding.tokens)


def shell_call() -> Constraint:
    """An answer that must call the shell."""
    grammar = tool_grammar([SHELL], FAMILIES["compact"], VOCABULARY.compiles, in_thought=False, must_call=True)
    return VOCABULARY.follow(grammar.text)


def run(decodings: list[Decoding]) -> int:
    """Step until all are done, with a draft wherever there is one; how many passes that took."""
    passes = 0
    while not all(decoding.done for decoding in decodings):
        for decoding in decodings:
            if decoding._drafter is not None:
                decoding._drafter.resting = 0
        step(random_laguna(), decodings, masks=MASKS)
        passes += 1
    return passes


def decodings(draft: int, seeds: range) -> list[Decoding]:
    """Answers of all families with everything that may be asked for, in one batch."""
    out = []
    for seed in seeds:
        rng = random.Random(seed)
        sampling = SamplingOptions(rng.choice([0.0, 1.5]), seed=seed, repetition_penalty=rng.choice([1.0, 1.3]))
        options = DecodingOptions(sampling, max_tokens=150, stop=STOP, draft=draft, close_after=rng.choice([20, 60]))
        family = FAMILIES[rng.choice(sorted(FAMILIES))]
        prompt = [rng.randrange(300) for _ in range(4)] * 3
        out.append(Decoding(prompt, random_laguna().new_cache(), options, constraint=start(family, False, True)))
    return out


def test_drafts_change_no_token_of_a_call_and_neither_does_the_batch() -> None:
    seeds = range(8)
    plain, drafted = decodings(0, seeds), decodings(12, seeds)
    run(plain)
    run(drafted)
    alone = decodings(12, seeds)[3]
    run([alone])
    assert [each.tokens for each in drafted] == [each.tokens for each in plain]
    assert alone.tokens == plain[3].tokens
    assert [each.finished for each in drafted] == ["stop"] * len(seeds)


def test_what_the_grammar_leaves_no_choice_about_is_read_in_one_pass() -> None:
    options = DecodingOptions(max_tokens=200, stop=STOP, close_after=4)
    decoding = Decoding([5], random_laguna().new_cache(), options, constraint=shell_call())
    passes = run([decoding])
    assert said(decoding).startswith("<tool_call>shell<arg_key>")
    assert said(decoding).endswith("</tool_call>")
    assert decoding.finished == "stop"
    assert decoding.hurried
    assert passes < len(decoding.tokens) / 2
    assert decoding.cache.tokens == [5, *decoding.tokens[:-1]]


def test_the_masks_allow_every_token() -> None:
    """Those that were drawn, and those that were read as certain or to bring the answer to its end."""
    for decoding in decodings(12, range(20, 26)):
        run([decoding])
        text = said(decoding)
        lines = "\n<arg_key>" in text or "\n</tool_call>" in text
        family = "hermes" if '{"name": ' in text else "newline" if lines else "compact"
        follow = start(FAMILIES[family], False, True)
        for index in decoding.tokens:
            assert MASKS.allowed([follow])[0, index], text
            follow.accept(index)


def test_forcing_what_the_grammar_forbids_fails_that_decoding_alone() -> None:
    options = DecodingOptions(max_tokens=90, stop=STOP, close_after=10)
    good, bad, free = (
        Decoding([7, 8], random_laguna().new_cache(), options, constraint=constraint)
        for constraint in (shell_call(), shell_call(), None)
    )
    bad.force(TOKENIZER.encode("<tool_call>rm"))
    run([bad, good, free])
    assert isinstance(bad.failed, ConstraintBroken)
    assert "does not fit the tools' grammar" in str(bad.failed)
    assert "\n" not in str(bad.failed)
    assert (good.failed, good.finished, free.finished) == (None, "stop", "length")
    assert bad.cache.tokens == [7, 8, *bad.tokens][: bad.cache.length]
    assert free.tokens == list(generate(random_laguna(), [7, 8], random_laguna().new_cache(), options))


def test_forced_tokens_are_part_of_the_call() -> None:
    options = DecodingOptions(max_tokens=40, stop=STOP, close_after=30)
    text = "<tool_call>shell<arg_key>cmd</arg_key><arg_value>ls -la</arg_value>"
    decoding = Decoding([7, 8], random_laguna().new_cache(), options, constraint=shell_call())
    decoding.force(TOKENIZER.encode(text))
    run([decoding])
    assert said(decoding).startswith(text)


def test_a_thought_is_closed_by_force_when_its_budget_is_spent() -> None:
    heard: list[Token] = []

    def watch(token: Token) -> None:
        heard.append(token)
        if len(heard) == 12:
            decoding.force(TOKENIZER.encode("</think>"))

    options = DecodingOptions(SamplingOptions(1.5, seed=1), max_tokens=300, stop=STOP, draft=8, close_after=40)
    constraint = start(FAMILIES["compact"], True, True)
    decoding = Decoding([9], random_laguna().new_cache(), options, constraint=constraint, watch=watch)
    run([decoding])
    assert TOKENIZER.decode(decoding.tokens[:12]) + "</think><tool_call>" in said(decoding)


def test_a_grammar_with_nothing_more_to_say_ends_the_answer() -> None:
    options = DecodingOptions(max_tokens=40, stop=STOP)
    constraint = VOCABULARY.follow('start: "yes" | "no"')
    decoding = Decoding([3], random_laguna().new_cache(), options, constraint=constraint)
    run([decoding])
    assert decoding.finished == "stop"
    assert said(decoding) in ("yes", "no")


def test_a_step_without_masks() -> None:
    decoding = Decoding([3], random_laguna().new_cache(), DecodingOptions(), constraint=shell_call())
    with pytest.raises(ValueError, match="needs masks"):
        step(random_laguna(), [decoding])


def test_endings_are_ends_and_not_text() -> None:
    """Of all texts that close something, the one that closes what is open."""
    cases = [
        ("compact", '<tool_call>shell<arg_key>cmd</arg_key><arg_value>a " } ', "</arg_value>"),
        ("compact", '<tool_call>shell<arg_key>env</arg_key><arg_value>{"a', '"'),
        ("compact", '<tool_call>shell<arg_key>env</arg_key><arg_value>{"a": [1', "]"),
        ("compact", '<tool_call>shell<arg_key>env</arg_key><arg_value>{"a": {"b": true', "}"),
        ("compact", "<tool_call>shell<arg_key>cmd</arg_key><arg_value>a</arg_value>", "</tool_call>"),
        ("hermes", '\n\n<tool_call>\n{"name": "shell", "arguments": {"cmd": "</arg_value> } ', '"'),
        ("hermes", '\n\n<tool_call>\n{"name": "shell", "arguments": {"cmd": "a"', "}"),
    ]
    for family, text, ending in cases:
        grammar = tool_grammar([SHELL], FAMILIES[family], VOCABULARY.compiles, in_thought=False, must_call=True)
        constraint = VOCABULARY.follow(grammar.text)
        for index in TOKENIZER.encode(text):
            constraint.accept(index)
        assert TOKENIZER.decode(constraint.ending()) == ending, text
