"""Files put back in an editor: the person is asked about their own changes as about any other call."""

from __future__ import annotations

from pathlib import Path

from tests.acp.program import Program, allow
from tests.conftest import StartCli
from tests.model_server import ModelServer, text, tool_call


def test_the_person_is_asked_before_an_undo_takes_their_change(
    start_cli: StartCli, model_server: ModelServer, workspace: Path
) -> None:
    program = Program(start_cli("acp", "--approve", "all", env=model_server.env), allow)
    session = program.begin(workspace)
    model_server.reply(tool_call("write", {"path": "a.txt", "content": "agent\n"}), text("Done."))
    program.prompt(session, "Write it")
    (workspace / "a.txt").write_text("agent\nand I\n")
    assert program.prompt(session, "/undo") == {"stopReason": "end_turn"}
    (question,) = [m for m in program.seen if m.get("method") == "session/request_permission"]
    card = question["params"]["toolCall"]
    assert card["title"] == "Overwrite what was changed since in a.txt"
    assert card["content"][0]["oldText"] == "agent\nand I\n"
    assert not (workspace / "a.txt").exists()
    calls = [u["status"] for u in program.updates() if u.get("toolCallId") == card["toolCallId"]]
    assert calls[0] == "pending" and calls[-1] == "completed"
