"""Models to go on with: when a session takes the next one, what that one is told, and what the log and record say."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from laguna_agent.agent.events import Event, Notice
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Described, FellBack, find_session
from laguna_agent.config import Settings, load
from laguna_agent.errors import ConfigError
from tests.agent.driving import converse, lines, posted, replayed, require_valid_conversation, roles, settings_for, talk
from tests.model_server import MODEL, ModelServer, Scripted, http, stream, text, tool_call

WRITE = tool_call("write", {"path": "one.txt", "content": "1\n"})
OVERLOADED = http(529, {"error": {"type": "overloaded_error", "message": "Overloaded"}})


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    """The server of vllm/other."""
    server = ModelServer()
    server.models = [{"id": "other", "object": "model"}]
    monkeypatch.setenv("VLLM_BASE_URL", server.url)
    yield server
    server.close()


@pytest.mark.parametrize(
    "fault",
    [
        OVERLOADED,
        http(429, {"error": {"message": "free-models-per-day"}}),
        http(429, "", {"Retry-After": "3600"}),
        http(402, {"error": {"message": "Insufficient credits"}}),
        http(404, {"error": {"message": "no such model"}}),
        http(401, {"error": {"message": "bad key"}}),
        http(400, {"error": {"message": "does not support tools"}}),
        http(200, "<html>", {"Content-Type": "text/html"}),
    ],
)
def test_the_next_model_goes_on_where_the_first_failed(
    model_server: ModelServer, second: ModelServer, workspace: Path, fault: Scripted
) -> None:
    model_server.reply(WRITE, fault)
    second.reply(text("Done."), text("And more."))
    spoken = converse(model_server, workspace, "x", "y", fallback_models=("vllm/other",))
    assert [(result.exit_code, result.model) for result in spoken.results] == [(0, "vllm/other")] * 2
    assert (workspace / "one.txt").read_text() == "1\n"
    # The same conversation, for the other model; the prefix is the one that it began with.
    assert roles(second, 0) == ["system", "user", "assistant", "tool"]
    assert posted(second, 0)[:2] == posted(model_server, 0)
    assert {chat["model"] for chat in second.chats} == {"other"}
    require_valid_conversation(posted(second))
    assert len(model_server.chats) == 2
    assert [event.text for event in spoken.of(Notice)][1:] == [
        f"the session goes on with vllm/other in place of {MODEL}"
    ]
    assert [record.model for record in spoken.records(FellBack)] == ["vllm/other"]
    assert [record.model for record in spoken.records(Described)] == [MODEL, "other", "other"]


def test_a_server_that_is_not_there(second: ModelServer, model_server: ModelServer, workspace: Path) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        second.reply(text("Done."))
        spoken = converse(model_server, workspace, "x", base_url=nowhere, fallback_models=("same-server", "vllm/other"))
    assert (spoken.result.exit_code, spoken.result.model) == (0, "vllm/other")
    told = [event.text for event in spoken.of(Notice)]
    assert told[1] == "same-server cannot take its place: it is on the same server"
    assert not model_server.requests


def test_a_refused_key_is_not_tried_again_under_another_models_name(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(http(401, {"error": {"message": "bad key"}}))
    spoken = converse(model_server, workspace, "x", fallback_models=("same-server",))
    assert (spoken.result.exit_code, spoken.result.model) == (3, MODEL)
    assert len(model_server.chats) == 1


def test_another_model_of_the_same_server(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(http(404, {"error": {"message": "unknown"}}), OVERLOADED, text("Done."))
    spoken = converse(model_server, workspace, "x", fallback_models=("b", "c"))
    assert (spoken.result.exit_code, spoken.result.model) == (0, "c")
    assert [chat["model"] for chat in model_server.chats] == [MODEL, "b", "c"]


def test_where_none_is_left_the_last_error_ends_the_run(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(OVERLOADED)
    spoken = converse(model_server, workspace, "x", fallback_models=("poolside/laguna-xs-2.1", "b"))
    assert (spoken.result.exit_code, spoken.result.model) == (3, "b")
    told = [event.text for event in spoken.of(Notice)]
    assert "poolside/laguna-xs-2.1 cannot take its place: poolside needs a key" in told[1]


@pytest.mark.parametrize(
    "answer", [stream(text("I will"), finish="content_filter"), http(400, {"error": {"code": "content_filter"}})]
)
def test_what_a_filter_stops_is_not_carried_on(model_server: ModelServer, workspace: Path, answer: Scripted) -> None:
    model_server.reply(answer)
    spoken = converse(model_server, workspace, "x", fallback_models=("b",))
    assert (spoken.result.exit_code, spoken.result.outcome, spoken.result.stop_reason) == (
        4,
        "model_stopped",
        "refusal",
    )
    assert len(model_server.chats) == 1


def test_the_windows_differ(model_server: ModelServer, second: ModelServer, workspace: Path) -> None:
    """A smaller one gets what fits it, and what fits it no longer goes to the next."""
    (workspace / "long.txt").write_text("long line\n" * 4_000)
    model_server.reply(tool_call("read", {"path": "long.txt"}), OVERLOADED, text("Done."))
    second.models = [{"id": "other", "max_model_len": 8_000}]
    second.reply(http(400, {"error": {"message": "maximum context length is 9 tokens"}}))
    spoken = converse(model_server, workspace, "x", fallback_models=("vllm/other", "b"))
    assert (spoken.result.exit_code, spoken.result.model) == (0, "b")
    assert len(str(posted(model_server, 1))) > 30_000 > len(str(posted(second, 0)))


def test_names_that_cannot_be_used_are_refused_at_the_start(workspace: Path) -> None:
    async def start() -> None:
        settings = Settings(model="ollama/a", fallback_models=("gpt",), sandbox="none")
        await Session.start(workspace, settings, approver=deny_all)

    with pytest.raises(ConfigError, match="the fallback model 'gpt' names no provider; write PROVIDER/NAME"):
        anyio.run(start)


def test_where_they_are_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGUNA_FALLBACK_MODELS", "ollama/a, vllm/b")
    assert load(workspace, {}).fallback_models == ("ollama/a", "vllm/b")
    assert load(workspace, {"fallback_models": ("vllm/c",)}).fallback_models == ("vllm/c",)


def test_the_model_chosen_again_is_asked_again(model_server: ModelServer, second: ModelServer, workspace: Path) -> None:
    model_server.reply(OVERLOADED, text("I am back."))
    second.reply(text("For now."), text("Still."))
    seen: list[list[Event]] = []

    async def run() -> str:
        settings = settings_for(model_server, fallback_models=("vllm/other",), sandbox="none")
        session = await Session.start(workspace, settings, approver=deny_all)
        seen.append(await talk(session, "x"))
        # The mode alone changes nothing of that.
        session.configure(msgspec.structs.replace(session.wanted, approve="edits"))
        seen.append(await talk(session, "y"))
        session.configure(session.wanted, anew=True)
        seen.append(await talk(session, "z"))
        assert (session.record().text, session.record().model) == ("I am back.", MODEL)
        await session.aclose()
        return session.id

    log = find_session(anyio.run(run))
    assert lines(replayed(log)) == lines([event for turn in seen for event in turn])
    assert (len(model_server.chats), len(second.chats)) == (2, 2)
