"""Answers that a model with random weights makes under a grammar, many in a batch, through the engine's own `step`.

A random model never means to end anything, so each answer is told to close what it has open after a number of tokens;
now and then it is made to say something that a careless grammar or parser would trip over.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from laguna_agent.backend.laguna.chat_family import ChatFamily
from laguna_agent.backend.laguna.constraint import Constraint, GrammarVocabulary, TokenMasks
from laguna_agent.backend.laguna.decoding import Decoding, DecodingOptions, Token, step
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.backend.laguna.sampling import SamplingOptions
from laguna_agent.backend.laguna.tokenizer import stop_ids
from laguna_agent.backend.laguna.tool_grammar import tool_grammar
from laguna_agent.messages import ToolSpec
from laguna_agent.tools.registry import default_registry
from tests.laguna.conversations import template
from tests.laguna.small_models import FULL, SLIDING, small_config, small_model
from tests.laguna.small_tokenizer import small_tokenizer

FAMILIES = {name: template(name).family for name in ("compact", "newline", "hermes")}
TOKENIZER = small_tokenizer()
STOP = stop_ids(TOKENIZER, [2])
VOCABULARY = GrammarVocabulary(TOKENIZER, STOP)
LONGEST = 4000
"""Tokens of one answer; more are cut."""
TEMPERATURE = 1.5
HOSTILE = ["</arg_value", "</arg_valu<", "\\", "<tool_call>", "</tool_call>", "{{", "\\u", "null", "None", "1e", "</"]


@functools.cache
def all_tools() -> tuple[ToolSpec, ...]:
    """The agent's own tools, and schemas like those of public MCP servers."""
    found = json.loads((Path(__file__).parent / "tool_schemas.json").read_text(encoding="utf-8"))
    public = [ToolSpec(entry["name"], entry["description"], entry["parameters"]) for entry in found]
    return (*default_registry().specs(), *public)


@functools.cache
def _grammar(family: ChatFamily, in_thought: bool, must_call: bool) -> str:
    grammar = tool_grammar(all_tools(), family, VOCABULARY.compiles, in_thought=in_thought, must_call=must_call)
    assert grammar.loose == ()
    return grammar.text


def start(family: ChatFamily, in_thought: bool, must_call: bool) -> Constraint:
    """The constraint of a new answer."""
    return VOCABULARY.follow(_grammar(family, in_thought, must_call))


@functools.cache
def random_laguna() -> CausalLM:
    """A small Laguna over the small tokenizer's vocabulary, one full and one sliding layer, logits of about 1."""
    config = small_config((FULL, SLIDING), window=8, context=LONGEST + 100)
    return small_model(msgspec.structs.replace(config, vocab_size=TOKENIZER.vocab_size), seed=11)


class Answer:
    """One answer on its way, and what was asked of it."""

    def __init__(self, seed: int) -> None:
        rng = self._rng = random.Random(seed)
        self.family = FAMILIES[rng.choice(sorted(FAMILIES))]
        self.in_thought, self.must_call = rng.random() < 0.4, rng.random() < 0.7
        options = DecodingOptions(
            SamplingOptions(TEMPERATURE, seed=seed),
            max_tokens=LONGEST,
            stop=STOP,
            draft=rng.choice([0, 0, 6]),
            close_after=rng.choice([0, 10, 20, 40, 80]),
        )
        prompt = [rng.randrange(TOKENIZER.vocab_size) for _ in range(rng.randrange(1, 6))]
        self._asked = 0  # tokens that are still to come of what was asked for
        constraint = start(self.family, self.in_thought, self.must_call)
        self.decoding = Decoding(prompt, random_laguna().new_cache(), options, constraint=constraint, watch=self._watch)

    def _watch(self, token: Token) -> None:
        """Now and then, something hostile, or a call where none has to be; only what the grammar allows."""
        chance = self._rng.random()
        if self._asked:
            self._asked -= 1
            return
        if chance > 0.12:
            return
        text = "<tool_call>" if chance < 0.06 else self._rng.choice(HOSTILE)
        ids, constraint = TOKENIZER.encode(text), self.decoding.constraint
        assert constraint is not None
        if not self.decoding.finished and constraint.accepted_prefix(ids) == len(ids):
            self.decoding.force(ids)
            self._asked = len(ids)

    @property
    def text(self) -> str:
        """What it says, without its stop token."""
        return TOKENIZER.decode(index for index in self.decoding.tokens if index not in STOP)


def answers(count: int, seed: int, at_once: int = 24) -> Iterator[Answer]:
    """So many answers as they end; a new one takes the place of each that has."""
    masks = TokenMasks(TOKENIZER.vocab_size, threads=1)
    coming = iter(range(count))
    going: list[Answer] = []
    while True:
        going += [Answer(seed << 32 | number) for number in itertools.islice(coming, at_once - len(going))]
        if not going:
            return
        step(random_laguna(), [answer.decoding for answer in going], masks=masks)
        yield from (answer for answer in going if answer.decoding.done)
        going = [answer for answer in going if not answer.decoding.done]
