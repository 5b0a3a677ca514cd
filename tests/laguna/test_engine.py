"""The engine on a small random checkpoint: requests through its own door, tokens counted where they are computed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic

import anyio
import jsonschema
import pytest
import torch

from laguna_agent.backend.base import (
    Delta,
    Finished,
    ProgressDelta,
    ReasoningDelta,
    Request,
    Sampling,
    TextDelta,
    TokenDelta,
    UsageDelta,
)
from laguna_agent.backend.laguna.engine import CHUNK, Engine
from laguna_agent.backend.laguna.in_process import InProcessBackend
from laguna_agent.backend.laguna.local_model import ModelOptions, plan_model
from laguna_agent.errors import ConfigError, ContextTooLong, UsageError
from laguna_agent.messages import Message, ToolSpec, text_message
from tests.laguna.engines import answered, ask, collect, engine_of, scripted
from tests.laguna.whole_checkpoint import whole_checkpoint

READ = ToolSpec(
    "read",
    "Read a file.",
    {"type": "object", "properties": {"path": {"type": "string"}, "line": {"type": "integer"}}, "required": ["path"]},
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return whole_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def engine(checkpoint: Path) -> Iterator[Engine]:
    with engine_of(checkpoint) as engine:
        yield engine


def test_an_answer_comes_as_deltas_and_ends_with_its_usage(engine):
    computed = scripted(engine, lambda _: "The file is short.</assistant>")
    deltas, reply = answered(engine, ask("How long is it?", temperature=0.0))
    assert reply.message.text == "The file is short."
    assert reply.finish == "stop"
    assert isinstance(deltas[-1], Finished)
    assert isinstance(deltas[-2], UsageDelta)
    assert sum(isinstance(delta, TextDelta) for delta in deltas) > 1
    # Every token is computed once: those of the prompt, and those of the answer but the last.
    assert sum(computed) == reply.usage.input_tokens + reply.usage.output_tokens - 1
    assert reply.usage.cached_tokens == 0


def test_the_next_turn_reads_only_what_is_new(engine):
    computed = scripted(engine, lambda before: f"Answer {before.count('<user>')}.</assistant>")
    messages: tuple[Message, ...] = (text_message("system", "Be brief."),)
    held = 0
    for turn in range(1, 6):
        messages += (text_message("user", f"Question {turn}?"),)
        before = sum(computed)
        _, reply = answered(engine, Request("tiny", messages, sampling=Sampling(temperature=0.0)))
        messages += (reply.message,)
        assert reply.message.text == f"Answer {turn}."
        assert reply.usage.cached_tokens == held
        spent = reply.usage.input_tokens + reply.usage.output_tokens
        assert sum(computed) - before == spent - 1 - held
        held = spent - 1


def test_going_back_and_branching_read_only_what_is_new(engine):
    computed = scripted(engine, lambda before: f"Answer {before.count('<user>')} to {before[-60:-20]}</assistant>")
    history: list[tuple[Message, ...]] = [(text_message("system", "Be brief. " * 30),)]
    ends = [0]

    def turn(at: int, text: str) -> int:
        """Ask after turn `at`; returns how many tokens had to be computed for the prompt."""
        request = Request("tiny", (*history[at], text_message("user", text)), sampling=Sampling(temperature=0.0))
        before = sum(computed)
        _, reply = answered(engine, request)
        del history[at + 1 :], ends[at + 1 :]
        history.append((*request.messages, reply.message))
        ends.append(reply.usage.input_tokens + reply.usage.output_tokens - 1)
        assert sum(computed) - before == ends[-1] - reply.usage.cached_tokens
        return reply.usage.cached_tokens

    for number in range(6):
        assert turn(number, f"Question {number}? " * 3) == ends[number]
    # Two turns back, then five back; each takes up exactly where that turn had ended.
    for at in (4, 1):
        end = ends[at]
        # The end of the answer, and what comes between two messages.
        assert end <= turn(at, "Something else instead?") < end + 12
    end = ends[2]
    assert turn(2, "And on from there?") == end


def test_a_call_is_whole_and_valid_whatever_the_weights_say(checkpoint):
    with engine_of(checkpoint) as engine:
        engine.warm().result(30)
        for seed in range(6):
            request = Request(
                "tiny",
                (text_message("user", "Read it."),),
                (READ,),
                Sampling(temperature=1.5, seed=seed, max_tokens=120),
            )
            _, reply = answered(engine, request)
            for call in reply.message.tool_calls:
                # One that was cut off by the limit says so, and cannot run.
                if call.error:
                    assert reply.finish == "length"
                else:
                    assert call.name == "read"
                    jsonschema.validate(call.arguments, READ.parameters)


def test_a_call_stops_for_its_result(engine):
    scripted(
        engine,
        lambda before: (
            "Done.</assistant>"
            if "<tool_response>" in before
            else "I look.<tool_call>read<arg_key>path</arg_key><arg_value>a.py</arg_value></tool_call></assistant>"
        ),
    )
    question = text_message("user", "What is in a.py?")
    _, first = answered(engine, Request("tiny", (question,), (READ,), Sampling(temperature=0.0)))
    assert (first.finish, first.message.text) == ("tool_calls", "I look.")
    (call,) = first.message.tool_calls
    assert (call.name, call.arguments) == ("read", {"path": "a.py"})
    result = Message("tool", text_message("tool", "x = 1").content, tool_call_id=call.id, name="read")
    _, second = answered(engine, Request("tiny", (question, first.message, result), (READ,), Sampling(temperature=0.0)))
    assert second.message.text == "Done."
    assert second.usage.cached_tokens == first.usage.input_tokens + first.usage.output_tokens - 1


def test_an_answer_under_a_schema_is_valid_json(checkpoint):
    schema = {
        "type": "object",
        "properties": {"file": {"enum": ["a.py", "b.py"]}, "sure": {"type": "boolean"}},
        "required": ["file", "sure"],
        "additionalProperties": False,
    }
    with engine_of(checkpoint) as engine:
        for seed in range(4):
            request = Request(
                "tiny",
                (text_message("user", "Which?"),),
                sampling=Sampling(temperature=1.5, seed=seed, max_tokens=200),
                response_schema=schema,
            )
            _, reply = answered(engine, request)
            jsonschema.validate(json.loads(reply.message.text), schema)


def test_a_stop_string_ends_the_answer_before_it_and_is_not_shown(engine):
    scripted(engine, lambda _: "one two STOP three</assistant>")
    _, reply = answered(engine, ask("Count.", temperature=0.0, stop=(" STOP", "never")))
    assert (reply.message.text, reply.finish) == ("one two", "stop")


def test_thought_is_apart_and_a_budget_closes_it(tmp_path):
    with engine_of(whole_checkpoint(tmp_path / "thinks", "newline")) as engine:
        endless = "\n" + "hm " * 400 + "\n</think>\nAnswer.\n</assistant>"

        def answers(before: str) -> str:
            return endless

        scripted(engine, answers, "<assistant>\n<think>")
        request = ask("Why?", temperature=0.0, reasoning_effort="high", reasoning_tokens=20, max_tokens=60)
        deltas, reply = answered(engine, request)
        thought = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
        assert thought.strip().startswith("hm hm")
        # The budget, and the few tokens that close the thought.
        assert 20 <= reply.usage.reasoning_tokens <= 24
        assert "hm" not in reply.message.text


def test_log_probabilities_come_with_every_token(engine):
    request = ask("Say.", temperature=0.0, max_tokens=5, logprobs=3)
    deltas, reply = answered(engine, request)
    tokens = [delta for delta in deltas if isinstance(delta, TokenDelta)]
    assert len(tokens) == reply.usage.output_tokens
    for token in tokens:
        assert len(token.top) == 3
        assert token.top[0][1] == pytest.approx(token.logprob)
        assert token.logprob < 0


def test_seeds_reproduce(engine):
    texts = [
        answered(engine, ask("Go.", temperature=1.0, seed=seed, max_tokens=20))[1].message.text for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_answers_that_are_made_together_are_those_made_alone(engine):
    requests = [ask(f"Question {number}? " * (number + 1), temperature=0.0, max_tokens=12) for number in range(9)]
    alone = [answered(engine, request)[1].message.text for request in requests]
    engine.call(lambda loaded: loaded and loaded.caches.clear()).result(30)

    async def together() -> list[str]:
        texts = [""] * len(requests)

        async def one(index: int) -> None:
            texts[index] = (await collect(InProcessBackend(engine, "tiny"), requests[index]))[1].message.text

        async with anyio.create_task_group() as group:
            for index in range(len(requests)):
                group.start_soon(one, index)
        return texts

    assert anyio.run(together) == alone


def test_reading_a_long_prompt_is_told_and_can_be_cancelled(engine):
    scripted(engine, lambda _: "Yes.</assistant>")
    text = "word and word " * 700

    async def leave() -> int:
        async with aclosing(InProcessBackend(engine, "tiny").stream(ask(text, temperature=0.0))) as stream:
            async for delta in stream:
                assert isinstance(delta, ProgressDelta)
                assert delta.stage == "reading"
                assert 0 < delta.done < delta.total
                return delta.total
        return 0

    total = anyio.run(leave)
    assert total > 4 * CHUNK
    deltas, reply = answered(engine, ask(text, temperature=0.0))
    # What was read before the cancel need not be read again.
    assert 0 < reply.usage.cached_tokens < reply.usage.input_tokens
    stages = [delta.done for delta in deltas if isinstance(delta, ProgressDelta)]
    assert stages == sorted(stages)


def test_a_cancel_ends_the_answer_at_the_next_token(engine):
    scripted(engine, lambda _: "word " * 2000 + "</assistant>")
    seen: list[Delta] = []

    async def leave() -> None:
        async with aclosing(InProcessBackend(engine, "tiny").stream(ask("Go.", temperature=0.0))) as stream:
            async for delta in stream:
                seen.append(delta)
                if len(seen) == 5:
                    return

    anyio.run(leave)
    began = monotonic()
    tokens = engine.call(lambda loaded: len(engine._active)).result(30)
    assert tokens == 0
    assert monotonic() - began < 5


@pytest.mark.parametrize("tokens", [5000])
def test_a_prompt_longer_than_the_context_is_refused_and_nothing_else_is_hurt(engine, tokens):
    scripted(engine, lambda _: "Yes.</assistant>")
    with pytest.raises(ContextTooLong, match=r"the prompt has .* tokens and the context 4096"):
        answered(engine, ask("word " * tokens))
    assert answered(engine, ask("Short.", temperature=0.0))[1].message.text == "Yes."


def test_a_context_longer_than_the_models_is_refused(checkpoint):
    with pytest.raises(ConfigError, match="context_length is 5000, tiny reads at most 4096 tokens"):
        plan_model(ModelOptions(str(checkpoint), "bf16", 5000))


@pytest.mark.parametrize("kv", ["f32", "bf16", "int8", "fp8"])
def test_keys_may_be_kept_in_other_formats(checkpoint, kv):
    engine = Engine(plan_model(ModelOptions(str(checkpoint), "bf16", kv=kv)), threads=1)
    try:
        _, first = answered(engine, ask("Hi.", temperature=0.0, max_tokens=4))
        kept = engine.call(lambda loaded: loaded.caches.take(list(range(9))).shape.format.name).result(30)
        assert (first.usage.output_tokens, kept) == (4, kv)
    finally:
        engine.close(30)


def test_a_wrong_option_is_named(engine):
    with pytest.raises(UsageError, match="top_p is 3"):
        answered(engine, ask("Hi.", top_p=3.0))
