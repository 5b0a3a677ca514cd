"""A foreign agent's requests for files: https://agentclientprotocol.com/protocol/v1/file-system

Text inside the workspace, read and written as our own tools do: whole or not at all, with the encoding and line ends
that the file has, nothing hidden or denied, nothing that other programs obey. Must not know the agent's tool calls.
"""

from __future__ import annotations

from laguna_agent.acp import schema
from laguna_agent.acp.client.ground import Ground
from laguna_agent.acp.peer import INVALID_PARAMS, RESOURCE_NOT_FOUND, RpcError
from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff
from laguna_agent.tools.base import Need
from laguna_agent.tools.change import FILE_CAP, excerpts
from laguna_agent.tools.text import TextFile, decode
from laguna_agent.tools.workspace import Place


class ForeignFiles:
    """The files of one session; `changed` are those that were written in this turn, as people read them."""

    def __init__(self, ground: Ground) -> None:
        self.changed: dict[str, None] = {}
        self._ground = ground

    async def read(self, asked: schema.ReadTextFileRequest) -> schema.ReadTextFileResponse:
        """The text of a file, or `limit` lines of it from the 1-based `line` on."""
        place = await self._ground.inside(asked.path)
        found = await self._text(place)
        if found is None:
            raise RpcError(RESOURCE_NOT_FOUND, f"There is no file {place.shown}.")
        if asked.line is None and asked.limit is None:
            return schema.ReadTextFileResponse(content=found.text)
        # Not `splitlines`: a form feed or U+2028 ends no line.
        lines = found.text.split("\n")
        ends = [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
        first = max(0, (asked.line or 1) - 1)
        count = len(ends) if asked.limit is None else max(0, asked.limit)
        return schema.ReadTextFileResponse(content="".join(ends[first : first + count]))

    async def write(self, asked: schema.WriteTextFileRequest) -> schema.WriteTextFileResponse:
        """Replace or create a file, once the person lets it."""
        place = await self._ground.inside(asked.path)
        if place.protected:
            raise ToolError(f"{place.shown} is not written: other programs obey it.")
        found = await self._text(place)
        after = self._encoded(asked.content, found)
        old, new, line = (None, asked.content, 1) if found is None else excerpts(found.text, asked.content)
        shown = await self._leave(place, FileDiff(place.shown, old, new, line))
        try:
            if await self._ground.inside(asked.path) != place:
                raise ToolError(f"Nothing was written: {asked.path} leads elsewhere now.")
            await (await self._ground.workspace()).write_bytes(place.path, after)
        except ToolError:
            self._ground.news(shown, "failed")
            raise
        self._ground.news(shown, "completed", [schema.Diff(path=place.shown, old_text=old, new_text=new)])
        self.changed[place.shown] = None
        return schema.WriteTextFileResponse()

    async def _text(self, place: Place) -> TextFile | None:
        workspace = await self._ground.workspace()
        entry = await workspace.entry(place.path)
        if entry is None:
            return None
        if entry.kind != "file":
            raise ToolError(f"{place.shown} is not a regular file.")
        found = decode(await workspace.read_bytes(place.path, FILE_CAP))
        if found is None:
            raise ToolError(f"{place.shown} is binary, not text.")
        return found

    async def _leave(self, place: Place, diff: FileDiff) -> str:
        need = Need("write", place.shown)
        decision = await self._ground.decide(need)
        if decision.verdict == "ask" and self._ground.questions.allowed_path(place.shown):
            return ""
        return await self._ground.leave(need, decision, f"Write {place.shown}", "edit", (diff,))

    def _encoded(self, text: str, file: TextFile | None) -> bytes:
        if len(text) > FILE_CAP:
            raise RpcError(INVALID_PARAMS, f"The text has {len(text):,} characters; at most {FILE_CAP:,} are written.")
        try:
            return text.encode() if file is None else file.encode(text)
        except UnicodeEncodeError:
            raise RpcError(INVALID_PARAMS, "The text holds half of a surrogate pair, which no file can hold.") from None
