"""Put whole definitions that a model wrote again into a file: the program's own editing, for models too small to edit.

Not advertised to models; the session calls it with the code block of an answer.
"""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, Location, ToolKind
from laguna_agent.tools.base import Need, ToolContext, ToolResult
from laguna_agent.tools.change import OpenFile, Proposal, make, open_text, refuse_elision
from laguna_agent.tools.text import Span
from laguna_agent.tools.workspace import Workspace

_FENCED = re.compile(r"(?s)\A\s*```[^\n]*\n(.*?)(?:\n```.*)?\Z")


class RewriteArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`code` holds complete functions, methods or classes, with or without a Markdown fence around them."""

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
        place = workspace.resolve(args.path)
        return Need("write", place.shown, place.outside)

    def locations(self, args: RewriteArguments) -> tuple[Location, ...]:
        return (Location(args.path),)

    async def preview(self, args: RewriteArguments, context: ToolContext) -> tuple[FileDiff, ...]:
        """What `run` would change, without changing it; raises what `run` would raise."""
        return (_propose(args, await open_text(context.workspace, args.path)).diff,)

    async def run(self, args: RewriteArguments, context: ToolContext) -> ToolResult:
        opened = await open_text(context.workspace, args.path)
        context.ledger.check(opened.place.path, opened.place.shown, opened.data)
        return await make(_propose(args, opened), context)


def _propose(args: RewriteArguments, opened: OpenFile) -> Proposal:
    from laguna_agent.code.languages import language_of
    from laguna_agent.code.merge import merge
    from laguna_agent.code.queries import QUERIES
    from laguna_agent.code.syntax import first_new_problem

    shown, text = opened.place.shown, opened.file.text
    language = language_of(opened.place.path)
    if language is None or language not in QUERIES:
        raise ToolError(f"{shown} is in no language whose definitions are known; write the whole file instead.")
    fenced = _FENCED.match(args.code)
    code = (fenced[1] if fenced else args.code).replace("\r\n", "\n")
    refuse_elision(code, text)
    changes = merge(language, text, code)
    source = text.encode()
    spans = [Span(len(source[: each.start].decode()), len(source[: each.end].decode()), each.new) for each in changes]
    new_text = _spliced(text, spans)
    problem = first_new_problem(language, source, new_text.encode("utf-8", "replace"))
    if problem is not None:
        raise ToolError(f"Nothing was changed: the code has a syntax error, {problem}")
    line = text.count("\n", 0, spans[0].start) + 1
    summary = f"{shown}: {'; '.join(each.what for each in changes)}."
    return Proposal(opened.place, opened, opened.file.splice(spans), new_text, summary, line)


def _spliced(text: str, spans: list[Span]) -> str:
    parts: list[str] = []
    done = 0
    for span in spans:
        parts += (text[done : span.start], span.new)
        done = span.end
    return "".join(parts) + text[done:]
