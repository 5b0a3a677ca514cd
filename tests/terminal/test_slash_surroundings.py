"""What a session works with: /mcp /tools /sandbox /doctor."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from laguna_agent.agent.serving import start_servers
from laguna_agent.mcp.description import McpServer
from tests.mcp.serving import bare
from tests.model_server import ModelServer, text
from tests.terminal.faces import RecordingFace, face_of, with_face


@pytest.mark.parametrize(
    ("mode", "write", "shell"),
    [("plan", "refused", "refused"), ("ask", "asks", "asks"), ("all", "unasked", "")],
)
def test_tools(model_server: ModelServer, workspace: Path, mode: str, write: str, shell: str) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/tools")

    said = with_face(model_server, workspace, work, approve=mode, width=100).said
    rows = {row.split()[0]: row.split()[1] for row in said.split("\n")[2:] if not row.startswith(" ")}
    assert rows["write"] == write
    assert rows["read"] == "unasked"
    assert rows["plan"] == "unasked"
    if shell:
        assert rows["shell"] == shell
    assert f"in mode {mode}" in said


def test_the_sandbox_as_it_was_proved(model_server: ModelServer, workspace: Path) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/sandbox")
        assert face.link.session is not None
        walls = face.link.session.walls
        assert walls is not None
        assert f"Commands run in: {walls.summary}" in face.said
        assert str(workspace) in face.said.replace("\n", "")
        if walls.tier != "none":
            assert "Tried here from inside: " in face.said
            assert "no signal to the agent" not in face.said
            assert "Hidden:" in face.said
            await face.obey("/sandbox all")
            assert "no signal to the agent" in face.said

    with_face(model_server, workspace, work, width=200)


@pytest.mark.parametrize("width", [40, 120])
def test_doctor(model_server: ModelServer, workspace: Path, width: int) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/doctor")

    said = with_face(model_server, workspace, work, width=width).said
    assert "ripgrep" in said
    assert "A turn can run." in said


def test_no_servers(model_server: ModelServer, workspace: Path) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/mcp")

    assert "No MCP servers" in with_face(model_server, workspace, work).said


def test_servers_that_work_and_do_not(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("Hello."))
    handed = (bare("good"), McpServer("bad\x1b[2J", command="/no/such/program"))

    async def run() -> str:
        async with face_of(model_server, workspace) as face, anyio.create_task_group() as group:
            assert face.link.session is not None
            await start_servers(face.link.session, group, handed)
            await face.obey("hello")
            await face.obey("/mcp")
            await face.obey("/tools")
            await face.link.session.aclose()
            return face.said

    said = anyio.run(run)
    assert "good  ready  stdio" in said
    assert "failed  stdio" in said
    assert "\x1b" not in said
