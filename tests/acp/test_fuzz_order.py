"""Random sequences of all methods, against a model of what must come of each.

Nothing here waits for `initialize`: the protocol wants it first, but does not say what an agent should do otherwise.
Ours answers as always, and takes the client to be able to do nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acp.books import RESPONSES, Message
from tests.acp.client import Client, face, fuzz, script
from tests.model_server import ModelServer

sessions = st.integers(0, 2)
modes = st.sampled_from(["plan", "ask", "edits", "all", "other"])
values = st.sampled_from(["plan", "all", "high", "off", "default", "other", ""])
options = st.sampled_from(["mode", "model", "thought_level", "other"])
words = st.sampled_from(["[write]", "[read]", "Hello", "[denied]", "[two]"])
steps = st.one_of(
    st.tuples(st.just("prompt"), sessions, words),
    st.tuples(st.sampled_from(["load", "resume", "close", "delete", "cancel", "fork"]), sessions),
    st.tuples(st.sampled_from(["new", "list", "initialize", "logout", "authenticate"])),
    st.tuples(st.just("set_mode"), sessions, modes),
    st.tuples(st.just("set_option"), sessions, options, values),
)
MODES = {"plan", "ask", "edits", "all"}
VALUES = {"mode": MODES, "thought_level": {"default", "off", "low", "medium", "high"}}


@dataclass
class Known:
    """What a session must be, after what was done to it."""

    id: str
    open: bool = True
    recorded: bool = True
    prompts: int = 0


@dataclass
class Model:
    """Does a step with the agent and fails where anything but the right thing comes of it."""

    client: Client
    known: list[Known] = field(default_factory=list)
    logged_out: bool = False

    def do(self, name: str, *args: Any) -> None:
        if args and isinstance(args[0], int):
            nobody = Known("20200101-000000-nobody", open=False, recorded=False)
            args = ([*self.known[-2:], nobody][args[0] % (len(self.known[-2:]) + 1)], *args[1:])
        step: Callable[..., None] = getattr(self, name)
        step(*args)

    def expect(self, code: int | None, method: str, params: Message) -> Message:
        """The result of a request, or its error, which must be this one."""
        answer = self.client.call(method, params, set() if code is None else {code})
        assert ("error" in answer) == (code is not None), (method, params, answer, code)
        result: Message = answer.get("result", {})
        return result

    def initialize(self) -> None:
        result = self.expect(None, "initialize", {"protocolVersion": 1})
        assert result["protocolVersion"] == 1

    def authenticate(self) -> None:
        self.expect(None, "authenticate", {"methodId": "environment"})
        self.logged_out = False

    def logout(self) -> None:
        self.expect(None, "logout", {})
        self.logged_out = True

    def new(self) -> None:
        code = -32000 if self.logged_out else None
        result = self.expect(code, "session/new", {"cwd": str(self.client.workspace), "mcpServers": []})
        if code is None:
            assert result["sessionId"] not in {known.id for known in self.known}
            self.known.append(Known(result["sessionId"]))

    def load(self, known: Known, method: str = "session/load") -> None:
        code = -32000 if self.logged_out else None if known.recorded else -32002
        before = len(self.client.books.seen)
        self.expect(code, method, {"sessionId": known.id, "cwd": str(self.client.workspace), "mcpServers": []})
        updates = [
            m["params"]["update"] for m in self.client.books.seen[before:] if m.get("method") == "session/update"
        ]
        replayed = [update for update in updates if update["sessionUpdate"] == "user_message_chunk"]
        assert len(replayed) == (known.prompts if code is None and method == "session/load" else 0)
        known.open = known.open or code is None

    def resume(self, known: Known) -> None:
        self.load(known, "session/resume")

    def fork(self, known: Known) -> None:
        code = -32000 if self.logged_out else None if known.recorded else -32002
        result = self.expect(code, "session/fork", {"sessionId": known.id, "cwd": str(self.client.workspace)})
        if code is None:
            assert result["sessionId"] not in {known.id for known in self.known}
            self.client.books.sessions.add(result["sessionId"])
            self.known.append(Known(result["sessionId"], prompts=known.prompts))

    def close(self, known: Known) -> None:
        self.expect(None if known.open else -32002, "session/close", {"sessionId": known.id})
        known.open = False

    def delete(self, known: Known) -> None:
        self.expect(None, "session/delete", {"sessionId": known.id})
        known.open = known.recorded = False

    def cancel(self, known: Known) -> None:
        self.client.notify("session/cancel", {"sessionId": known.id})

    def set_mode(self, known: Known, mode: str) -> None:
        code = -32002 if not known.open else None if mode in MODES else -32602
        self.expect(code, "session/set_mode", {"sessionId": known.id, "modeId": mode})

    def set_option(self, known: Known, option: str, value: str) -> None:
        right = bool(value.strip()) if option == "model" else value in VALUES.get(option, ())
        code = -32002 if not known.open else None if right else -32602
        params = {"sessionId": known.id, "configId": option, "value": value}
        result = self.expect(code, "session/set_config_option", params)
        if code is None:
            current = {each["id"]: each["currentValue"] for each in result["configOptions"]}
            assert current[option] == value
            assert current.keys() == {"mode", "model", "thought_level"}

    def list(self) -> None:
        result = self.expect(None, "session/list", {"cwd": str(self.client.workspace)})
        wanted = {known.id for known in self.known if known.recorded and known.prompts}
        assert {session["sessionId"] for session in result["sessions"]} == wanted

    def prompt(self, known: Known, said: str) -> None:
        params = {"sessionId": known.id, "prompt": [{"type": "text", "text": said}]}
        errors = {-32000} if known.open and said == "[denied]" else set() if known.open else {-32002}
        id = self.client.request("session/prompt", params, errors)
        answer = self.client.answer_to(id, allowing="allow")
        assert ("error" in answer) == bool(errors)
        assert "error" in answer or answer["result"]["stopReason"] == "end_turn"
        known.prompts += known.open


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cases", [6, pytest.param(400, marks=pytest.mark.slow)])
def test_order(cases: int, workspace: Path, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model_server.always(script)
    number = itertools.count()

    @fuzz(cases)
    @given(steps=st.lists(steps, min_size=1, max_size=14))
    def check(steps: list[tuple[Any, ...]]) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(workspace.parent / f"data{next(number)}"))
        monkeypatch.setenv("XDG_STATE_HOME", str(workspace.parent / f"state{next(number)}"))
        with face(workspace, model_server) as client:
            model = Model(client)
            model.new()
            for step in steps:
                model.do(*step)
            client.settle()
            client.hang_up()

    check()


def test_every_method_of_the_schema_is_there(workspace: Path, model_server: ModelServer) -> None:
    with face(workspace, model_server) as client:
        for method in RESPONSES:
            answer = client.call(method, 5, {-32602})
            assert answer["error"]["code"] == -32602
