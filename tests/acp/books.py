"""The books of a fuzzing client: what it sent, what it may expect for it, and whether what came was right."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from tests.acp.official import require_valid
from tests.acp.samples import QUESTIONS, RESPONSES, UPDATES

Message = dict[str, Any]
UNKNOWN, INVALID_REQUEST, INVALID_PARAMS, CANCELLED = -32601, -32600, -32602, -32800
ERRORS: dict[str, set[int]] = {
    "initialize": set(),
    "authenticate": {-32602, -32000},
    "logout": {-32602},
    "session/new": {-32602, -32000},
    "session/load": {-32602, -32002, -32600, -32000},
    "session/resume": {-32602, -32002, -32600, -32000},
    "session/list": {-32602},
    "session/delete": set(),
    "session/close": {-32002},
    "session/set_mode": {-32602, -32002},
    "session/set_config_option": {-32602, -32002},
    "session/prompt": {-32602, -32002, -32600, -32000},
}
"""What a request whose params are of the right types may be answered with, beside its result."""
UNSTABLE = {"session/fork", "session/set_title"}
"""Their answers are not in the stable schema."""


def key(id: Any) -> str:
    """Tells ids apart as JSON does."""
    number = int(id) if isinstance(id, float) and id.is_integer() else id
    return f"{type(number).__name__} {number}"


def deserved(message: Any) -> int | None:
    """The error for which a message is answered without an id, by JSON-RPC; None for all other messages."""
    if not isinstance(message, dict):
        return INVALID_REQUEST
    if "id" not in message:
        return None if isinstance(message.get("method"), str) else INVALID_REQUEST
    if is_answer(message):
        return None
    return INVALID_REQUEST if isinstance(message["id"], bool | list | dict) else None


def is_answer(message: Message) -> bool:
    return "method" not in message and "id" in message and bool({"result", "error"} & set(message))


@dataclass
class Asked:
    """A request on its way. `errors` are the codes that it may be answered with; `ends` those of its own choice."""

    method: Any
    params: Any
    errors: set[int]
    cancelled: bool = False


@dataclass
class Books:
    """Everything that was sent and came. Each line that comes is held against them by `received`."""

    asked: dict[str, list[Asked]] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    questions: dict[str, Message] = field(default_factory=dict)
    open: list[Message] = field(default_factory=list)
    seen: list[Message] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)

    def sent(self, message: Any, errors: set[int] | None = None) -> None:
        """Note a message; `errors` instead of those that are usual for its method."""
        fault = deserved(message)
        if fault is not None:
            self.faults.append(fault)
        elif is_answer(message):
            self.questions.pop(key(message["id"]), None)
        elif "id" in message:
            self._requested(message, errors)
        elif message["method"] == "$/cancel_request" and isinstance(message.get("params"), dict):
            for asked in self.asked.get(key(message["params"].get("requestId", "\0")), ()):
                asked.cancelled = True
                asked.errors.add(CANCELLED)

    def _requested(self, message: Message, errors: set[int] | None) -> None:
        method = message.get("method")
        twins = self.asked.setdefault(key(message["id"]), [])
        if not isinstance(method, str) or message.get("jsonrpc") != "2.0":
            errors = {INVALID_REQUEST}
        elif errors is None:
            errors = set(ERRORS.get(method, {UNKNOWN}))
        twins.append(Asked(method, message.get("params"), errors | ({INVALID_REQUEST} if twins else set())))

    def received(self, line: bytes) -> Message:
        """Judge a line and note it; AssertionError where it is wrong."""
        message = json.loads(line)
        assert isinstance(message, dict), line
        assert message.get("jsonrpc") == "2.0", line
        assert not set(message) - {"jsonrpc", "id", "method", "params", "result", "error"}, line
        self.seen.append(message)
        if "method" in message:
            self._called(message)
        elif "error" in message:
            assert "result" not in message, line
            self._refused(message)
        else:
            self._answered(message)
        return message

    def _called(self, message: Message) -> None:
        method, params = message["method"], message["params"]
        if "id" in message:
            require_valid(params, QUESTIONS[method])
            self.questions[key(message["id"])] = message
            self.open.append(message)
            return
        require_valid(params, UPDATES[method])
        if method == "$/cancel_request":
            self.questions.pop(key(params["requestId"]), None)
        elif method == "session/update":
            named = [asked.params.get("sessionId") for each in self.asked.values() for asked in each if loads(asked)]
            assert params["sessionId"] in [*self.sessions, *named], f"an update of an unknown session: {message}"

    def _refused(self, message: Message) -> None:
        require_valid(message["error"], "Error")
        code, text = message["error"]["code"], message["error"]["message"]
        assert "stderr has the details" not in text, message
        assert "internal error:" not in text, message
        if message["id"] is None and code in self.faults:
            self.faults.remove(code)
            return
        twins = self.asked.get(key(message["id"]), [])
        fitting = [asked for asked in twins if code in asked.errors]
        assert fitting, (message, twins)
        self._settled(message, fitting[-1])

    def _answered(self, message: Message) -> None:
        twins = self.asked[key(message["id"])]
        asked = twins[0]
        assert asked.method in {*RESPONSES, *UNSTABLE}, (message, asked)
        if asked.method in RESPONSES:
            require_valid(message["result"], RESPONSES[asked.method])
        if asked.method == "session/new":
            self.sessions.add(message["result"]["sessionId"])
        elif loads(asked):
            self.sessions.add(asked.params["sessionId"])
        self._settled(message, asked)

    def _settled(self, message: Message, asked: Asked) -> None:
        twins = self.asked[key(message["id"])]
        twins.remove(asked)
        if not twins:
            del self.asked[key(message["id"])]


def loads(asked: Asked) -> bool:
    return asked.method in {"session/load", "session/resume"} and isinstance(asked.params, dict)
