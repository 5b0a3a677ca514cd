"""Search file contents."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import Location, ToolKind
from laguna_agent.tools.base import Need, ToolContext, ToolResult, text_result
from laguna_agent.tools.ripgrep import TIME_CAP, ripgrep
from laguna_agent.tools.workspace import Workspace

LINES_CAP = 200
"""Lines of matches shown."""
COLUMNS_CAP = 300
"""Characters shown of a line."""


class GrepArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`pattern` is a regular expression of the Rust kind; `context` lines are shown around each match."""

    pattern: str
    path: str = "."
    glob: str = ""
    context: int = 0


class Grep:
    """The tool `grep`."""

    name: ClassVar[str] = "grep"
    kind: ClassVar[ToolKind] = "search"
    arguments: ClassVar[type[msgspec.Struct]] = GrepArguments

    def title(self, args: GrepArguments) -> str:
        where = "" if args.path in ("", ".") else f" in {args.path}"
        return f"Search {args.pattern!r}{where}{f' ({args.glob})' if args.glob else ''}"

    def needs(self, args: GrepArguments, workspace: Workspace) -> Need | None:
        place = workspace.resolve(args.path)
        return Need("read", place.shown, place.outside)

    def locations(self, args: GrepArguments) -> tuple[Location, ...]:
        return ()

    async def run(self, args: GrepArguments, context: ToolContext) -> ToolResult:
        place = context.workspace.resolve(args.path)
        entry = await context.workspace.entry(place.path)
        if entry is None:
            raise ToolError(f"There is no file or directory {place.shown}.")
        if entry.kind == "other":
            raise ToolError(f"{place.shown} is a device, FIFO or socket, not a file.")
        if not args.pattern:
            raise ToolError("The pattern is empty.")
        options = ["--line-number", "--no-heading", "--with-filename", "--sort=path", f"--max-columns={COLUMNS_CAP}"]
        options += ["--max-columns-preview", f"--context={min(max(0, args.context), 20)}"]
        options += [f"--glob={args.glob}"] if args.glob else []
        target = ["--", "./" if place.shown == "." else place.shown]
        found = await ripgrep(*options, f"--regexp={args.pattern}", *target, cwd=context.workspace.root)
        note = ""
        if found.error and "regex parse error" in found.error:
            note = "(not a valid regular expression; searched as plain text)\n"
            found = await ripgrep(
                *options, "--fixed-strings", f"--regexp={args.pattern}", *target, cwd=context.workspace.root
            )
        if found.error:
            raise ToolError(f"The search failed: {found.error.splitlines()[-1]}")
        if found.cut and not found.lines:
            raise ToolError(f"Nothing was found in {TIME_CAP:g} s; search a smaller directory.")
        lines = [line.removeprefix("./") for line in found.lines]
        shown, more = lines[:LINES_CAP], len(lines) - LINES_CAP
        if more > 0 or found.cut:
            shown.append(f"[{max(more, 0)}{'+' if found.cut else ''} more lines; narrow the pattern, path or glob]")
        return text_result(note + ("\n".join(shown) or "No matches."))
