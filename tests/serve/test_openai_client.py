"""The client that most programs bring: OpenAI's own Python package, through our server to a scripted one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from laguna_agent.backend.openai_http import OpenAIBackend
from laguna_agent.backend.retry import RetryPolicy
from tests.model_server import MODEL as UPSTREAM
from tests.model_server import ModelServer, cut, http, reasoning, stream, text, tool_call
from tests.serve.serving import MODEL, TOKEN, serving

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
]
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "read", "description": "Reads.", "parameters": {"type": "object", "properties": {}}},
}
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 8},
}


@contextmanager
def chain(model_server: ModelServer) -> Iterator[openai.OpenAI]:
    """A client of our server, whose backend asks the scripted one."""
    policy = RetryPolicy(budget=0.2, first=0.01, longest=0.05)
    with (
        serving(OpenAIBackend("upstream", model_server.url, "key", policy=policy)) as server,
        openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=TOKEN, max_retries=1) as client,
    ):
        yield client


def test_a_completion(model_server: ModelServer) -> None:
    model_server.reply(stream(reasoning("hm"), text("Hello"), tool_call("read", {"path": "é"}), usage=USAGE))
    with chain(model_server) as client:
        made = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[TOOL], temperature=0.5, stop=["END"], max_completion_tokens=99
        )
    choice = made.choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Hello", "tool_calls")
    assert choice.message.model_extra == {"reasoning_content": "hm"}
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("read", '{"path": "\\u00e9"}')
    assert made.usage is not None
    assert (made.usage.total_tokens, made.model) == (120, MODEL)
    assert made.usage.prompt_tokens_details is not None
    assert made.usage.prompt_tokens_details.cached_tokens == 64
    assert made.usage.completion_tokens_details is not None
    assert made.usage.completion_tokens_details.reasoning_tokens == 8
    (asked,) = model_server.chats
    assert (asked["temperature"], asked["stop"], asked["max_tokens"]) == (0.5, ["END"], 99)
    assert asked["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert asked["tools"][0]["function"]["name"] == "read"


def test_a_stream_put_together_by_the_client_itself(model_server: ModelServer) -> None:
    model_server.reply(
        stream(reasoning("hm"), text("Hello"), tool_call("read", {"path": "a"}), tool_call("read", {}), usage=USAGE)
    )
    with chain(model_server) as client:
        options = {"include_usage": True}
        with client.chat.completions.stream(
            model=MODEL,
            messages=MESSAGES,
            tools=[TOOL],
            stream_options=options,  # type: ignore[arg-type]
        ) as answer:
            kinds = {event.type for event in answer}
            made = answer.get_final_completion()
    assert {"content.delta", "tool_calls.function.arguments.delta"} <= kinds
    message = made.choices[0].message
    assert message.content == "Hello"
    assert message.tool_calls is not None
    assert [call.function.arguments for call in message.tool_calls] == ['{"path": "a"}', "{}"]
    assert len({call.id for call in message.tool_calls}) == 2
    assert made.usage is not None
    assert made.usage.prompt_tokens == 100


def test_the_answers_of_the_client_go_back(model_server: ModelServer) -> None:
    model_server.reply(tool_call("read", {"path": "a"}, id="call_9"), text("Done"))
    with chain(model_server) as client:
        made = client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL])
        echo = made.choices[0].message.model_dump()  # every field, the null ones too
        result = {"role": "tool", "tool_call_id": "call_9", "content": "x"}
        again = client.chat.completions.create(model=MODEL, messages=[*MESSAGES, echo, result], tools=[TOOL])  # type: ignore[list-item]
    assert again.choices[0].message.content == "Done"
    call, answer = model_server.chats[1]["messages"][-2:]
    assert call["tool_calls"][0]["id"] == answer["tool_call_id"] == "call_9"


def test_models(model_server: ModelServer) -> None:
    with chain(model_server) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve(MODEL).id == MODEL
    assert UPSTREAM != MODEL


def test_errors_are_the_clients_own(model_server: ModelServer) -> None:
    long = http(400, {"error": {"message": "maximum context length is 4096 tokens", "code": "context_length_exceeded"}})
    model_server.reply(long)
    with chain(model_server) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2)
        assert (refused.value.param, refused.value.code) == ("n", "unsupported_value")
        assert not model_server.chats
        with pytest.raises(openai.BadRequestError) as too_long:
            client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert too_long.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="gpt-9", messages=MESSAGES)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model=MODEL, prompt="x")


def test_an_error_in_the_middle_of_a_stream(model_server: ModelServer) -> None:
    model_server.always(stream(text("half"), cut()))
    with chain(model_server) as client:
        said = ""
        with pytest.raises(openai.APIError) as broken:
            for chunk in client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True):
                said += chunk.choices[0].delta.content or ""
    assert said == "half"
    assert "broke off" in broken.value.message


def test_a_schema_for_the_answer(model_server: ModelServer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    model_server.reply(text('{"a": 1}'))
    with chain(model_server) as client:
        made = client.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
            reasoning_effort="low",
            seed=7,
            logprobs=True,
            top_logprobs=3,
        )
    assert made.choices[0].message.content == '{"a": 1}'
    (asked,) = model_server.chats
    assert asked["response_format"]["json_schema"]["schema"] == schema
    assert (asked["reasoning_effort"], asked["seed"], asked["top_logprobs"]) == ("low", 7, 3)
