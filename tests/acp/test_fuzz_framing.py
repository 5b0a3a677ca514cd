"""Bytes of every kind, cut anywhere: each line gets what it deserves, and the connection stays or ends cleanly."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acp.client import Client, face, fuzz
from tests.acp.samples import junk, texts
from tests.model_server import ModelServer

PARSE_ERROR = -32700
HELLO = {"method": "initialize", "params": {"protocolVersion": 1, "_meta": {"padding": "é☃" * 3}}}
LIST = {"method": "session/list", "params": {}}
UNKNOWN = {"method": "_none", "params": None}
REFUSED = {"method": "session/prompt", "params": {"sessionId": "nobody", "prompt": []}}

ids = st.integers(-(2**70), 2**70) | texts | st.floats(-3, 3) | st.none()
requests = st.builds(
    lambda id, method: {"jsonrpc": "2.0", "id": id, **method}, ids, st.sampled_from([HELLO, LIST, UNKNOWN, REFUSED])
)
notifications = st.sampled_from(["session/cancel", "$/cancel_request", "$/unknown", "session/prompt"]).map(
    lambda method: {"jsonrpc": "2.0", "method": method, "params": {"sessionId": "nobody", "requestId": 1}}
)
messages = (requests | notifications | junk).map(json.dumps).map(str.encode)
oddities = st.sampled_from(
    [
        b"",
        b" \t ",
        b"\x00",
        b"\xff\xfe{}",
        b"\xc3\x28",
        b'{"jsonrpc":"2.0","id":1,"method":"\xed\xa0\x80"}',
        b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
        b"[" * 20_000,
        b'{"a":' * 20_000,
        b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"initialize"}',
        b'{"jsonrpc":"2.0","id":1e999,"method":"initialize"}',
        b'{"jsonrpc":"2.0","id":NaN,"method":"initialize"}',
        b"'single'",
        b"{" + b"x" * 200_000,
        b"Content-Length: 52",
        b'[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":1}}]',
    ]
)
lines = messages | oddities | st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"\r"))
framed = st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\n\n", b" \n"])), max_size=8)


def note(client: Client, line: bytes) -> None:
    """Tell the books of a line that is about to be sent."""
    if not line.strip():
        return
    try:
        message = json.loads(line.decode("utf-8-sig"), parse_constant=refuse, parse_float=finite)
        json.dumps(message, ensure_ascii=False).encode()  # raises for half a surrogate pair, which Python would take
    except (ValueError, RecursionError):
        client.books.faults.append(PARSE_ERROR)
        return
    client.books.sent(message)


def refuse(constant: str) -> Any:
    raise ValueError(constant)


def finite(number: str) -> float:
    if float(number) in {float("inf"), float("-inf")}:
        raise ValueError(number)
    return float(number)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cases", [40, pytest.param(700, marks=pytest.mark.slow)])
def test_framing(cases: int, workspace: Path, model_server: ModelServer) -> None:
    @fuzz(cases)
    @given(framed=framed, cuts=st.lists(st.integers(0, 2000), max_size=6), partial=lines, length=st.integers(0, 300))
    def check(framed: list[tuple[bytes, bytes]], cuts: list[int], partial: bytes, length: int) -> None:
        with face(workspace, model_server) as client:
            for line, _ in framed:
                note(client, line)
            data = b"".join(line + end for line, end in framed)
            edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
            for begin, end in pairwise(edges):
                client.raw(data[begin:end])
            client.settle()
            note(client, partial[:length])
            client.raw(partial[:length])
            client.hang_up()
            assert not client.books.faults

    check()
