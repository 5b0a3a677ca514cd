"""The JSON-RPC peer on a real socket: nothing that comes in ends the connection, and every fault has its error."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from laguna_agent.acp.encoding import encode
from laguna_agent.acp.peer import MAX_IN_FLIGHT
from tests.acp.wire import Service, Wire, connected

Connection = tuple[Wire, Service]


@pytest.fixture
def connection() -> Iterator[Connection]:
    with connected() as pair:
        yield pair


@pytest.fixture(scope="module")
def shared() -> Iterator[Connection]:
    """One connection for a whole fuzz run: that it survives is the point."""
    with connected() as pair:
        yield pair


def codes(messages: list[dict[str, Any]]) -> list[tuple[int, Any]]:
    return [(message["error"]["code"], message["id"]) for message in messages]


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(scalars | texts, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3))
ids = st.integers(-9, 9) | texts | st.none() | st.floats(-3, 3) | st.booleans() | st.just([1]) | st.just({})
params = st.fixed_dictionaries({}, optional={"value": values, "_meta": values}) | values
messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | st.sampled_from(["1.0", 2, None]),
        "id": ids,
        "method": st.sampled_from(["echo", "hook", "release", "nothing", "$/cancel_request"]) | values,
        "params": params,
        "result": values,
        "error": values,
    },
)
proper = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "id": ids, "method": st.sampled_from(["echo", "hook", "nothing", "release"])},
    optional={"params": params, "result": values},
)


def expected(message: Any) -> list[tuple[int, Any]]:
    """The errors that a message deserves, by the specification; none for silence and for a result."""
    if not isinstance(message, dict):
        return [(-32600, None)]
    if "id" not in message and isinstance(message.get("method"), str):
        return []
    if "method" not in message and "id" in message and ("result" in message or "error" in message):
        return []
    if "id" not in message or isinstance(message["id"], bool | list | dict):
        return [(-32600, None)]
    if message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        return [(-32600, message["id"])]
    if message["method"] not in {"echo", "hook"}:
        return [(-32601, message["id"])]
    if not isinstance(message.get("params", {}), dict | None):
        return [(-32602, message["id"])]
    return []


@settings(max_examples=400)
@given(message=messages | proper | values)
def test_any_json_gets_what_it_deserves(shared: Connection, message: Any) -> None:
    wire, _ = shared
    wire.send(message)
    got = wire.until_alive()
    assert codes([m for m in got if "error" in m]) == expected(message)
    results = [m["id"] for m in got if "result" in m]
    is_request = isinstance(message, dict) and "id" in message and "method" in message
    assert results == ([message["id"]] if is_request and not expected(message) else [])


@settings(max_examples=200)
@given(line=st.binary(max_size=60))
@example(line=b"\xff\xfe")
@example(line=b"[" * 100_000)
@example(line=b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"echo"}')
@example(line=b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}')
@example(line=b"\xef\xbb\xbf{}")
@example(line=b"   \r")
def test_any_bytes_leave_the_connection_alive(shared: Connection, line: bytes) -> None:
    wire, _ = shared
    wire.raw(line.replace(b"\n", b" ") + b"\n")
    got = wire.until_alive()
    assert all(code in {-32700, -32600} for code, _ in codes(got)), got
    assert len(got) == (1 if line.strip() else 0)


@settings(max_examples=40)
@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_framing_does_not_depend_on_how_bytes_arrive(shared: Connection, cuts: list[int]) -> None:
    wire, _ = shared
    lines = [{"jsonrpc": "2.0", "id": n, "method": "echo", "params": {"value": "é☃" * n}} for n in range(6)]
    data = "\r\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode() + b"\n"
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for begin, end in pairwise(edges):
        wire.raw(data[begin:end])
    assert [m["result"]["value"] for m in wire.until_alive()] == ["é☃" * n for n in range(6)]


def test_a_line_of_16_megabytes_is_answered(connection: Connection) -> None:
    wire, _ = connection
    wire.call(1, "echo", "x" * 16_000_000)
    assert len(wire.read()["result"]["value"]) == 16_000_000


def test_a_line_beyond_the_limit_is_refused_and_the_next_one_read(connection: Connection) -> None:
    wire, _ = connection
    for _ in range(66):
        wire.raw(b"x" * (1 << 20))
    wire.raw(b"\n")
    assert codes(wire.until_alive()) == [(-32700, None)]


def test_ids_come_back_as_they_were_and_kinds_do_not_clash(connection: Connection) -> None:
    wire, _ = connection
    sent = [1, "1", 1.5, None, "", 2**63, -1]
    for id in sent:
        wire.call(id, "wait", id)
    wire.send({"jsonrpc": "2.0", "method": "release"})
    got = [wire.read() for _ in sent]
    assert [(m["id"], m["result"]["value"]) for m in got] == [(id, id) for id in sent]


def test_numbers_that_are_equal_are_one_id(connection: Connection) -> None:
    """JSON knows one kind of number, and some clients write 1 as 1.0."""
    wire, _ = connection
    wire.call(1, "wait")
    wire.call(1.0, "echo")
    assert codes([wire.read()]) == [(-32600, 1.0)]
    wire.send({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": 1.0}})
    assert codes([wire.read()]) == [(-32800, 1)]
    question = ask(wire)
    wire.send({"jsonrpc": "2.0", "id": float(question["id"]), "result": {"colour": "red"}})
    assert wire.read()["result"] == {"value": "red"}


def test_an_error_does_not_send_everything_back(connection: Connection) -> None:
    wire, _ = connection
    wire.call(1, "x" * 1_000_000)
    answer = wire.read()
    assert answer["error"]["code"] == -32601
    assert len(json.dumps(answer)) < 4000


@pytest.mark.parametrize("method", ["hook", "release"])
def test_nesting_of_any_depth(connection: Connection, method: str) -> None:
    wire, _ = connection
    for depth in (*range(900, 1010), 10_000):
        nest = "[" * depth + "]" * depth
        id = "" if method == "release" else '"id":1,'
        wire.raw(f'{{"jsonrpc":"2.0",{id}"method":"{method}","params":{{"value":{nest}}}}}\n'.encode())
        for message in wire.until_alive():
            code = message.get("error", {}).get("code")
            assert code in ({-32700} if method == "release" else {None, -32700, -32602}), depth


def test_a_byte_order_mark_is_no_fault(connection: Connection) -> None:
    wire, _ = connection
    wire.raw(b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"echo"}\r\n')
    assert wire.read()["id"] == 1


def test_an_id_in_use_is_refused_and_its_owner_still_answered(connection: Connection) -> None:
    wire, _ = connection
    wire.call(1, "wait", "owner")
    wire.call(1, "echo", "second")
    assert codes([wire.read()]) == [(-32600, 1)]
    wire.send({"jsonrpc": "2.0", "method": "release"})
    assert wire.read()["result"] == {"value": "owner"}
    wire.call(1, "echo", "again")
    assert wire.read()["result"] == {"value": "again"}


def test_a_request_beyond_the_bound_is_refused_at_once(connection: Connection) -> None:
    wire, _ = connection
    for id in range(MAX_IN_FLIGHT):
        wire.call(id, "wait")
    wire.call("one more", "echo")
    assert codes([wire.read()]) == [(-32603, "one more")]
    wire.send({"jsonrpc": "2.0", "method": "release"})
    assert {wire.read()["id"] for _ in range(MAX_IN_FLIGHT)} == set(range(MAX_IN_FLIGHT))


def test_a_storm_of_notifications_passes(connection: Connection) -> None:
    wire, _ = connection
    for method in ("nothing", "release", "$/cancel_request", "$/unknown"):
        wire.raw(b'{"jsonrpc":"2.0","method":"%s","params":{"requestId":[]}}\n' % method.encode() * 3000)
    assert wire.until_alive() == []


def test_a_bug_in_a_handler_costs_its_request_only(connection: Connection) -> None:
    wire, _ = connection
    wire.call(1, "bug")
    answer = wire.read()
    assert answer["error"]["code"] == -32603
    assert "secret" not in json.dumps(answer)
    wire.send({"jsonrpc": "2.0", "method": "release", "params": {"value": "bug"}})
    wire.call(2, "bug", "refuse")
    assert wire.read()["error"] == {"code": -32000, "message": "refused", "data": {"why": "test"}}


def test_a_bug_in_a_hook_costs_nothing(connection: Connection) -> None:
    wire, _ = connection
    wire.call(1, "bad_hook")
    assert wire.read()["result"] == {"value": "first"}
    assert wire.until_alive() == []


def test_a_stray_cancellation_costs_its_request_only(connection: Connection) -> None:
    wire, _ = connection
    wire.call(1, "stray")
    assert codes([wire.read()]) == [(-32603, 1)]


def test_what_a_hook_sends_follows_the_answer(connection: Connection) -> None:
    wire, _ = connection
    for id in range(50):
        wire.call(id, "hook")
    got = [wire.read() for _ in range(100)]
    answers = [m["id"] for m in got if "id" in m]
    assert answers == list(range(50))
    for position, message in enumerate(got):
        before = got[: position + 1]
        assert sum(m.get("method") == "after" for m in before) <= sum("result" in m for m in before), message


def test_cancel_request_ends_the_work(connection: Connection) -> None:
    wire, service = connection
    wire.call(7, "wait")
    for unknown in (8, "7", None):
        wire.send({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": unknown}})
    assert wire.until_alive() == []
    wire.send({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": 7}})
    assert codes([wire.read()]) == [(-32800, 7)]
    assert service.outcomes == ["cancelled"]


def test_cancel_request_in_the_same_breath(connection: Connection) -> None:
    wire, _ = connection
    call = {"jsonrpc": "2.0", "id": 1, "method": "wait"}
    cancel = {"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": 1}}
    wire.raw(json.dumps(call).encode() + b"\n" + json.dumps(cancel).encode() + b"\n")
    assert codes([wire.read()]) == [(-32800, 1)]


def test_a_handler_may_answer_a_cancelled_request_itself(connection: Connection) -> None:
    wire, _ = connection
    wire.call(1, "polite")
    wire.send({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": 1}})
    assert wire.read()["result"] == {"value": "ended politely"}


def ask(wire: Wire) -> dict[str, Any]:
    """Have the service ask its client something; the question."""
    wire.call(1, "ask", "?")
    question = wire.read()
    assert question["method"] == "colour"
    return question


def test_the_peer_asks_and_gets_its_answer(connection: Connection) -> None:
    wire, _ = connection
    question = ask(wire)
    for foreign in (999, str(question["id"]), None, [], True):
        wire.send({"jsonrpc": "2.0", "id": foreign, "result": {"colour": "wrong"}})
    wire.send({"jsonrpc": "2.0", "id": question["id"], "result": {"colour": "red", "_meta": {"colour": "FORGED"}}})
    wire.send({"jsonrpc": "2.0", "id": question["id"], "result": {"colour": "late"}})
    assert wire.read()["result"] == {"value": "red"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"error": {"code": -32601, "message": "no such method"}}, -32601),
        ({"error": "not an object"}, -32603),
        ({"error": {"code": "x"}}, -32603),
        ({"error": {"code": True}}, -32603),
        ({"error": {"code": 2**31}}, -32603),
        ({"result": None}, -32602),
        ({"result": {"colour": 5}}, -32602),
    ],
)
def test_an_error_for_an_answer(connection: Connection, answer: dict[str, Any], code: int) -> None:
    wire, _ = connection
    question = ask(wire)
    wire.send({"jsonrpc": "2.0", "id": question["id"], **answer})
    assert codes([wire.read()]) == [(code, 1)]


def test_a_question_that_lost_its_reason_is_cancelled(connection: Connection) -> None:
    wire, _ = connection
    question = ask(wire)
    wire.send({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": 1}})
    got = [wire.read(), wire.read()]
    assert {"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": question["id"]}} in got
    assert codes([m for m in got if "error" in m]) == [(-32800, 1)]
    wire.send({"jsonrpc": "2.0", "id": question["id"], "result": {"colour": "late"}})
    assert wire.until_alive() == []


def test_a_client_that_does_not_read_stops_the_flood(connection: Connection) -> None:
    wire, service = connection
    count = 20_000
    wire.call(1, "flood", count)
    last = -1
    while last != service.sent:
        last = service.sent
        time.sleep(0.3)
    assert 0 < last < count / 2
    for number in range(count):
        assert wire.read()["params"]["value"]["number"] == number
    assert wire.read()["result"] == {}


def test_eof_ends_the_work_and_answers_what_can_be_answered() -> None:
    with connected() as (wire, service):
        wire.call(1, "echo", "still answered")
        wire.raw(b'{"jsonrpc":"2.0","id":2,"method":"echo"}')
        wire.socket.shutdown(1)
        assert [wire.read()["id"], wire.read()["id"]] == [1, 2]
    assert service.outcomes == ["closed"]


def test_eof_does_not_wait_for_work_that_will_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laguna_agent.acp.peer.CLOSE_GRACE", 0.2)
    with connected() as (wire, service):
        wire.call(1, "wait")
        wire.call(2, "ask")
        assert wire.read()["method"] == "colour"
        wire.socket.shutdown(1)
        assert codes([wire.read()]) == [(-32603, 2)]
    assert service.outcomes == ["closed", "cancelled"]


def test_a_client_that_dies_in_the_middle_of_a_flood_ends_the_peer() -> None:
    with connected() as (wire, service):
        wire.call(1, "flood", 100_000)
        wire.read()
    assert service.outcomes == ["closed"]


def test_text_that_is_not_unicode_is_sent_with_replacements() -> None:
    line = encode({"path": ("caf\udce9", {"\udce9": ["\udce9", 1, None]})})
    assert json.loads(line) == {"path": ["caf?", {"?": ["?", 1, None]}]}
