"""Replace a piece of a file."""

from __future__ import annotations

from typing import ClassVar

import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, Location, ToolKind
from laguna_agent.tools.base import Need, ToolContext, ToolResult
from laguna_agent.tools.change import OpenFile, Proposal, make, open_text
from laguna_agent.tools.leave import path_need
from laguna_agent.tools.matching import locate
from laguna_agent.tools.text import decode
from laguna_agent.tools.workspace import Workspace


class EditArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`old` is replaced by `new`: once, or everywhere with `replace_all`."""

    path: str
    old: str
    new: str
    replace_all: bool = False


class Edit:
    """The tool `edit`."""

    name: ClassVar[str] = "edit"
    kind: ClassVar[ToolKind] = "edit"
    arguments: ClassVar[type[msgspec.Struct]] = EditArguments

    def title(self, args: EditArguments) -> str:
        return f"Edit {args.path}"

    def needs(self, args: EditArguments, workspace: Workspace) -> Need | None:
        return path_need("write", args.path, workspace)

    def locations(self, args: EditArguments) -> tuple[Location, ...]:
        return (Location(args.path),)

    async def preview(self, args: EditArguments, context: ToolContext) -> tuple[FileDiff, ...]:
        """What `run` would change, without changing it; raises what `run` would raise."""
        return (_propose(args, await open_text(args.path, context)).diff,)

    async def run(self, args: EditArguments, context: ToolContext) -> ToolResult:
        opened = await open_text(args.path, context)
        # Before anything is looked for: a piece that is not there may have changed since.
        context.ledger.check(opened.place.path, opened.place.shown, opened.data)
        # The search for the closest region takes a while in a long file; the event loop must not wait for it.
        return await make(await anyio.to_thread.run_sync(_propose, args, opened), context)


def _propose(args: EditArguments, opened: OpenFile) -> Proposal:
    text = opened.file.text
    match = locate(text, args.old, args.new, replace_all=args.replace_all)
    after = opened.file.splice(match.spans)
    line = text.count("\n", 0, match.spans[0].start) + 1
    where = f"line {line}" if len(match.spans) == 1 else f"{len(match.spans)} places from line {line} on"
    note = f" ({match.note})" if match.note else ""
    decoded = decode(after)
    if decoded is None:
        raise ToolError("`new` holds NUL or other control characters, and the file would be text no more.")
    return Proposal(opened.place, opened, after, decoded.text, f"Edited {opened.place.shown}, {where}{note}.", line)
