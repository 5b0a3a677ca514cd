"""Constrained answers: every call parses and validates, prose is free, and a mask is cheap."""

from __future__ import annotations

import time
from collections import Counter

import jsonschema
import pytest
import torch

from laguna_agent.backend.laguna.constraint import ConstraintBroken, GrammarVocabulary, TokenMasks
from laguna_agent.backend.laguna.tokenizer import Detokenizer
from laguna_agent.backend.laguna.tool_grammar import tool_grammar
from laguna_agent.errors import UsageError
from laguna_agent.messages import ToolCall, ToolSpec
from laguna_agent.tools.registry import default_registry
from tests.laguna.call_oracle import read_whole
from tests.laguna.constrained_answers import FAMILIES, STOP, TOKENIZER, VOCABULARY, Answer, all_tools, answers, start
from tests.laguna.conversations import SHELL
from tests.laguna.reading import read

CHECKS = {tool.name: jsonschema.Draft202012Validator(tool.parameters) for tool in all_tools()}
OWN = {tool.name for tool in default_registry().specs()}


def _checked(answer: Answer) -> list[str]:
    """The names of the answer's calls; one that does not parse or validate fails."""
    assert answer.decoding.failed is None
    text, padded = answer.text, answer.family.line_tags
    stream = Detokenizer(TOKENIZER)
    pieces = [stream.feed(index) for index in answer.decoding.tokens if index not in STOP]
    found = read([*pieces, stream.finish()], all_tools(), answer.in_thought, padded)
    assert found == read_whole(text, list(all_tools()), answer.in_thought, padded), text
    calls = found[2]
    assert calls or not answer.must_call, text
    for name, arguments in calls:
        assert arguments is not None, text
        assert not list(CHECKS[name].iter_errors(arguments)), text
        if name in OWN:
            default_registry().decode(ToolCall("1", name, arguments))
    return [name for name, _ in calls]


def _generate(count: int, seed: int) -> tuple[Counter[str], int]:
    """(calls by tool, answers that were cut before their end) of so many answers."""
    called: Counter[str] = Counter()
    cut = made = 0
    for answer in answers(count, seed):
        made += 1
        if answer.decoding.finished == "stop":
            called.update(_checked(answer))
        else:
            assert answer.decoding.failed is None, answer.text
            cut += 1
    assert made == count
    return called, cut


def test_there_are_thirty_real_schemas() -> None:
    assert len({tool.name for tool in all_tools()}) == len(all_tools()) == 30
    for tool in all_tools():
        jsonschema.Draft202012Validator.check_schema(tool.parameters)


def test_every_answer_of_a_random_model_is_whole_and_right() -> None:
    called, cut = _generate(40, seed=1)
    assert cut == 0
    assert sum(called.values()) >= 24


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_answers_of_a_random_model_are_whole_and_right() -> None:
    begun = time.monotonic()
    called, cut = _generate(10_000, seed=2)
    seconds = time.monotonic() - begun
    print(f"{sum(called.values()):,} calls of {len(called)} tools in 10,000 answers, all valid; {cut} answers cut")
    print(f"fewest calls: {called.most_common()[-1]}; {seconds:.0f} s")
    assert cut == 0
    assert set(called) == {tool.name for tool in all_tools()}


def _step(family: str, text: str, *, in_thought: bool = False, must_call: bool = False) -> tuple[int, int, bool]:
    """(tokens of `text` that the grammar takes, tokens of `text`, whether the answer may end there)."""
    grammar = tool_grammar([SHELL], FAMILIES[family], VOCABULARY.compiles, in_thought=in_thought, must_call=must_call)
    constraint = VOCABULARY.follow(grammar.text)
    ids = TOKENIZER.encode(text)
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
    grammar = tool_grammar([SHELL], FAMILIES["compact"], VOCABULARY.compiles, in_thought=False)
    constraint = VOCABULARY.follow(grammar.text)
    ids = TOKENIZER.encode("<tool_call>shell")
    for index in ids:
        constraint.accept(index)
    other = constraint.copy()
    constraint.roll_back(len(ids))
    assert constraint.complete
    assert not other.complete
    assert TOKENIZER.decode(other.forced()).startswith("<arg_key>")
    with pytest.raises(ConstraintBroken, match="does not fit the tools' grammar"):
        other.accept(TOKENIZER.encode("zebra")[0])


def test_masks_of_a_batch_and_what_no_row_may_say() -> None:
    tokenizer = TOKENIZER
    wide = GrammarVocabulary(tokenizer, STOP, width=tokenizer.vocab_size + 13)
    grammar = tool_grammar([SHELL], FAMILIES["compact"], wide.compiles, in_thought=True)
    logits = torch.zeros(3, wide.width)
    TokenMasks(wide.width, threads=1).apply(logits, [wide.follow(grammar.text), None, wide.follow(grammar.text)])
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
    found = tool_grammar([tool, other], FAMILIES["compact"], VOCABULARY.compiles, in_thought=False)
    assert set(found.loose) == {"odd.a", "odd.b", "odd.c", "odd.e", "other"}
    assert VOCABULARY.follow(found.text).complete


def test_a_grammar_that_is_none() -> None:
    with pytest.raises(UsageError, match="the tools' schemas make no usable grammar"):
        VOCABULARY.follow("start: nothing_such")


def test_a_mask_is_cheap() -> None:
    """Loose, for a busy machine: on an idle one a mask over 2,000 tokens takes well below 0.1 ms."""
    answer = max(answers(6, seed=5), key=lambda answer: len(answer.decoding.tokens))
    constraint = start(answer.family, answer.in_thought, answer.must_call)
    masks = TokenMasks(VOCABULARY.width, threads=1)
    begun = time.perf_counter()
    ids = answer.decoding.tokens[:200]
    for index in ids:
        masks.allowed([constraint])
        constraint.accept(index)
    assert len(ids) > 20
    assert (time.perf_counter() - begun) / len(ids) < 0.02
