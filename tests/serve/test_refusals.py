"""What cannot be understood or honoured is refused by name; what a backend raises becomes a status."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import pytest

from laguna_agent.backend.base import Delta, Request
from laguna_agent.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextTooLong,
    DoesNotFit,
    ModelNotFound,
    ProviderUnavailable,
    QuotaExceeded,
    UsageError,
    WeightsError,
)
from laguna_agent.serve import delivery
from laguna_agent.serve.chat_request import read_chat_request
from laguna_agent.serve.refusals import Refused
from tests.serve.serving import HELLO, MODEL, Client, Scripted, serving

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.invalid/a.png"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(Scripted()) as made:
        yield made


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def assistant(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", **fields}]}


DATA_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}
PAGE = {"type": "image_url", "image_url": {"url": "data:text/html;base64,QUJD"}}
NAMELESS = {"id": "a", "type": "function", "function": {"arguments": "{}"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    (user(None), "messages[0].content"),
    (user(7), "messages[0].content"),
    (user([{"type": "input_audio", "input_audio": {}}]), "messages[0].content[0].type"),
    (user([{"type": "text"}]), "messages[0].content[0].text"),
    (user([{"type": "text", "text": "look"}, IMAGE]), "messages[0].content[1].image_url.url"),
    (user([DATA_URL]), "messages[0].content[0].image_url.url"),
    (user([PAGE]), "messages[0].content[0].image_url.url"),
    (assistant(content="x", function_call={"name": "f", "arguments": "{}"}), "messages[1].function_call"),
    (assistant(tool_calls=[{"id": "a", "type": "custom", "function": {}}]), "messages[1].tool_calls[0].type"),
    (assistant(tool_calls=[NAMELESS]), "messages[1].tool_calls[0].function.name"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"n": 2}, "n"),
    ({"n": True}, "n"),
    ({"logit_bias": {"50256": -100}}, "logit_bias"),
    ({"parallel_tool_calls": False}, "parallel_tool_calls"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"store": True}, "store"),
    ({"made_up": 1}, "made_up"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"frequency_penalty": 3}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
    ({"seed": 2**70}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", 1]}, "stop[1]"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"reasoning_effort": "huge"}, "reasoning_effort"),
    ({"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}}, "reasoning_effort"),
    ({"reasoning": {"effort": "low", "enabled": False}}, "reasoning"),
    ({"chat_template_kwargs": {"documents": []}}, "chat_template_kwargs"),
    ({"response_format": {"type": "grammar"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format.json_schema.schema"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": []}, "stream_options"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=[f"{n}-{param}" for n, (_, param) in enumerate(REFUSED)])
def test_a_refusal_names_the_field(client: Client, fields: dict[str, Any], param: str) -> None:
    status, body = client.ask(HELLO | fields)
    assert status == 400
    assert body["error"]["param"] == param
    assert body["error"]["type"] == "invalid_request_error"
    message = body["error"]["message"]
    assert "\n" not in message
    assert param in message or "image" in message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"temperature": NaN}', "not valid JSON"),
        (b'{"temperature": 1e999}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests deeper"),
        (b'{"a":' + b"[" * 150 + b"]" * 150 + b"}", "nests deeper"),
        (b'{"a":' + b'{"a":' * 500 + b"1" + b"}" * 501, "nests deeper"),
    ],
)
def test_a_body_that_is_no_json_object(client: Client, body: bytes, said: str) -> None:
    status, answer = client.ask(body)
    assert (status, answer["error"]["code"]) == (400, "invalid_json")
    assert said in answer["error"]["message"]


def test_what_asks_for_nothing_is_passed_over() -> None:
    idle = {
        "n": 1,
        "logit_bias": {},
        "parallel_tool_calls": True,
        "store": False,
        "modalities": ["text"],
        "audio": None,
    }
    idle |= {"user": "me", "metadata": {"a": "b"}, "made_up": None, "tool_choice": "auto", "verbosity": "medium"}
    assert read_chat_request(json.dumps(HELLO | idle).encode()) == read_chat_request(json.dumps(HELLO).encode())


def read(**fields: Any) -> Request:
    return read_chat_request(json.dumps(HELLO | fields).encode()).request


def test_other_spellings_mean_the_same() -> None:
    assert read(stop="a").sampling.stop == ("a",)
    assert read(top_k=-1).sampling.top_k == 0
    assert read(max_tokens=5, max_completion_tokens=7).sampling.max_tokens == 7
    assert read(logprobs=True).sampling.logprobs == 0
    assert read(logprobs=False, seed=None).sampling.logprobs is None
    assert read(reasoning_effort="none").sampling.reasoning_effort == "off"
    assert read(chat_template_kwargs={"enable_thinking": True}).sampling.reasoning_effort == "high"
    assert read(reasoning={"enabled": True}).sampling.reasoning_effort == "medium"
    assert read(reasoning={"enabled": True, "max_tokens": 9}).sampling.reasoning_tokens == 9
    assert read(response_format={"type": "json_object"}).response_schema == {"type": "object"}
    assert read(response_format={"type": "text"}).response_schema is None
    wrapped = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}
    assert read(response_format=wrapped).response_schema == SCHEMA
    tool = {"type": "function", "function": {"name": "f", "strict": True}}
    assert read(tools=[tool]).tools[0].parameters == {"type": "object", "properties": {}}
    assert read(tools=[tool], tool_choice="none").tools == ()


def test_messages_of_other_servers_and_clients() -> None:
    def only(message: dict[str, Any]) -> Any:
        return read(messages=[message]).messages[0]

    assert only({"role": "developer", "content": [{"type": "text", "text": "Be brief."}]}).role == "system"
    echoed = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "tool_calls": None,
    }
    assert only(echoed).content == ()
    assert only({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}).text == "No."
    assert only({"role": "assistant", "content": "a", "thinking": "hm"}).reasoning == "hm"
    call = {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}}
    assert only({"role": "assistant", "tool_calls": [call]}).tool_calls[0].arguments == {"x": 1}
    broken = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": '}}
    made = only({"role": "assistant", "tool_calls": [broken]}).tool_calls[0]
    assert made.raw == '{"x": '
    assert made.error


def test_a_name_that_is_not_served(client: Client) -> None:
    status, body = client.ask(HELLO | {"model": "gpt-9"})
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")
    assert MODEL in body["error"]["message"]
    assert client.ask(None, "/v1/models/gpt-9")[0] == 404
    assert client.ask(None, f"/v1/models/{MODEL}")[1]["id"] == MODEL


def test_paths_and_methods_that_are_not_there(client: Client) -> None:
    status, body = client.ask({"prompt": "x"}, "/v1/completions")
    assert status == 404
    assert "/v1/chat/completions" in body["error"]["message"]
    assert client.ask({}, "/v1/embeddings")[0] == 404
    assert client.ask({}, "/v1/models")[0] == 405
    assert client.ask(None, "/v1/chat/completions")[0] == 405
    assert client.ask(None, "/")[0] == 404


def test_a_body_beyond_the_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BODY_BYTES", 1000)
    status, body = client.ask(b" " * 2000)
    assert (status, body["error"]["type"]) == (413, "invalid_request_error")
    response = client.open(HELLO | {"user": "x" * 2000})
    assert response.status == 413
    assert client.ask()[0] == 200


def test_a_packed_body(client: Client) -> None:
    assert client.ask(b"x", Content_Encoding="gzip")[0] == 415


def test_a_body_that_does_not_come(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "BODY_SECONDS", 0.2)
    assert client.ask(b"{", Content_Length="50")[0] == 408


ERRORS: list[tuple[Exception, int, str | None, bool]] = [
    (ContextTooLong("9000 tokens do not fit 4096"), 400, "context_length_exceeded", False),
    (BadRequest("no"), 400, None, False),
    (UsageError("a schema that no grammar can say"), 400, None, False),
    (ModelNotFound("gone"), 404, "model_not_found", False),
    (QuotaExceeded("slow down", retryable=True, retry_after=7.0), 429, "rate_limit_exceeded", True),
    (QuotaExceeded("spent"), 429, "insufficient_quota", False),
    (AuthenticationFailed("the key is refused"), 502, "provider_refuses_key", False),
    (ProviderUnavailable("gave up"), 502, "provider_unavailable", False),
    (ProviderUnavailable("busy", retryable=True), 503, "provider_unavailable", True),
    (DoesNotFit("needs 24 GB"), 507, "model_unusable", False),
    (WeightsError("a tensor is cut"), 507, "model_unusable", False),
    (Refused("no", status=418), 418, None, False),
    (ZeroDivisionError("a secret"), 500, "internal_error", False),
]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("error", "status", "code", "retry"), ERRORS, ids=lambda each: type(each).__name__)
def test_an_error_before_the_first_byte_is_a_status(
    error: Exception, status: int, code: str | None, retry: bool, streamed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail(_: Request) -> AsyncGenerator[Delta]:
        raise error
        yield

    with serving(Scripted(fail)) as client, client.open(HELLO | {"stream": streamed}) as response:
        said = json.loads(response.read())["error"]
        assert (response.status, said["code"]) == (status, code)
        assert response.headers["x-should-retry"] == ("true" if retry else "false")
        assert response.headers["retry-after"] == ("7" if status == 429 and retry else None)
    assert ("a secret" in said["message"]) is False
    if status == 500:
        assert "crashes" in capfd.readouterr().err
    else:
        assert str(error) in said["message"]
