"""Constrained answers: every call parses and validates, prose is free, and a mask is cheap."""

from __future__ import annotations

import functools
import time
from collections import Counter

import jsonschema
import numpy
import pytest
import torch

from laguna_agent.backend.laguna.constraint import ConstraintBroken, GrammarVocabulary, TokenMasks
from laguna_agent.backend.laguna.tokenizer import stop_ids
from laguna_agent.backend.laguna.tool_grammar import tool_grammar
from laguna_agent.errors import UsageError
from laguna_agent.messages import ToolSpec
from tests.laguna.call_oracle import read_whole
from tests.laguna.conversations import SHELL, template
from tests.laguna.random_answers import RandomAnswers, all_tools
from tests.laguna.reading import read
from tests.laguna.small_tokenizer import small_tokenizer

FAMILIES = {name: template(name).family for name in ("compact", "newline", "hermes")}
BATCH = 20


@functools.cache
def _answers() -> RandomAnswers:
    tokenizer = small_tokenizer()
    return RandomAnswers(tokenizer, stop_ids(tokenizer, [2]), all_tools())


@functools.cache
def _vocabulary() -> GrammarVocabulary:
    return _answers().vocabulary


def _generate_and_validate(batches: int, seed: int) -> Counter[str]:
    """Calls by tool; any call that does not parse or validate fails."""
    answers = _answers()
    schemas = {tool.name: jsonschema.Draft202012Validator(tool.parameters) for tool in answers.tools}
    called: Counter[str] = Counter()
    for batch in range(batches):
        pick = numpy.random.default_rng([seed, batch])
        names = [list(FAMILIES)[pick.integers(3)] for _ in range(BATCH)]
        starts = [(FAMILIES[name], bool(pick.integers(2)), bool(pick.integers(2))) for name in names]
        for ids, (family, in_thought, must_call) in zip(
            answers.write(starts, seed * 10_000 + batch), starts, strict=True
        ):
            text = answers.tokenizer.decode(ids)
            found = read([text], answers.tools, in_thought, family.line_tags)
            assert found == read_whole(text, answers.tools, in_thought, family.line_tags), text
            calls = found[2]
            assert calls or not must_call
            for name, arguments in calls:
                assert arguments is not None, text
                errors = list(schemas[name].iter_errors(arguments))
                assert not errors, (text, errors)
            called.update(name for name, _ in calls)
    return called


def test_there_are_thirty_real_schemas() -> None:
    assert len({tool.name for tool in all_tools()}) == len(all_tools()) == 30
    for tool in all_tools():
        jsonschema.Draft202012Validator.check_schema(tool.parameters)


def test_every_constrained_call_parses_and_validates() -> None:
    called = _generate_and_validate(batches=15, seed=1)
    assert sum(called.values()) >= 300


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_constrained_answers_parse_and_validate() -> None:
    called = _generate_and_validate(batches=500, seed=2)
    assert set(called) == {tool.name for tool in all_tools()}
    print(f"{sum(called.values())} calls of {len(called)} tools in 10,000 answers, all valid")


def _step(family: str, text: str, *, in_thought: bool = False, must_call: bool = False) -> tuple[int, int, bool]:
    """(tokens of `text` that the grammar takes, tokens of `text`, whether the answer may end there)."""
    vocabulary = _vocabulary()
    grammar = tool_grammar([SHELL], FAMILIES[family], vocabulary.compiles, in_thought=in_thought, must_call=must_call)
    constraint = vocabulary.follow(grammar.text)
    ids = small_tokenizer().encode(text)
    taken = constraint.accepted_prefix(ids)
    for index in ids[:taken]:
        constraint.accept(index)
    return taken, len(ids), constraint.complete


CALL = "<tool_call>shell<arg_key>cmd</arg_key><arg_value>ls</arg_value></tool_call>"


@pytest.mark.parametrize(
    ("text", "in_thought"),
    [
        ('any prose, <b>tags</b>, </tool_call> and\n{"json": 1}', False),
        ("thinking < free > 日本\n</think>so", True),
        (CALL, False),
        ("a" + CALL + "\n" + CALL + " b", False),
        (
            "<tool_call>shell<arg_key>timeout</arg_key><arg_value>5</arg_value><arg_key>cmd</arg_key>"
            "<arg_value>\n</tool_call></arg_value></tool_call>",
            False,
        ),
    ],
)
def test_what_is_free_and_what_is_right_passes(text: str, in_thought: bool) -> None:
    taken, all_of_it, complete = _step("compact", text, in_thought=in_thought)
    assert (taken, complete) == (all_of_it, True)


@pytest.mark.parametrize(
    ("text", "in_thought"),
    [
        ("<tool_call>nope", False),
        ("<tool_call>shell</tool_call>", False),
        ("<tool_call>shell<arg_key>other", False),
        ("<tool_call>shell<arg_key>timeout</arg_key><arg_value>soon", False),
        (CALL.replace("</tool_call>", "<arg_key>cmd</arg_key>"), False),
        ("thought <tool_call>", True),
    ],
)
def test_what_is_wrong_does_not(text: str, in_thought: bool) -> None:
    taken, all_of_it, _ = _step("compact", text, in_thought=in_thought)
    assert taken < all_of_it


def test_a_thought_must_be_closed_and_a_required_call_made() -> None:
    assert not _step("compact", "thinking", in_thought=True)[2]
    taken, all_of_it, _ = _step("compact", "prose", must_call=True)
    assert taken < all_of_it
    assert _step("compact", "why</think>" + CALL, in_thought=True, must_call=True)[2]


def test_states_are_copied_and_taken_back() -> None:
    vocabulary = _vocabulary()
    grammar = tool_grammar([SHELL], FAMILIES["compact"], vocabulary.compiles, in_thought=False)
    constraint = vocabulary.follow(grammar.text)
    ids = small_tokenizer().encode("<tool_call>shell")
    for index in ids:
        constraint.accept(index)
    other = constraint.copy()
    constraint.roll_back(len(ids))
    assert constraint.complete
    assert not other.complete
    assert small_tokenizer().decode(other.forced()).startswith("<arg_key>")
    with pytest.raises(ConstraintBroken, match="does not fit the tools' grammar"):
        other.accept(small_tokenizer().encode("zebra")[0])


def test_masks_of_a_batch_and_what_no_row_may_say() -> None:
    tokenizer = small_tokenizer()
    vocabulary = GrammarVocabulary(tokenizer, stop_ids(tokenizer, [2]), width=tokenizer.vocab_size + 13)
    grammar = tool_grammar([SHELL], FAMILIES["compact"], vocabulary.compiles, in_thought=True)
    logits = torch.zeros(3, vocabulary.width)
    TokenMasks(vocabulary.width, threads=1).apply(
        logits, [vocabulary.follow(grammar.text), None, vocabulary.follow(grammar.text)]
    )
    allowed = torch.isfinite(logits)
    assert allowed[1].all()
    assert torch.equal(allowed[0], allowed[2])
    forbidden = {0, 1, 2, 3, tokenizer.id_of("</assistant>"), tokenizer.id_of("<tool_call>")}
    assert not allowed[0, tokenizer.vocab_size :].any()
    found = set((~allowed[0, : tokenizer.vocab_size]).nonzero().flatten().tolist())
    assert forbidden <= found
    # What else is out are bytes and tokens that are no part of any UTF-8 text.
    for index in found - forbidden:
        with pytest.raises(UnicodeDecodeError):
            (b"\xe6\x97\xa5"[:0] + tokenizer.token_bytes[index]).decode()


def test_what_llguidance_cannot_express_is_named_and_loose() -> None:
    properties = {
        "a": {"type": "string", "pattern": "^(?!x)"},
        "b": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
        "c": {"not": {"type": "string"}},
        "d": {"type": "integer"},
    }
    tool = ToolSpec("odd", "", {"type": "object", "properties": properties, "required": ["d", "e"]})
    other = ToolSpec("other", "", {"type": "object", "properties": {}, "minProperties": 1})
    found = tool_grammar([tool, other], FAMILIES["compact"], _vocabulary().compiles, in_thought=False)
    assert set(found.loose) == {"odd.a", "odd.b", "odd.c", "odd.e", "other"}
    assert _vocabulary().follow(found.text).complete


def test_a_grammar_that_is_none() -> None:
    with pytest.raises(UsageError, match="the tools' schemas make no usable grammar"):
        _vocabulary().follow("start: nothing_such")


def test_a_mask_is_cheap() -> None:
    """Loose, for a busy machine: on an idle one a mask over 2,000 tokens takes well below 0.1 ms."""
    answers = _answers()
    constraint = answers.start(FAMILIES["compact"], False, True)
    ids = answers.write([(FAMILIES["compact"], False, True)] * 4, 5)
    begun, steps = time.perf_counter(), 0
    for index in max(ids, key=len)[:200]:
        answers.masks.allowed([constraint])
        if not constraint.accepted_prefix([index]):
            break
        constraint.accept(index)
        steps += 1
    assert steps > 20
    assert (time.perf_counter() - begun) / steps < 0.02
