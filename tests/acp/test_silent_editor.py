"""A client that goes silent, and a sandbox that commands must not leave: the workspace alone, on a real socket."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.acp import schema
from laguna_agent.acp.editor import Buffers, EditorWorkspace, encoded, same
from laguna_agent.acp.peer import Peer
from laguna_agent.acp.streams import FdSink, FdSource
from laguna_agent.acp.terminal import Terminals
from laguna_agent.errors import ToolError
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.tools.text import decode
from laguna_agent.tools.workspace import LocalWorkspace
from tests.unwalled import unwalled

PATIENCE = 0.3
FILES = schema.FileSystemCapabilities(read_text_file=True, write_text_file=True)


class Silence:
    """The other end of the wire: reads, and answers only what a test writes."""

    def __init__(self, end: socket.socket, peer: Peer) -> None:
        self.end = end
        self._peer = peer
        end.settimeout(20)
        self._lines = end.makefile("rb")

    async def next(self) -> dict[str, Any]:
        line = await anyio.to_thread.run_sync(self._lines.readline)
        message: dict[str, Any] = json.loads(line)
        return message

    async def require_nothing_more(self) -> None:
        """What is sent now is the next thing that comes."""
        await self._peer.notify("marker", schema.CancelRequestNotification(request_id=0))
        assert (await self.next())["method"] == "marker"

    def answer(self, request: dict[str, Any], result: dict[str, Any]) -> None:
        self.end.sendall(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode() + b"\n")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def silent_editor(
    root: Path, denied: tuple[str, ...] = ()
) -> AsyncIterator[tuple[EditorWorkspace, LocalWorkspace, Silence]]:
    ours, theirs = socket.socketpair()
    peer = Peer(FdSource(ours.fileno()), FdSink(ours.fileno()), {}, {})
    policy = policy_for(root, readable=[root.parent / "spool"], denied=denied)
    local = LocalWorkspace(root, spool=root.parent / "spool", walls=unwalled(policy))
    terminals = Terminals(peer, "s", True, PATIENCE)
    async with anyio.create_task_group() as group:
        group.start_soon(peer.run, lambda: None)
        try:
            yield EditorWorkspace(local, Buffers(peer, "s", FILES, PATIENCE), terminals), local, Silence(theirs, peer)
        finally:
            theirs.shutdown(socket.SHUT_RDWR)
    await local.aclose()
    ours.close()
    theirs.close()


@pytest.mark.anyio
async def test_a_file_is_waited_for_once(workspace: Path) -> None:
    file = workspace / "a.py"
    file.write_text("a = 1\n")
    async with silent_editor(workspace) as (editor, _, silence):
        assert await editor.read_bytes(file, 100) == b"a = 1\n"
        asked = await silence.next()
        withdrawn = await silence.next()
        assert (asked["method"], withdrawn["method"]) == ("fs/read_text_file", "$/cancel_request")
        await editor.write_bytes(file, b"a = 2\n")
        assert file.read_bytes() == await editor.read_bytes(file, 100) == b"a = 2\n"
        # A late answer changes nothing, and nothing else was asked.
        silence.answer(asked, {"content": "a = 0\n"})
        assert await editor.read_bytes(file, 100) == b"a = 2\n"
        await silence.require_nothing_more()


@pytest.mark.anyio
async def test_a_command_is_not_run_twice_for_want_of_an_answer(workspace: Path) -> None:
    async with silent_editor(workspace) as (editor, _, silence):
        with pytest.raises(ToolError, match="whether the command ran is not known"):
            await editor.run("echo one >> ran", timeout=20)
        assert not (workspace / "ran").exists()
        assert (await editor.run("echo two >> ran", timeout=20)).exit_code == 0
        assert (workspace / "ran").read_text() == "two\n"
        created = await silence.next()
        assert (await silence.next())["method"] == "$/cancel_request"
        # The terminal that comes late is given back.
        silence.answer(created, {"terminalId": "late"})
        released = await silence.next()
        assert released["method"] == "terminal/release"
        assert released["params"]["terminalId"] == "late"


@pytest.mark.anyio
async def test_a_client_that_stops_answering_ends_with_the_timeout(workspace: Path) -> None:
    async with silent_editor(workspace) as (editor, _, silence):
        async with anyio.create_task_group() as group:

            @group.start_soon
            async def _() -> None:
                silence.answer(await silence.next(), {"terminalId": "t"})

            result = await editor.run("sleep 300", timeout=0.2)
        assert result.timed_out
        assert "did not hand over the output" in result.output.text(1000)
        sent = [await silence.next() for _ in range(7)]
        methods = [message["method"] for message in sent if message["method"] != "$/cancel_request"]
        assert methods == ["terminal/wait_for_exit", "terminal/kill", "terminal/output", "terminal/release"]


@pytest.mark.anyio
async def test_a_confined_command_never_leaves_the_launcher(workspace: Path) -> None:
    async with silent_editor(workspace) as (editor, local, silence):
        local.sandbox = "kernel"
        result = await editor.run("echo confined", timeout=20)
        assert result.output.text(100) == "confined\n"
        await silence.require_nothing_more()


@pytest.mark.anyio
async def test_the_editor_is_not_asked_for_what_is_denied_or_hidden(workspace: Path) -> None:
    keys = Path.home() / ".ssh"
    keys.mkdir()
    for file in (workspace / ".env", keys / "config"):
        file.write_text("TOKEN=1\n")
    async with silent_editor(workspace, denied=(".env",)) as (editor, _, silence):
        with pytest.raises(ToolError, match="the person's rules deny it"):
            await editor.read_bytes(workspace / ".env", 100)
        (workspace / "sub").mkdir()
        await editor.write_bytes(workspace / "sub" / ".env", b"NEW=1\n")
        assert (workspace / "sub" / ".env").read_text() == "NEW=1\n"
        await silence.require_nothing_more()
    async with silent_editor(Path.home()) as (editor, _, silence):
        assert await editor.read_bytes(keys / "config", 100) == b"TOKEN=1\n"
        await silence.require_nothing_more()


@pytest.mark.anyio
async def test_a_file_that_becomes_a_link_while_the_editor_reads_it_is_not_told(workspace: Path) -> None:
    (workspace / "dir").mkdir()
    (workspace / "dir" / "a.py").write_text("harmless = 1\n")
    async with silent_editor(workspace) as (editor, _, silence), anyio.create_task_group() as group:

        @group.start_soon
        async def _() -> None:
            asked = await silence.next()
            (workspace / "dir").rename(workspace / "aside")
            (workspace / "dir").symlink_to(workspace.parent)
            silence.answer(asked, {"content": "somebody = 'else'\n"})

        with pytest.raises(ToolError, match="became a link"):
            await editor.read_bytes(workspace / "dir" / "a.py", 100)


pieces = st.lists(st.sampled_from(["a", "b é", "", "\t"]), min_size=1, max_size=5)
ends = st.sampled_from(["\n", "\r\n"])


@given(lines=pieces, new=pieces, end=ends, mark=st.booleans(), bare=st.booleans(), final=st.booleans())
def test_a_buffer_becomes_the_bytes_that_saving_it_would_give(
    lines: list[str], new: list[str], end: str, mark: bool, bare: bool, final: bool
) -> None:
    def data(parts: list[str]) -> bytes:
        return (b"\xef\xbb\xbf" if mark else b"") + (end.join(parts) + end * final).encode()

    file = decode(data(lines))
    assert file is not None
    spoken = data(new).decode()
    plain = spoken.removeprefix("\ufeff").replace("\r\n", "\n")
    spoken = plain if bare else spoken
    assert same(spoken, data(new).decode())
    assert same(spoken, file.text) == (plain.removesuffix("\n") == file.text.removesuffix("\n"))
    # A file without a line end does not tell what its lines would end with.
    if end.encode() in data(lines) or end == "\n":
        wanted = data(new)
        ended = file.text.endswith("\n") and plain and not plain.endswith("\n")
        assert encoded(spoken, file) == wanted + (end.encode() if ended else b"")
