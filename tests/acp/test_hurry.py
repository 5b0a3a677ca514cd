"""Races that were lost once, each with the interleaving that lost it."""

from __future__ import annotations

from pathlib import Path

from tests.acp.client import HOLD, face
from tests.acp.program import wait_for
from tests.model_server import ModelServer, tool_call


def test_a_session_is_deleted_twice_at_once(workspace: Path, model_server: ModelServer) -> None:
    with face(workspace, model_server) as client:
        session = client.new_session()
        for _ in range(20):
            client.request("session/delete", {"sessionId": session}, set())
        client.settle()
        client.hang_up()


def test_sessions_are_listed_while_they_are_deleted(workspace: Path, model_server: ModelServer) -> None:
    with face(workspace, model_server) as client:
        sessions = [client.new_session() for _ in range(60)]
        for session in sessions:
            client.request("session/list", {}, set())
            client.request("session/delete", {"sessionId": session}, set())
        client.settle()


def test_a_close_that_is_withdrawn_still_lets_go_of_the_session(workspace: Path, model_server: ModelServer) -> None:
    model_server.reply(tool_call("shell", {"command": f"trap '' TERM; echo yes > deaf; {HOLD}"}))
    with face(workspace, model_server) as client:
        session = client.new_session()
        client.call("session/set_mode", {"sessionId": session, "modeId": "all"})
        client.request("session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": "Go"}]})
        client.flush()
        wait_for(workspace / "deaf")
        close = client.request("session/close", {"sessionId": session})
        client.ping()
        client.notify("$/cancel_request", {"requestId": close})
        client.settle()
        where = {"sessionId": session, "cwd": str(workspace), "mcpServers": []}
        assert "result" in client.call("session/load", where, set())
        client.settle()
