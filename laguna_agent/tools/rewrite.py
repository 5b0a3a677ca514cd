"""Put whole definitions that a model wrote again into a file: editing for models too small to point at text.

Not advertised to models; the session calls it with the code blocks of an answer.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, Location, ToolKind
from laguna_agent.tools.base import Need, ToolContext, ToolResult
from laguna_agent.tools.change import OpenFile, Proposal, make, open_text, refuse_elision
from laguna_agent.tools.leave import path_need
from laguna_agent.tools.text import Span, decode
from laguna_agent.tools.workspace import Workspace
from laguna_agent.visible import turned_back


class RewriteArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`code` holds one or more complete functions, methods or classes."""

    path: str
    code: str


class RewriteSymbol:
    """The tool `rewrite_symbol`."""

    name: ClassVar[str] = "rewrite_symbol"
    kind: ClassVar[ToolKind] = "edit"
    arguments: ClassVar[type[msgspec.Struct]] = RewriteArguments

    def title(self, args: RewriteArguments) -> str:
        return f"Rewrite in {args.path}"

    def needs(self, args: RewriteArguments, workspace: Workspace) -> Need | None:
        return path_need("write", args.path, workspace)

    def locations(self, args: RewriteArguments) -> tuple[Location, ...]:
        return (Location(args.path),)

    async def preview(self, args: RewriteArguments, context: ToolContext) -> tuple[FileDiff, ...]:
        """What `run` would change, without changing it; raises what `run` would raise."""
        return (_propose(args, await open_text(args.path, context)).diff,)

    async def run(self, args: RewriteArguments, context: ToolContext) -> ToolResult:
        opened = await open_text(args.path, context)
        # Before anything is looked for: what is not there may have been there when the model looked.
        context.ledger.check(opened.place.path, opened.place.shown, opened.data)
        return await make(_propose(args, opened), context)


def _propose(args: RewriteArguments, opened: OpenFile) -> Proposal:
    from laguna_agent.code.rewriting import rewriting
    from laguna_agent.code.syntax import new_error

    shown, text = opened.place.shown, opened.file.text
    # The extension tells the language, and a link's target may have another.
    found = rewriting(args.path, text, turned_back(text, args.code))
    for change in found.changes:
        refuse_elision(change.new, text)
    source = text.encode("utf-8", "surrogatepass")
    spans = [
        Span(_characters(source[: each.start]), _characters(source[: each.end]), each.new) for each in found.changes
    ]
    after = opened.file.splice(spans)
    decoded = decode(after)
    if decoded is None:
        raise ToolError("The code holds control characters; give it as plain text.")
    if new_error(args.path, text, decoded.text) is not None and new_error(args.path, None, text) is None:
        # The code is sound and so was the file, so it is the way of putting them together that is not.
        raise ToolError(f"The code does not fit into {shown}; give the whole new content of the file.")
    line = text.count("\n", 0, spans[0].start) + 1
    summary = f"{shown}: {', '.join(dict.fromkeys(found.done))}."
    return Proposal(opened.place, opened, after, decoded.text, summary, line)


def _characters(data: bytes) -> int:
    return len(data.decode("utf-8", "surrogatepass"))
