"""Tool calls and the questions about them: https://agentclientprotocol.com/protocol/v1/tool-calls"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar

from tests.acp.conformance.connection import Keeper, update_of
from tests.acp.conformance.recording import Message, dig

FINAL = {"completed", "failed"}
KINDS = {"allow_once", "allow_always", "reject_once", "reject_always"}
RANK = {"pending": 0, "in_progress": 1, "completed": 2, "failed": 2}


class Calls(Keeper):
    """The life of each call, from its announcement to its one end."""

    RULES: ClassVar = {
        "calls/announced": "a tool_call comes before its updates, and only once",
        "calls/final": "a call ends once, never goes back, and nothing changes its status afterwards",
        "calls/ended": "each call of a turn, or of a replay, has ended when the turn or the replay is answered",
        "calls/paths": "paths of diffs and locations are absolute",
        "permission/call": "request_permission is about a call that was announced and has not ended",
        "permission/complete": "the question says what would be done, and offers yes and no, once and always",
        "permission/answer": "the person's answer is one of the options",
        "elicitation/call": "a question of a call's is about one that was announced and has not ended",
        "permission/refused": "a call that was refused is not carried out",
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._calls: dict[str, dict[str, str]] = {}
        self._refused: set[tuple[str, str]] = set()

    def see(self, message: Message) -> None:
        update = update_of(message)
        name = str(message.get("sessionId"))
        if update is not None:
            if update[0] in {"tool_call", "tool_call_update"}:
                self._moved(message, name, update[0], update[1])
        elif message.is_("request", "session/request_permission"):
            self._asked(message, name)
        elif message.is_("request", "elicitation/create") and isinstance(message.get("toolCallId"), str):
            self._must_run("elicitation/call", message, name, message.get("toolCallId"))
        elif message.is_("result", "session/request_permission"):
            self._replied(message)
        elif message.is_("request", "session/load", "session/resume"):
            session = self.connection.session_of(message)
            if session is None or not session.prompts:
                self._calls.pop(name, None)
        elif message.kind == "result" and message.method in {"session/prompt", "session/load"}:
            self._must_have_ended(message)
        elif message.kind == "error" and message.method == "session/prompt":
            session = self.connection.session_of(message)
            if session is not None and len(session.prompts) == 1:
                self._must_have_ended(message)

    def _moved(self, message: Message, session: str, variant: str, call: dict[str, Any]) -> None:
        calls = self._calls.setdefault(session, {})
        id, status = str(call.get("toolCallId")), call.get("status")
        if variant == "tool_call":
            if id in calls:
                self.fault("calls/announced", message, f"{id} was announced before")
            calls[id] = "pending"
        elif id not in calls:
            self.fault("calls/announced", message, f"an update of {id}, which was never announced")
        before = calls.setdefault(id, "pending")
        if isinstance(status, str):
            if before in FINAL or RANK.get(status, 0) < RANK[before]:
                self.fault("calls/final", message, f"{id} was {before} and becomes {status}")
            if (session, id) in self._refused and status not in {"pending", "failed"}:
                self.fault("permission/refused", message, f"{id} was refused and becomes {status}")
            calls[id] = status if status in RANK else before
        for path in paths(call):
            if not PurePosixPath(path).is_absolute():
                self.fault("calls/paths", message, f"{id} names {path!r}")

    def _must_have_ended(self, message: Message) -> None:
        for id, status in self._calls.get(str(message.asked("sessionId")), {}).items():
            if status not in FINAL:
                self.fault("calls/ended", message, f"{message.method} is answered and {id} is still {status}")

    def _must_run(self, rule: str, message: Message, session: str, id: str) -> None:
        status = self._calls.get(session, {}).get(id)
        if status is None or status in FINAL:
            self.fault(rule, message, f"{id} is {status or 'unknown'}")

    def _asked(self, message: Message, session: str) -> None:
        call = message.get("toolCall") or {}
        self._must_run("permission/call", message, session, str(call.get("toolCallId")))
        options = message.get("options") or []
        kinds = {option.get("kind") for option in options}
        told = call.get("title") and call.get("kind") and (call.get("rawInput") or call.get("content"))
        if not told or not kinds >= KINDS:
            self.fault("permission/complete", message, f"too little to decide on: {message.body}")
        if len({option.get("optionId") for option in options}) < len(options):
            self.fault("permission/complete", message, "two options have one id")

    def _replied(self, message: Message) -> None:
        outcome = message.get("outcome") or {}
        options = {option["optionId"]: option["kind"] for option in message.asked("options") or []}
        kind = options.get(outcome.get("optionId"))
        if outcome.get("outcome") == "selected" and kind is None:
            self.fault("permission/answer", message, f"{outcome} was not offered")
        if kind is None or kind.startswith("reject"):
            self._refused.add((str(message.asked("sessionId")), str(message.asked("toolCall", "toolCallId"))))


class Plans(Keeper):
    """https://agentclientprotocol.com/protocol/v1/agent-plan"""

    RULES: ClassVar = {"plan/whole": "a plan update holds the whole plan, not only what changed"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._plans: dict[str, set[str]] = {}

    def see(self, message: Message) -> None:
        update = update_of(message)
        if update is None or update[0] != "plan":
            return
        entries = {str(entry.get("content")) for entry in update[1].get("entries") or []}
        before = self._plans.get(str(message.get("sessionId")), set())
        if entries and entries < before:
            self.fault("plan/whole", message, f"left out: {before - entries}")
        self._plans[str(message.get("sessionId"))] = entries


class Messages(Keeper):
    """Which message a chunk belongs to. `seen` outlives the connection: a resumed session goes on with new ids."""

    RULES: ClassVar = {"messages/id": "a message id is of one message: one kind, one run of chunks, one turn"}

    def __init__(self, *args: Any, seen: dict[str, set[str]]) -> None:
        super().__init__(*args)
        self._seen = seen
        self._current: dict[str, tuple[str, str]] = {}

    def see(self, message: Message) -> None:
        update = update_of(message)
        session = str(message.get("sessionId"))
        if message.is_("request", "session/prompt"):
            self._current.pop(session, None)
        elif message.is_("request", "session/load"):
            self._current.pop(session, None)
            self._seen.pop(session, None)
        elif update is not None and update[0].endswith("message_chunk") | update[0].endswith("thought_chunk"):
            id = update[1].get("messageId")
            if isinstance(id, str) and self._current.get(session) != (update[0], id):
                if id in self._seen.setdefault(session, set()):
                    self.fault("messages/id", message, f"{id} was another message")
                self._seen[session].add(id)
                self._current[session] = (update[0], id)


def paths(call: dict[str, Any]) -> Iterator[str]:
    """The paths that a call or an update of it names."""
    places = list(call.get("locations") or [])
    places += [part for part in call.get("content") or [] if dig(part, "type") == "diff"]
    for place in places:
        if isinstance(dig(place, "path"), str):
            yield place["path"]
