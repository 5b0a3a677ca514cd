"""Interleavings: what a client in a hurry may send, in writes of several messages, to several sessions at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.acp.books import Message
from tests.acp.client import REPLIES, Client
from tests.acp.samples import junk

ANSWERS: dict[str, Message] = {
    "allow": {"result": {"outcome": {"outcome": "selected", "optionId": "allow"}}},
    "always": {"result": {"outcome": {"outcome": "selected", "optionId": "always"}}},
    "reject": {"result": {"outcome": {"outcome": "selected", "optionId": "reject"}}},
    "never": {"result": {"outcome": {"outcome": "selected", "optionId": "never"}}},
    "cancelled": {"result": {"outcome": {"outcome": "cancelled"}}},
    "foreign option": {"result": {"outcome": {"outcome": "selected", "optionId": "other"}}},
    "malformed": {"result": {"outcome": 5}},
    "nothing": {"result": None},
    "error": {"error": {"code": -32601, "message": "no"}},
    "bad error": {"error": 3},
    "text": {"result": {"content": "old\n"}},
    "terminal": {"result": {"terminalId": "t1", "output": "", "truncated": False, "exitCode": 0}},
}
sessions = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("prompt"), sessions, st.sampled_from(["", *REPLIES])),
    st.tuples(st.just("prompt"), sessions, st.sampled_from(["write", "shell", "two", "hang"])),
    st.tuples(st.just("cancel"), sessions),
    st.tuples(st.just("withdraw"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["close", "delete", "load", "resume"]), sessions),
    st.tuples(st.just("mode"), sessions, st.sampled_from(["ask", "plan", "all", "edits"])),
    st.tuples(st.sampled_from(["new", "list", "ping"])),
    st.tuples(st.just("answer"), st.integers(0, 2), st.sampled_from(sorted(ANSWERS))),
    st.tuples(st.just("stray_answer"), st.integers(-1, 99) | junk, st.sampled_from(sorted(ANSWERS))),
)
# Each batch goes out in one write; then the client reads for so many milliseconds.
batches = st.lists(st.tuples(st.lists(steps, min_size=1, max_size=5), st.sampled_from([0, 0, 5, 40, 150])), max_size=5)
endings = st.sampled_from(["settle", "settle", "hang up", "vanish"])


class Race:
    """Turns steps into messages, and knows what may come of them."""

    def __init__(self, client: Client, capable: bool) -> None:
        self.client = client
        able = {"fs": {"readTextFile": True, "writeTextFile": True}, "terminal": True, "elicitation": {"form": {}}}
        client.call("initialize", {"protocolVersion": 1, "clientCapabilities": able if capable else {}}, set())
        self.ids = [client.new_session(), client.new_session()]
        self.gone: set[str] = set()
        self.deleted: set[str] = set()
        self.requests: list[int] = []

    def run(self, batches: list[tuple[list[Any], int]], ending: str) -> None:
        """Play the batches, then the end."""
        for batch, milliseconds in batches:
            for name, *args in batch:
                getattr(self, name)(*args)
            self.client.flush()
            self.client.rest(milliseconds / 1000)
        if ending == "vanish":
            return
        if ending == "settle":
            self.client.settle()
            self.usable()
        self.client.hang_up()

    def usable(self) -> None:
        """A session that is open, or opened again, takes a prompt; one that was deleted is gone."""
        for id in self.ids:
            where = {"sessionId": id, "cwd": str(self.client.workspace), "mcpServers": []}
            answer = self.client.call("session/load", where, {-32002} if id in self.deleted else set())
            if "result" in answer:
                words = [{"type": "text", "text": "Hello"}]
                answer = self.client.call("session/prompt", {"sessionId": id, "prompt": words}, set())
                assert answer["result"] == {"stopReason": "end_turn"}

    def ask(self, method: str, params: Message, errors: set[int]) -> None:
        self.requests.append(self.client.request(method, params, errors))

    def prompt(self, at: int, word: str) -> None:
        id = self.ids[at]
        busy = any(
            asked.method in {"session/prompt", "session/load", "session/resume"} and asked.params["sessionId"] == id
            for twins in self.client.books.asked.values()
            for asked in twins
        )
        errors = ({-32600} if busy else set()) | ({-32002} if id in self.gone else set())
        errors |= {-32000} if word == "denied" else set()
        self.ask("session/prompt", {"sessionId": id, "prompt": [{"type": "text", "text": f"[{word}]"}]}, errors)

    def cancel(self, at: int) -> None:
        self.client.notify("session/cancel", {"sessionId": self.ids[at]})

    def withdraw(self, back: int) -> None:
        """Cancel one of the last requests, answered or not."""
        if back < len(self.requests):
            self.client.notify("$/cancel_request", {"requestId": self.requests[-1 - back]})

    def close(self, at: int) -> None:
        self.ask("session/close", {"sessionId": self.ids[at]}, {-32002} if self.ids[at] in self.gone else set())
        self.gone.add(self.ids[at])

    def delete(self, at: int) -> None:
        self.gone.add(self.ids[at])
        self.deleted.add(self.ids[at])
        self.ask("session/delete", {"sessionId": self.ids[at]}, set())

    def load(self, at: int, method: str = "session/load") -> None:
        params = {"sessionId": self.ids[at], "cwd": str(self.client.workspace), "mcpServers": []}
        # A session that is being opened is for a moment neither here nor there, and one with a turn is refused.
        self.gone.add(self.ids[at])
        self.ask(method, params, {-32600, -32002})

    def resume(self, at: int) -> None:
        self.load(at, "session/resume")

    def mode(self, at: int, mode: str) -> None:
        errors = {-32002} if self.ids[at] in self.gone else set()
        self.ask("session/set_mode", {"sessionId": self.ids[at], "modeId": mode}, errors)

    def new(self) -> None:
        self.ask("session/new", {"cwd": str(self.client.workspace), "mcpServers": []}, set())

    def list(self) -> None:
        self.ask("session/list", {}, set())

    def ping(self) -> None:
        self.ask("_ping", {}, {-32601})

    def answer(self, back: int, kind: str) -> None:
        """To a question of any age, so that it may be late or the second one."""
        if back < len(self.client.books.open):
            self.client.answer(self.client.books.open[-1 - back]["id"], **ANSWERS[kind])

    def stray_answer(self, id: Any, kind: str) -> None:
        """To nobody; a number may be that of a question that is still to come."""
        self.client.answer(id, **ANSWERS[kind])


def folder(workspace: Path, number: int) -> Path:
    """Where the files of one race are."""
    place = workspace / str(number)
    place.mkdir()
    return place
