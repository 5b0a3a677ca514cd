"""A recording read as messages: well-formed, valid by the official schema, each request answered once.

Knows JSON-RPC and the schema (which method has which params and result, and on which side); what the messages mean
together is the other modules' business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.acp.official import PINNED, validator

Entry = dict[str, Any]
SIDES = ("client", "agent")
METHOD_NOT_FOUND = -32601
RULES = {
    "wire/json": "every line is one JSON object in UTF-8, ended by a newline",
    "wire/envelope": "a message is a JSON-RPC 2.0 request, notification, result or error, and nothing else",
    "wire/method": "a method is one that the other side has by the protocol, or an extension",
    "wire/schema": "params, results and errors are what the official schema says",
    "wire/id-reused": "a side never uses the id of a request twice",
    "wire/answer-unasked": "an answer belongs to a request that was not answered yet",
    "wire/unanswered": "each request is answered",
}


@dataclass(frozen=True)
class Fault:
    """A broken rule: which, by whom, at which line of the recording (counted from 0)."""

    rule: str
    blame: str
    at: int
    text: str


@dataclass(frozen=True)
class Message:
    """One message. `body` is its params, result or error; an answer has the method and body of its `request`."""

    at: int
    sender: str
    kind: str
    method: str
    body: Any
    id: Any = None
    request: Message | None = None

    def get(self, *path: str) -> Any:
        """The value at `path` inside the body; None where there is none."""
        return dig(self.body, *path)

    def asked(self, *path: str) -> Any:
        """The same inside the params of the request that this answers."""
        return None if self.request is None else self.request.get(*path)

    def is_(self, kind: str, *methods: str) -> bool:
        return self.kind == kind and self.method in methods


def dig(value: Any, *path: str) -> Any:
    """The value at `path` inside nested objects; None where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True)
class Method:
    """What the schema says of a method: the side that handles it, and the names of its types."""

    side: str
    request: str = ""
    result: str = ""
    notification: str = ""


@cache
def methods() -> dict[str, Method]:
    """Every stable method, as the official schema lists them."""
    found: dict[str, dict[str, str]] = {}
    for name, definition in json.loads(PINNED.read_text())["$defs"].items():
        if "x-method" in definition:
            known = found.setdefault(definition["x-method"], {"side": definition["x-side"]})
            role = next(r for r in ("Request", "Response", "Notification") if name.endswith(r))
            known[{"Request": "request", "Response": "result", "Notification": "notification"}[role]] = name
    return {method: Method(**known) for method, known in found.items()}


@cache
def updates() -> tuple[str, ...]:
    """Every stable variant of session/update."""
    variants = json.loads(PINNED.read_text())["$defs"]["SessionUpdate"]["oneOf"]
    return tuple(variant["properties"]["sessionUpdate"]["const"] for variant in variants)


def load(path: Path) -> list[Entry]:
    """The entries of a file that the recorder wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass
class Reader:
    """Reads one recording; `faults` fills up while the messages are read."""

    faults: list[Fault] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._open: dict[str, dict[Any, Message]] = {side: {} for side in SIDES}
        self._used: dict[str, set[Any]] = {side: set() for side in SIDES}
        self._left = False

    def read(self, recording: Sequence[Entry]) -> Iterator[Message]:
        """The messages in order, also those that break a rule, as far as they can be understood."""
        for at, entry in enumerate(recording):
            if "line" in entry:
                message = self._message(at, entry)
                if message is not None:
                    yield message
            elif entry.get("from") == "client" and "end" in entry:
                self._leave()
        if any("unheard" in entry for entry in recording):
            return
        for side in SIDES:
            for request in self._open[side].values():
                self._fault("wire/unanswered", other(side), request.at, f"{request.method} was never answered")

    def _leave(self) -> None:
        """The client hung up: it answers nothing any more, and owes no answer where it left in the middle of a turn."""
        self._left = True
        if self._open["client"]:
            self._open["agent"].clear()

    def _fault(self, rule: str, blame: str, at: int, text: str) -> None:
        self.faults.append(Fault(rule, blame, at, text))

    def _message(self, at: int, entry: Entry) -> Message | None:
        sender, line = entry["from"], entry["line"]
        try:
            value = json.loads(line.encode("utf-8", "surrogateescape").decode())
        except ValueError as error:
            self._fault("wire/json", sender, at, f"{error}: {line[:80]!r}")
            return None
        if not isinstance(value, dict) or entry.get("unterminated"):
            self._fault("wire/json", sender, at, f"no object on a line of its own: {line[:80]!r}")
            return None
        if value.get("jsonrpc") != "2.0" or sorted(value.keys() & {"method", "result", "error"}) not in SHAPES:
            self._fault("wire/envelope", sender, at, f"no message: {line[:80]!r}")
            return None
        return self._asking(at, sender, value) if "method" in value else self._answer(at, sender, value)

    def _asking(self, at: int, sender: str, value: dict[str, Any]) -> Message | None:
        method, params = value["method"], value.get("params", {})
        kind = "request" if "id" in value else "notification"
        if not isinstance(method, str) or not isinstance(params, dict) or not proper_id(value.get("id", 0)):
            self._fault("wire/envelope", sender, at, "the method, the params or the id are of a wrong type")
            return None
        message = Message(at, sender, kind, method, params, value.get("id"))
        known = methods().get(method)
        definition = "" if known is None else known.request if kind == "request" else known.notification
        if known is not None and definition and known.side in {other(sender), "protocol"}:
            self._validate(message, definition)
        elif not method.startswith("_"):
            self._fault("wire/method", sender, at, f"{method} is no {kind} that the {other(sender)} has")
        if kind == "request":
            key = id_key(message.id)
            if key in self._used[sender]:
                self._fault("wire/id-reused", sender, at, f"the id {message.id!r} was used before")
            self._used[sender].add(key)
            if sender == "client" or not self._left:
                self._open[sender][key] = message
        return message

    def _answer(self, at: int, sender: str, value: dict[str, Any]) -> Message | None:
        kind = "error" if "error" in value else "result"
        if "id" not in value or not (proper_id(value["id"]) or (kind == "error" and value["id"] is None)):
            self._fault("wire/envelope", sender, at, "an answer without the id that it answers")
            return None
        request = self._open[other(sender)].pop(id_key(value["id"]), None)
        if request is None:
            if value["id"] is not None:
                self._fault("wire/answer-unasked", sender, at, f"nothing with the id {value['id']!r} waits")
            return None
        message = Message(at, sender, kind, request.method, value[kind], value["id"], request)
        known = methods().get(request.method)
        if kind == "error":
            self._validate(message, "Error")
        elif known is not None and known.result:
            self._validate(message, known.result)
        return message

    def _validate(self, message: Message, definition: str) -> None:
        for problem in problems(definition, json.dumps(message.body)):
            text = f"no valid {definition} of {message.method}: {problem}"
            self._fault("wire/schema", message.sender, message.at, text)


@cache
def problems(definition: str, body: str) -> list[str]:
    """What the official schema finds wrong with some JSON. Remembered: recordings are judged more than once."""
    errors = validator(definition).iter_errors(json.loads(body))
    return [f"{error.message[:300]} at {error.json_path}" for error in errors]


SHAPES = (["method"], ["result"], ["error"])


def other(side: str) -> str:
    return SIDES[1 - SIDES.index(side)]


def proper_id(id: Any) -> bool:
    return isinstance(id, str | int) and not isinstance(id, bool)


def id_key(id: Any) -> str:
    """Tells 1 from "1"."""
    return f"{type(id).__name__}:{id}"
