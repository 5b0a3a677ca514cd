"""Whatever is posted: a refusal in one line or an answer, and the server goes on."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.serve.chat_request import _FIELDS, read_chat_request
from laguna_agent.serve.refusals import Refused
from tests.serve.serving import HELLO, MODEL, TOKEN, Client, Scripted, serving, wait_until

NAMES = sorted(
    {*_FIELDS, "n", "audio", "role", "content", "type", "text", "function", "name", "arguments", "image_url"}
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "assistant", "tool", "system", "text", "function", "json_schema", "none", "auto"])
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner),
    max_leaves=20,
)
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FULL: dict[str, Any] = {
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_details": [{"text": "t"}]},
        {"role": "tool", "tool_call_id": "a", "content": "c"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [TOOL],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
    "temperature": 0.5,
    "stop": ["a"],
    "logprobs": True,
    "top_logprobs": 2,
    "reasoning": {"effort": "low"},
    "chat_template_kwargs": {"enable_thinking": True},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


PLACES = [path for path in places(FULL) if path]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    copy = json.loads(json.dumps(value))
    at = copy
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return copy


def is_read_or_refused(body: bytes) -> None:
    try:
        read_chat_request(body)
    except Refused as refused:
        assert refused.status == 400
        assert "\n" not in str(refused)
        assert len(str(refused)) < 1000


@settings(max_examples=80)
@given(anything)
def test_any_json(value: Any) -> None:
    is_read_or_refused(json.dumps(value).encode())
    if isinstance(value, dict):
        is_read_or_refused(json.dumps(HELLO | value).encode())


@settings(max_examples=150)
@given(st.sampled_from(PLACES), anything)
def test_a_whole_request_with_one_place_gone_wrong(path: tuple[Any, ...], value: Any) -> None:
    read_chat_request(json.dumps(FULL).encode())
    is_read_or_refused(json.dumps(replaced(FULL, path, value)).encode())


@given(st.binary(max_size=60), st.integers(0, 500), st.integers(0, 40))
def test_bytes_that_are_broken_anywhere(noise: bytes, at: int, gone: int) -> None:
    whole = json.dumps(FULL).encode()
    is_read_or_refused(whole[:at] + noise + whole[at + gone :])


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with serving(Scripted()) as made:
        yield made


@settings(max_examples=100)
@given(st.sampled_from(PLACES), anything)
def test_over_http_every_request_gets_json(client: Client, path: tuple[Any, ...], value: Any) -> None:
    body = replaced(FULL, path, value) | {"stream": False}
    status, answer = client.ask(json.dumps(body).encode())
    assert status in {200, 400, 404}
    assert ("error" in answer) == (status != 200)


HEAD = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
LINES = [
    b"Content-Length: 5\r\n",
    b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Host: evil\r\n",
    b"Content-Encoding: br\r\n",
    b"Authorization: Bearer \xff\xfe\r\n",
    b"\x00: \x01\r\n",
    b"\r\n",
]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(LINES), max_size=5), st.binary(max_size=80), st.booleans())
def test_whatever_comes_as_http_the_server_goes_on(
    client: Client, lines: list[bytes], body: bytes, proper: bool
) -> None:
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as line:
        line.sendall((HEAD if proper else b"") + b"".join(lines) + b"\r\n" + body)
    assert client.ask(None, "/health")[0] == 200


def test_nothing_is_left_running_after_all_that(client: Client) -> None:
    assert client.ask()[0] == 200
    wait_until(lambda: client.desk.busy == 0)
