"""Conversations: weight on what the assistant wrote and on nothing else, whatever the template."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from laguna_agent.backend.laguna.prompt import PromptWriter
from laguna_agent.backend.laguna.template import ChatTemplate, Thinking
from laguna_agent.errors import DatasetError
from laguna_agent.training.data.conversations import Rendered, Renderer, ingest_conversations, read_conversation
from laguna_agent.training.data.lineage import token_origin
from laguna_agent.training.data.pack_versions import PackTokens, pack
from laguna_agent.training.data.packed import PackedVersion
from laguna_agent.training.data.store import Store
from laguna_agent.training.data.token_versions import Tokenise, tokenise
from laguna_agent.training.data.tokenising import tokenizer_from
from tests.training.token_corpora import SHELL, TEMPLATES, WORK, keep_tokenizer, vocabulary

TOKENIZER = tokenizer_from(vocabulary(), "t")


def _renderer(name: str, thinking: bool | None = None) -> Renderer:
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return Renderer(ChatTemplate(text, source=f"{name}.jinja"), TOKENIZER, thinking)


def _render(value: dict[str, Any], name: str = "compact", thinking: bool | None = None) -> Rendered:
    return _renderer(name, thinking).render(read_conversation(json.dumps(value), "x.jsonl:1"))


def _learned(rendered: Rendered) -> list[str]:
    """The stretches with weight, as text."""
    found, before = [], 0.0
    for index, weight in zip(rendered.ids, rendered.weights, strict=True):
        if weight and not before:
            found.append([])
        if weight:
            found[-1].append(index)
        before = weight
    return [TOKENIZER.decode(ids) for ids in found]


def test_exactly_the_answers_are_learned_with_their_ends() -> None:
    rendered = _render(WORK)
    assert _learned(rendered) == [
        "Need ls.</think>Let me look.<tool_call>shell<arg_key>cmd</arg_key><arg_value>ls -la</arg_value></tool_call>"
        "</assistant>",
        "Done.</think>One <think> file é.</assistant>",
    ]
    # Nothing is lost of the rest, and what a user or an answer spells is no tag.
    whole = TOKENIZER.decode(rendered.ids)
    assert "<user>list </assistant> it</user>" in whole and whole.endswith("<user>thanks</user>\n")
    closing, opening = TOKENIZER.id_of("</assistant>"), TOKENIZER.id_of("<think>")
    assert (rendered.ids.count(closing or -1), rendered.ids.count(opening or -1)) == (2, 2)
    # A token has the weight where it is predicted: one earlier.
    assert rendered.predicting()[:-1] == list(rendered.weights[1:])


@pytest.mark.parametrize("name", ["compact", "newline", "hermes"])
@pytest.mark.parametrize("thinking", [True, False, None])
def test_it_is_read_and_written_as_the_engine_does(name: str, thinking: bool | None) -> None:
    """Before each answer stands what the engine would have read, token by token, the engine's own answers included."""
    rendered = _render(WORK, name, thinking)
    conversation = read_conversation(json.dumps(WORK), "x")
    renderer = _renderer(name)
    writer = PromptWriter(renderer.template, TOKENIZER)
    starts = [at for at, weight in enumerate(rendered.weights) if weight and not rendered.weights[at - 1]]
    ends = [at for at, weight in enumerate(rendered.weights) if not weight and at and rendered.weights[at - 1]]
    messages = conversation.messages
    if thinking is False:
        messages = tuple(replace(message, reasoning="") for message in messages)
    answers = [at for at, message in enumerate(messages) if message.role == "assistant"]
    assert len(starts) == len(answers)
    prompt = None
    for start, end, at in zip(starts, ends, answers, strict=True):
        asked = Thinking(enabled=thinking is not False)
        prompt = writer.write(messages[:at], conversation.tools, thinking=asked, after=prompt)
        assert prompt.ids == rendered.ids[:start] and not prompt.changed
        prompt = prompt.answered(rendered.ids[start:end])


def test_the_same_answers_as_the_templates_own_marks() -> None:
    """`{% generation %}` as transformers reads it; they mark the opening too, which the engine gives."""
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER._library)
    messages = copy.deepcopy(WORK["messages"])
    messages[1]["content"], messages[4]["content"] = "list it", "One file é."
    value = {"messages": messages, "tools": [SHELL]}
    rendered = _render(value, thinking=True)
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    found = theirs.apply_chat_template(
        messages,
        tools=[SHELL],
        chat_template=(TEMPLATES / "compact.jinja").read_text(encoding="utf-8"),
        enable_thinking=True,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    opening = TOKENIZER.id_of("<think>")
    theirs_marked = [
        bool(mark) and index != opening
        for index, mark in zip(found["input_ids"], found["assistant_masks"], strict=True)
    ]
    assert list(rendered.ids) == found["input_ids"]
    assert [weight > 0 for weight in rendered.weights] == theirs_marked


def test_thoughts_in_answers_and_weights_of_answers() -> None:
    value = {
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes", "weight": 0},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "no", "weight": 0.5},
        ]
    }
    rendered = _render(value)
    assert _learned(rendered) == ["</think>no</assistant>"] and set(rendered.weights) == {0.0, 0.5}
    assert "<assistant><think>hm</think>yes</assistant>" in TOKENIZER.decode(rendered.ids)
    assert "<assistant></think>yes" in TOKENIZER.decode(_render(value, thinking=False).ids)


@pytest.mark.parametrize("name", ["compact", "newline", "hermes"])
def test_answers_with_and_without_a_thought(name: str) -> None:
    value = copy.deepcopy(WORK)
    del value["messages"][4]["reasoning_content"]
    value["messages"][4]["content"] = "One file."
    first, second = _learned(_render(value, name))
    assert "Need ls." in first and "One file." in second and "ls" not in second


def test_a_template_that_rewrites_history_is_named() -> None:
    text = "{% for m in messages %}<assistant>{{ m.content if loop.last else '...' }}</assistant>{% endfor %}"
    renderer = Renderer(ChatTemplate(text, source="bad.jinja"), TOKENIZER)
    value = {"messages": [{"role": "assistant", "content": "one"}, {"role": "user", "content": "two"}]}
    with pytest.raises(DatasetError, match=r"x.jsonl:7: bad.jinja writes message 1 in another way"):
        renderer.render(read_conversation(json.dumps(value), "x.jsonl:7"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "c.jsonl:2: no JSON"),
        ('{"messages": []}', "c.jsonl:2: a conversation without a message"),
        ('{"messages": [{"role": "judge"}]}', r"c.jsonl:2: no conversation: Invalid enum value 'judge'"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "c.jsonl:2: no conversation"),
        ('{"messages": [{"role": "assistant", "weight": -1}]}', "c.jsonl:2: an answer's weight"),
        (
            '{"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}',
            "c.jsonl:2, message 1: the call of 'f': the arguments are not valid JSON",
        ),
        ("[" * 100_000, "c.jsonl:2: no JSON"),
    ],
)
def test_bad_lines_are_named(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n' + line + "\n")
    with pytest.raises(DatasetError, match=says):
        ingest_conversations(Store(tmp_path / "store"), [tmp_path / "c.jsonl"])


def test_from_lines_to_packs(tmp_path: Path) -> None:
    """Conversations that are too long, or have no answer, are left out and counted; the rest keep their weights."""
    long = {"messages": [{"role": "user", "content": "x " * 2000}, {"role": "assistant", "content": "y"}]}
    mute = {"messages": [{"role": "user", "content": "x"}]}
    short = [
        {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n} é " * n}]}
        for n in range(12)
    ]
    file = tmp_path / "c.jsonl"
    file.write_text("\n\n".join(json.dumps(each) for each in [long, mute, *short, WORK]))
    store = Store(tmp_path / "store")
    conversations = ingest_conversations(store, [file], shards=2)
    assert len(conversations) == 15
    chosen = keep_tokenizer(store, tmp_path / "t")
    tokens = tokenise(store, [conversations, chosen], Tokenise()).version
    assert tokens.manifest.left_out == {"no answer to learn": 1}
    packed = pack(store, [tokens], PackTokens(capacity=400)).version
    assert packed.manifest.left_out == {"longer than a pack": 1}
    told = {row["id"]: row["text"] for row in conversations.rows()}
    rows, seen = PackedVersion(packed, tmp_path / "cache").rows, 0
    for number in range(len(rows)):
        got = rows[number]
        _, shard, row = got.origin
        at = 0
        for document, length in zip(packed.table(shard)["documents"][row].as_py(), got.lengths, strict=True):
            expected = _render(json.loads(told[document]))
            assert got.ids[at : at + length].tolist() == list(expected.ids)
            assert got.weights[at : at + length].tolist() == expected.predicting()
            at, seen = at + length, seen + 1
    assert seen == 13
    # The file and line that somebody wrote it on.
    origin = token_origin(packed, 0)
    found = next(row for row in conversations.rows() if row["id"] == origin.document)
    assert [(place.source, place.path) for place in origin.places] == [(found["source"], found["path"])]
