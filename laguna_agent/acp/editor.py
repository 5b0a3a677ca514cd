"""The client's world as a Workspace: files as the editor shows them, commands in its terminals.
https://agentclientprotocol.com/protocol/v1/file-system

Files inside the session's roots that are UTF-8 text are read from the client's buffers and written through it, where
it offers that. Everything else stays with the disk: what exists and of which kind, listings and searches, other
encodings, binary and very long files, what lies outside, and whatever the client refuses. The person's unsaved text is
never overwritten by what a command did on disk, nor the other way round.

Foreground commands run in the client's terminals only where nothing confines them: what a sandbox launches must never
leave it. Background jobs always run here.

Knows buffers and bytes; it must not know tools, nor how a terminal is spoken to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import anyio
import msgspec

from laguna_agent.acp import schema
from laguna_agent.acp.peer import METHOD_NOT_FOUND, Peer, RpcError
from laguna_agent.acp.terminal import Terminals
from laguna_agent.errors import ToolError
from laguna_agent.sandbox.launcher import CommandResult, Granted
from laguna_agent.tools.files import Entry
from laguna_agent.tools.footprint import Change
from laguna_agent.tools.text import TextFile, decode
from laguna_agent.tools.workspace import Job, Listener, LocalWorkspace, Place, Workspace

BUFFER_CAP = 4 * 1024 * 1024
"""Bytes of the longest file that goes over the wire."""
PATIENCE = 10.0
"""Seconds that a client may take for a file; then it is not asked again in this session."""

T = TypeVar("T")


def through_editor(workspace: Workspace, peer: Peer, session_id: str, client: schema.ClientCapabilities) -> Workspace:
    """`workspace` as the client lets us see it; itself where the client offers nothing."""
    offered = client.terminal or client.fs.read_text_file or client.fs.write_text_file
    if not offered or not isinstance(workspace, LocalWorkspace):
        return workspace
    return EditorWorkspace(
        workspace, Buffers(peer, session_id, client.fs), Terminals(peer, session_id, client.terminal)
    )


class Buffers:
    """The client's files. `reads` and `writes` say what it offers, and still does."""

    def __init__(
        self, peer: Peer, session_id: str, offered: schema.FileSystemCapabilities, patience: float = PATIENCE
    ) -> None:
        self.reads = offered.read_text_file
        self.writes = offered.write_text_file
        self._peer = peer
        self._session_id = session_id
        self._patience = patience

    async def read(self, path: Path) -> str | None:
        """The text of the file as the editor has it; None where it will not say."""
        request = schema.ReadTextFileRequest(session_id=self._session_id, path=str(path))
        answer = await self._ask("fs/read_text_file", request, schema.ReadTextFileResponse) if self.reads else None
        return None if answer is None else answer.content

    async def write(self, path: Path, text: str) -> bool:
        """Whether the client took the text."""
        request = schema.WriteTextFileRequest(session_id=self._session_id, path=str(path), content=text)
        if not self.writes:
            return False
        return await self._ask("fs/write_text_file", request, schema.WriteTextFileResponse) is not None

    async def _ask(self, method: str, request: msgspec.Struct, kind: type[T]) -> T | None:
        with anyio.move_on_after(self._patience) as clock:
            try:
                return await self._peer.request(method, request, kind)
            except RpcError as refusal:
                if refusal.code == METHOD_NOT_FOUND:
                    self.reads, self.writes = self.reads and "read" not in method, self.writes and "write" not in method
        if clock.cancelled_caught:
            self.reads = self.writes = False
        return None


class EditorWorkspace:
    """See the module. A `Workspace`."""

    def __init__(self, local: LocalWorkspace, buffers: Buffers, terminals: Terminals) -> None:
        self.root, self.roots, self.sandbox, self.files = local.root, local.roots, local.sandbox, local.files
        self._local = local
        self._buffers = buffers
        self._terminals = terminals
        # CRLF files that the client speaks of with bare newlines.
        self._bare: set[Path] = set()
        # Files with unsaved text that a command changed on disk.
        self._torn: set[Path] = set()

    def resolve(self, path: str) -> Place:
        return self._local.resolve(path)

    async def entry(self, path: Path) -> Entry | None:
        return await self._local.entry(path)

    async def read_bytes(self, path: Path, limit: int) -> bytes:
        disk = await self._local.read_bytes(path, limit)
        file = self._text(path, disk)
        if file is None:
            return disk
        text = await self._buffers.read(path)
        if text is None:
            return disk
        if file.newline == "\r\n" and "\r\n" not in text:
            self._bare.add(path)
        if same(text, file.text):
            return disk
        if self.resolve(str(path)).path != path:
            # The editor opens files by name: it may have followed a link that has come between.
            raise ToolError(f"{path} became a link while it was read; read it again.")
        data = encoded(text, file)
        if len(data) > limit:
            raise ToolError(f"{path} has {len(data):,} bytes, more than the {limit:,} that can be read at once.")
        return data

    async def write_bytes(self, path: Path, data: bytes) -> None:
        file = self._text(path, data)
        if file is None or not self._buffers.writes:
            await self._local.write_bytes(path, data)
            return
        await self._local.require_writable(path)
        before = await self._disk(path)
        await self._require_whole(path, before)
        if not await self._send(path, file, data, before):
            await self._local.write_bytes(path, data)

    async def run(
        self,
        command: str,
        *,
        timeout: float,
        emit: Listener | None = None,
        on_terminal: Listener | None = None,
        kind: Granted = "workspace",
    ) -> CommandResult:
        if self._terminals.offered and (self._local.sandbox == "none" or kind == "unconfined"):
            capture = self._local.capture()
            result = await self._terminals.run(command, self.root, capture, timeout=timeout, on_terminal=on_terminal)
            if result is not None:
                return result
        return await self._local.run(command, timeout=timeout, emit=emit, kind=kind)

    async def follow(self, changes: Sequence[Change]) -> Sequence[str]:
        """Bring the buffers of files that the model has seen up to date; those with unsaved text are left alone."""
        return [line for change in changes if (line := await self._follow(change))]

    async def start(self, command: str, kind: Granted = "workspace") -> Job:
        return await self._local.start(command, kind)

    @property
    def jobs(self) -> Mapping[str, Job]:
        return self._local.jobs

    async def aclose(self) -> None:
        await self._local.aclose()

    # Below what is annotated with lists: the name hides the type's.
    async def list(self, path: Path) -> list[Entry]:
        return await self._local.list(path)

    def _text(self, path: Path, data: bytes) -> TextFile | None:
        """The file where it may go over the wire: UTF-8 text of the workspace that nobody denies reading."""
        if len(data) > BUFFER_CAP or self.resolve(str(path)).scope != "workspace" or self.files.policy.is_denied(path):
            return None
        file = decode(data)
        return file if file is not None and file.encoding == "utf-8" else None

    async def _disk(self, path: Path) -> bytes | None:
        if await self._local.entry(path) is None:
            return None
        return await self._local.read_bytes(path, 2 * BUFFER_CAP)

    async def _send(self, path: Path, file: TextFile, data: bytes, before: bytes | None) -> bool:
        """Whether the client wrote it, or at least holds it. A byte-order mark is no text and is left out."""
        text = file.text if path in self._bare else data.removeprefix(file.mark).decode()
        if not await self._buffers.write(path, text):
            return False
        disk = await self._disk(path)
        if disk == data:
            return True
        if disk is None or same(disk.decode("utf-8", "replace"), text):
            # No file came of it, or one with other line ends or without the mark.
            return False
        if disk != before:
            # Formatted on saving, as the person has set up their editor.
            return True
        # It changed the buffer alone: then the buffer is the truth, if it can be read again.
        held = await self._buffers.read(path)
        return held is not None and same(held, text)

    async def _require_whole(self, path: Path, disk: bytes | None) -> None:
        if path not in self._torn:
            return
        held = await self._buffers.read(path)
        if held is not None and disk is not None and not same(held, disk.decode("utf-8", "replace")):
            raise ToolError(
                f"Nothing was changed: {self.resolve(str(path)).shown} has unsaved changes in the editor, and a "
                "command changed it on disk; writing would lose one of them. Ask the person to save or to reload it."
            )
        self._torn.discard(path)

    async def _follow(self, change: Change) -> str:
        if change.before is None or change.after is None:
            return ""
        before, after = self._text(change.path, change.before), self._text(change.path, change.after)
        if before is None or after is None:
            return ""
        held = await self._buffers.read(change.path)
        if held is None or same(held, after.text):
            return ""
        if not same(held, before.text):
            self._torn.add(change.path)
            shown = self.resolve(str(change.path)).shown
            return f"[{shown} was changed on disk, but has unsaved changes in the editor, which were left as they are]"
        sent = self._buffers.writes and await self._send(change.path, after, change.after, change.after)
        if not sent and await self._disk(change.path) != change.after:
            # Where the client saved it with other line ends, or without the mark.
            await self._local.write_bytes(change.path, change.after)
        return ""


def same(one: str, other: str) -> bool:
    """Whether two texts differ in nothing but what editors make uniform: line ends, a mark, the last newline."""
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")


def encoded(text: str, file: TextFile) -> bytes:
    """A buffer's text as the bytes that saving it would give: with the mark, line ends and last newline of the file on
    disk, where the client leaves those out."""
    text = text.removeprefix("\ufeff")
    verbatim = "\r" in text
    if text and file.text.endswith("\n") and not text.endswith("\n"):
        text += file.newline if verbatim else "\n"
    return file.mark + text.encode("utf-8", "replace") if verbatim else file.encode(text)
