"""Every method of the official schema with params that are right, wrong, missing, additional, nested and forged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acp.books import ERRORS, INVALID_PARAMS, Message
from tests.acp.client import Client, face, fuzz, script
from tests.acp.samples import ANSWERS, NOTIFICATIONS, REQUESTS, acceptable, broken, filled, instances, junk
from tests.model_server import ModelServer

lengths = pytest.mark.parametrize("cases", [6, pytest.param(60, marks=pytest.mark.slow)])
pytestmark = pytest.mark.timeout(900)


def params_of(definition: str) -> st.SearchStrategy[Any]:
    return instances(definition) | broken(definition) | broken(definition) | junk


@pytest.fixture
def client(workspace: Path, model_server: ModelServer) -> Iterator[Client]:
    """One connection for many examples: that it survives them is the point."""
    model_server.always(script)
    with face(workspace, model_server) as client:
        yield client
        client.settle()


def answers(client: Client) -> list[Message]:
    return [message for message in client.books.seen if "method" not in message]


class Sessions:
    """Two open sessions, opened again where an example closed them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ids = [client.new_session(), client.new_session()]

    def names(self) -> dict[str, str]:
        return {"<0>": self.ids[0], "<1>": self.ids[1], "<cwd>": str(self.client.workspace)}

    def renew(self) -> None:
        """Afterwards both are open and idle."""
        for at, id in enumerate(self.ids):
            answer = self.client.call("session/set_mode", {"sessionId": id, "modeId": "ask"})
            if "error" in answer:
                self.client.books.sessions.discard(id)
                self.ids[at] = self.client.new_session()


@lengths
@pytest.mark.parametrize("method", sorted(REQUESTS))
def test_requests(method: str, cases: int, client: Client) -> None:
    sessions = Sessions(client)
    definition = REQUESTS[method]

    @fuzz(cases)
    @given(params=params_of(definition))
    def check(params: Any) -> None:
        params = filled(params, sessions.names())
        fits = acceptable({} if params is None else params, definition)
        answer_id = client.request(method, params, ERRORS[method] if fits else {INVALID_PARAMS})
        client.settle()
        answer = next(m for m in reversed(answers(client)) if m["id"] == answer_id)
        assert fits or "error" in answer, (params, answer)
        assert not (fits and "error" in answer and answer["error"]["message"].startswith("Invalid params of")), answer
        sessions.renew()
        assert "FORGED" not in client.books.sessions

    check()


@lengths
@pytest.mark.parametrize("method", sorted([*NOTIFICATIONS, *REQUESTS]))
def test_notifications_get_silence(method: str, cases: int, client: Client) -> None:
    """Those that are requests by their method too: without an id they are nothing."""
    sessions = Sessions(client)

    @fuzz(cases)
    @given(
        params=params_of((NOTIFICATIONS | REQUESTS)[method]), version=st.sampled_from(["2.0", "2.0", "1.0", 2, None])
    )
    def check(params: Any, version: Any) -> None:
        before = len(answers(client))
        client.queue({"jsonrpc": version, "method": method, "params": filled(params, sessions.names())})
        client.ping()
        assert len(answers(client)) == before + 1

    check()


@pytest.mark.parametrize("cases", [15, pytest.param(150, marks=pytest.mark.slow)])
def test_only_a_clear_yes_is_a_permission(cases: int, client: Client) -> None:
    made = client.workspace / "made.txt"
    definition = ANSWERS["session/request_permission"]
    selected = st.sampled_from(["allow", "reject", "never", "other"]).map(
        lambda option: {"outcome": {"outcome": "selected", "optionId": option}}
    )

    @fuzz(cases)
    @given(answer=st.fixed_dictionaries({"result": selected | params_of(definition)}, optional={"error": junk}))
    def check(answer: dict[str, Any]) -> None:
        session = client.new_session()
        id = client.request("session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": "[write]"}]})
        while not client.books.questions:
            assert client.read() is not None
        (question,) = client.books.questions.values()
        client.answer(question["id"], **answer)
        assert client.answer_to(id)["result"]["stopReason"] == "end_turn"
        outcome = answer["result"].get("outcome") if isinstance(answer["result"], dict) else None
        yes = answer.get("error") is None and outcome == {"outcome": "selected", "optionId": "allow"}
        assert made.exists() == yes, answer
        made.unlink(missing_ok=True)
        client.call("session/delete", {"sessionId": session})
        client.books.sessions.discard(session)

    check()
