"""What is easily lost in a hurry: each an interleaving that was lost once, or must never be."""

from __future__ import annotations

from pathlib import Path

from tests.acp.client import HOLD, face, no_process_is_left
from tests.acp.program import wait_for
from tests.model_server import ModelServer, text, tool_call


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


def test_a_cancel_counts_while_the_client_reads_nothing(workspace: Path, model_server: ModelServer) -> None:
    model_server.reply(tool_call("shell", {"command": f"echo yes > runs; {HOLD}"}))
    model_server.always(text("".join(f"{n} " for n in range(1_100_000)), pieces=2000))
    with face(workspace, model_server) as client:
        session, other = client.new_session(), client.new_session()
        client.call("session/set_mode", {"sessionId": session, "modeId": "all"})
        client.request("session/prompt", {"sessionId": session, "prompt": [{"type": "text", "text": "Go"}]})
        client.flush()
        wait_for(workspace / "runs")
        client.request("session/prompt", {"sessionId": other, "prompt": [{"type": "text", "text": "Talk"}]})
        client.wait_until_full()
        client.notify("session/cancel", {"sessionId": session})
        client.flush()
        no_process_is_left()
        client.settle()
