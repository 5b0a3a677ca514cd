"""Write a whole file."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, Location, ToolKind
from laguna_agent.tools.base import Need, ToolContext, ToolResult
from laguna_agent.tools.change import Proposal, make, open_text, refuse_elision
from laguna_agent.tools.leave import path_need, reach
from laguna_agent.tools.workspace import Workspace
from laguna_agent.visible import turned_back


class WriteArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`content` becomes the whole file."""

    path: str
    content: str


class Write:
    """The tool `write`."""

    name: ClassVar[str] = "write"
    kind: ClassVar[ToolKind] = "edit"
    arguments: ClassVar[type[msgspec.Struct]] = WriteArguments

    def title(self, args: WriteArguments) -> str:
        return f"Write {args.path}"

    def needs(self, args: WriteArguments, workspace: Workspace) -> Need | None:
        return path_need("write", args.path, workspace)

    def locations(self, args: WriteArguments) -> tuple[Location, ...]:
        return (Location(args.path),)

    async def preview(self, args: WriteArguments, context: ToolContext) -> tuple[FileDiff, ...]:
        """What `run` would change, without changing it; raises what `run` would raise."""
        return ((await _propose(args, context)).diff,)

    async def run(self, args: WriteArguments, context: ToolContext) -> ToolResult:
        return await make(await _propose(args, context), context)


async def _propose(args: WriteArguments, context: ToolContext) -> Proposal:
    if not args.path.strip() or args.path.endswith("/"):
        raise ToolError("`path` must name a file.")
    place = reach("write", args.path, context, content=False)
    lines = args.content.count("\n") + (not args.content.endswith("\n") and args.content != "")
    if await context.workspace.entry(place.path) is None:
        summary = f"Created {place.shown}, {lines} lines."
        try:
            data = args.content.encode()
        except UnicodeEncodeError:
            raise ToolError("`content` holds half of a surrogate pair, which no file can hold.") from None
        return Proposal(place, None, data, args.content, summary)
    opened = await open_text(args.path, context)
    if opened.data and not context.ledger.knows(place.path):
        raise ToolError(f"{place.shown} exists and you have not read it; read it first, or use edit.")
    refuse_elision(args.content, opened.file.text)
    text = turned_back(opened.file.text, args.content)
    text = text.replace("\r\n", "\n") if opened.file.newline == "\r\n" else text
    return Proposal(place, opened, opened.file.encode(text), text, f"Wrote {place.shown}, {lines} lines.")
