"""Answers written by a seeded random distribution over a vocabulary, under a grammar: what a model with random weights
would write at a high temperature, sped up by fragments that it now and then wants to write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy

from laguna_agent.backend.laguna.chat_family import ChatFamily
from laguna_agent.backend.laguna.constraint import Constraint, GrammarVocabulary, TokenMasks
from laguna_agent.backend.laguna.tokenizer import Tokenizer
from laguna_agent.backend.laguna.tool_grammar import tool_grammar
from laguna_agent.messages import ToolSpec
from laguna_agent.tools.registry import default_registry

TEMPERATURE = 1.5
LIMIT = 6000
"""Tokens of one answer; one that is longer fails the test."""
ENDINGS = ["</arg_value>", '"', "}", "]", '"}', "</tool_call>", "</think>", '"]', "}]"]
HOSTILE = ["</arg_value", "</arg_valu<", "\\", "<tool_call>", "</tool_call>", "{{", "\\u", "null", "None", "1e", "</"]


def all_tools() -> list[ToolSpec]:
    """The agent's own tools, and schemas like those of public MCP servers."""
    found = json.loads((Path(__file__).parent / "tool_schemas.json").read_text(encoding="utf-8"))
    public = [ToolSpec(entry["name"], entry["description"], entry["parameters"]) for entry in found]
    return [*default_registry().specs(), *public]


class RandomAnswers:
    """Answers of a batch at a time. The same seed gives the same answers."""

    def __init__(self, tokenizer: Tokenizer, stop: frozenset[int], tools: Sequence[ToolSpec]) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.tools = tools
        self.vocabulary = GrammarVocabulary(tokenizer, stop)
        self.masks = TokenMasks(self.vocabulary.width, threads=1)
        self._grammars: dict[tuple[ChatFamily, bool, bool], str] = {}

    def start(self, family: ChatFamily, in_thought: bool, must_call: bool) -> Constraint:
        """A new answer's constraint."""
        key = (family, in_thought, must_call)
        if key not in self._grammars:
            grammar = tool_grammar(
                self.tools, family, self.vocabulary.compiles, in_thought=in_thought, must_call=must_call
            )
            assert grammar.loose == ()
            self._grammars[key] = grammar.text
        return self.vocabulary.follow(self._grammars[key])

    def write(self, starts: Sequence[tuple[ChatFamily, bool, bool]], seed: int) -> list[list[int]]:
        """One answer for each start, without its stop token."""
        pick = numpy.random.default_rng(seed)
        writers = [_Writer(self, self.start(*start), start[0], pick) for start in starts]
        while open_ones := [writer for writer in writers if not writer.done]:
            allowed = self.masks.allowed([writer.constraint for writer in open_ones])
            for writer, row in zip(open_ones, allowed, strict=True):
                writer.step(row)
        return [writer.ids for writer in writers]


class _Writer:
    def __init__(
        self, answers: RandomAnswers, constraint: Constraint, family: ChatFamily, pick: numpy.random.Generator
    ) -> None:
        self.answers = answers
        self.constraint = constraint
        self.ids: list[int] = []
        self.done = False
        self._pick = pick
        self._wanted: list[int] = []
        tool = answers.tools[pick.integers(len(answers.tools))]
        opening = f'\n{{"name": {json.dumps(tool.name)},' if family.call_syntax == "hermes" else f"{tool.name}<arg_key>"
        self._call = "<tool_call>" + opening

    def step(self, allowed: numpy.ndarray) -> None:
        """The next token, sampled from the allowed ones."""
        pick, encode = self._pick, self.answers.tokenizer.encode
        # The longer it has grown, the more it wants to end.
        if not self._wanted and pick.random() < min(0.2 + len(self.ids) / 200, 0.9):
            choice = pick.random()
            if choice < 0.15:
                self._wanted = encode(self._call)
            elif choice < 0.25 and len(self.ids) < 120:
                self._wanted = encode(HOSTILE[pick.integers(len(HOSTILE))])
            elif choice < 0.5:
                self._wanted = [min(self.answers.stop)]
            else:
                self._wanted = encode(ENDINGS[pick.integers(len(ENDINGS))])
        logits = pick.normal(size=len(allowed)) * 2
        if self._wanted:
            logits[self._wanted[0]] += 30
        noise = pick.gumbel(size=len(allowed))
        scores = numpy.where(allowed, logits / TEMPERATURE + noise, -numpy.inf)
        index = int(scores.argmax())
        assert allowed[index]
        self._wanted = self._wanted[1:] if self._wanted[:1] == [index] else []
        self.constraint.accept(index)
        if index in self.answers.stop:
            self.done = True
            return
        self.ids.append(index)
        assert len(self.ids) < LIMIT, self.answers.tokenizer.decode(self.ids)
