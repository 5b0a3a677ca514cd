"""Prompts that grow: what was read comes again id for id, and a template that breaks this is found out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.laguna.prompt import Prompt, PromptWriter
from laguna_agent.backend.laguna.template import ChatTemplate, Thinking
from laguna_agent.messages import Message, TextBlock, ToolCall, text_message
from tests.laguna.conversations import CONVERSATION, SHELL, template
from tests.laguna.small_tokenizer import TAGS, small_tokenizer

NAMES = ["compact", "newline"]
ON, OFF = Thinking(True), Thinking(False)


def _writer(name: str) -> PromptWriter:
    return PromptWriter(template(name), small_tokenizer())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("thinking", [ON, OFF])
def test_a_turn_that_the_template_spells_as_the_model_did_is_kept(name: str, thinking: Thinking) -> None:
    writer = _writer(name)
    prompt: Prompt | None = None
    for number in (2, 4, 6):
        text = template(name).render(CONVERSATION[:number], (SHELL,), thinking=thinking)
        prompt = writer.write(CONVERSATION[:number], (SHELL,), thinking=thinking, after=prompt)
        assert prompt.ids == tuple(small_tokenizer().encode(text))
        assert prompt.in_thought == bool(thinking.enabled)
        if number < 6:
            longer = template(name).render(CONVERSATION[: number + 1], (SHELL,), thinking=thinking, for_answer=False)
            if not longer.startswith(text):
                # The newline style puts the reasoning back even without thinking; that is no answer to this prompt.
                return
            turn = longer[len(text) : longer.rindex("</assistant>") + len("</assistant>")]
            prompt = prompt.answered(small_tokenizer().encode(turn))
            read = prompt.ids + prompt.answer
            after = writer.write(CONVERSATION[: number + 2], (SHELL,), thinking=thinking, after=prompt)
            assert (after.ids[: len(read)], after.kept, after.changed) == (read, len(read), "")


def test_the_models_own_spelling_is_kept_where_it_reads_the_same() -> None:
    writer = _writer("compact")
    first = writer.write(CONVERSATION[:2], (SHELL,))
    spelled = (
        "Need ls.</think>Let me look.<tool_call>shell\n<arg_key>cmd</arg_key>\n<arg_value>ls -la\n</arg_value>"
        "<arg_key>timeout</arg_key><arg_value> 5 </arg_value>"
        '<arg_key>env</arg_key><arg_value>{"ü":[1,null,"</b>"]}</arg_value></tool_call></assistant>'
    )
    # Token by token of single bytes where it can be: no tokenizer would spell it so.
    single = {bytes([byte]): small_tokenizer().token_bytes.index(bytes([byte])) for byte in range(256)}
    ids = []
    for index in small_tokenizer().encode(spelled):
        text = small_tokenizer().token_bytes[index]
        ids += [index] if index in small_tokenizer().added else [single[bytes([byte])] for byte in text]
    answered = first.answered(ids)
    after = writer.write(CONVERSATION[:4], (SHELL,), after=answered)
    read = answered.ids + answered.answer
    assert after.ids[: len(read)] == read
    assert (after.kept, after.changed) == (len(read), "")
    assert (
        small_tokenizer().decode(after.ids[len(read) :]) == "\n<tool_response>a.py</tool_response>\n<assistant><think>"
    )
    assert after.text == small_tokenizer().decode(after.ids)


def test_an_answer_without_its_stop_token_is_closed() -> None:
    writer = _writer("compact")
    first = writer.write(CONVERSATION[:2], ()).answered(small_tokenizer().encode("a</think> b"))
    said = Message("assistant", (TextBlock("b"),), reasoning="a")
    after = writer.write([*CONVERSATION[:2], said, text_message("user", "so")], (), after=first)
    assert after.kept == len(first.ids + first.answer)
    assert after.text.endswith("a</think> b</assistant>\n<user>so</user>\n<assistant><think>")


def test_an_answer_that_was_changed_is_read_again() -> None:
    writer = _writer("compact")
    first = writer.write(CONVERSATION[:2], (SHELL,)).answered(small_tokenizer().encode("hm</think>No.</assistant>"))
    after = writer.write(CONVERSATION[:4], (SHELL,), after=first)
    assert small_tokenizer().decode(after.ids) == template("compact").render(CONVERSATION[:4], (SHELL,))
    assert (after.kept, after.changed) == (len(first.ids), "")


def test_a_rewind_and_another_conversation_keep_their_common_beginning() -> None:
    writer = _writer("compact")
    long = writer.write(CONVERSATION, (SHELL,))
    short = writer.write(CONVERSATION[:4], (SHELL,), after=long)
    assert short.ids == tuple(small_tokenizer().encode(short.text))
    assert len(short.ids) - short.kept < 40 < short.kept
    assert short.changed == ""
    other = writer.write([text_message("system", "Other.")], (), after=long)
    assert other.ids == tuple(small_tokenizer().encode(other.text))


def test_a_template_that_changes_earlier_text_is_reported() -> None:
    counting = ChatTemplate(
        "〈|EOS|〉{{ messages | length }} messages"
        "{% for m in messages %}<assistant>{{ m.content }}</assistant>{% endfor %}",
        source="counting",
    )
    writer = PromptWriter(counting, small_tokenizer())
    first = writer.write([text_message("user", "a")])
    after = writer.write([text_message("user", "a"), text_message("user", "b")], after=first)
    assert after.changed.startswith("counting: the chat template changes earlier text when a message is appended, at")
    assert after.ids == tuple(small_tokenizer().encode(after.text))
    assert after.kept == 1


def test_reasoning_that_a_template_drops_later_is_reported() -> None:
    writer = _writer("hermes")
    dropped = Thinking(True, preserved=False)
    said = Message("assistant", (TextBlock("yes"),), reasoning="because")
    one, two = text_message("user", "a"), text_message("user", "b")
    first = writer.write([one, said], thinking=dropped)
    assert "because" in first.text
    after = writer.write([one, said, two], thinking=dropped, after=first)
    assert "because" not in after.text
    assert "changes earlier text" in after.changed
    kept = writer.write([one, said, two], after=writer.write([one, said]))
    assert (kept.changed, "because" in kept.text) == ("", True)


WORDS = st.lists(st.sampled_from([*TAGS, "〈|EOS|〉", "a", "\n", " ", "ü", "日本", "1"]), max_size=6).map("".join)
MESSAGES = st.lists(
    st.builds(text_message, st.just("user"), WORDS)
    | st.builds(lambda text: Message("tool", (TextBlock(text),)), WORDS)
    | st.builds(
        lambda text, thought, value: Message(
            "assistant", (TextBlock(text),), (ToolCall("c", "shell", {"cmd": value}),), reasoning=thought
        ),
        WORDS,
        WORDS,
        WORDS,
    ),
    min_size=1,
    max_size=5,
)


@given(MESSAGES, MESSAGES, st.sampled_from(NAMES))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_prompt_after_any_other_has_the_ids_of_the_whole_text(
    one: list[Message], two: list[Message], name: str
) -> None:
    writer = _writer(name)
    first = writer.write(one)
    for messages in (two, [*one, *two]):
        after = writer.write(messages, after=first)
        anew = writer.write(messages)
        assert (after.text, after.ids) == (anew.text, anew.ids)
        assert small_tokenizer().decode(after.ids) == template(name).render(messages)
        assert after.ids[: after.kept] == first.ids[: after.kept]
        assert after.changed == ""


def test_a_thought_in_earlier_text_opens_none() -> None:
    writer = _writer("compact")
    assert not writer.write([text_message("user", "<assistant><think>")], thinking=OFF).in_thought
    assert writer.write([text_message("user", "</think>")], thinking=ON).in_thought
    assert not _writer("hermes").write([text_message("user", "<think>")]).in_thought
