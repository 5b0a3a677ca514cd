"""List files: a directory as an overview, or all that match a glob."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import ClassVar

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import Location, ToolKind
from laguna_agent.tools.base import Need, ToolContext, ToolResult, text_result
from laguna_agent.tools.leave import path_need, reach
from laguna_agent.tools.ripgrep import TIME_CAP, ripgrep
from laguna_agent.tools.workspace import Workspace

LINES_CAP = 200
"""Lines shown."""


class ListArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files under `path`; only those matching `glob` where it is given."""

    path: str = "."
    glob: str = ""


class List:
    """The tool `list`."""

    name: ClassVar[str] = "list"
    kind: ClassVar[ToolKind] = "search"
    arguments: ClassVar[type[msgspec.Struct]] = ListArguments

    def title(self, args: ListArguments) -> str:
        return f"List {args.glob + ' in ' if args.glob else ''}{args.path}"

    def needs(self, args: ListArguments, workspace: Workspace) -> Need | None:
        return path_need("read", args.path, workspace)

    def locations(self, args: ListArguments) -> tuple[Location, ...]:
        return ()

    async def run(self, args: ListArguments, context: ToolContext) -> ToolResult:
        place = reach("read", args.path, context, content=False)
        entry = await context.workspace.entry(place.path)
        if entry is None or entry.kind != "directory":
            raise ToolError(f"There is no directory {place.shown}.")
        options = [f"--glob={args.glob.removeprefix('./')}"] if args.glob else []
        files_of = context.workspace.files
        found = await ripgrep("--files", "--sort=path", *options, files=files_of, path=place.path)
        if found.error:
            raise ToolError(f"The listing failed: {found.error.splitlines()[-1]}")
        if found.cut and not found.files:
            raise ToolError(f"The listing took more than {TIME_CAP:g} s; choose a smaller directory.")
        files, policy = found.files, files_of.policy
        if not place.hidden and policy.hides_below(place.path):
            files = [name for name in files if not policy.is_hidden(place.path / name)]
        if not files:
            return text_result(await _nothing(place.shown, args.glob, len(await context.workspace.list(place.path))))
        lines = files[:LINES_CAP] if args.glob else overview(files, LINES_CAP)
        if args.glob and len(files) > LINES_CAP:
            lines.append(f"[{len(files) - LINES_CAP} more]")
        if found.cut:
            lines.append("[there are too many files to list them all]")
        head = "" if place.shown == "." else f"In {place.shown}:\n"
        return text_result(head + "\n".join(lines))


def overview(files: list[str], cap: int) -> list[str]:
    """At most about `cap` lines for a tree of files: the deepest directories that have room are opened, level by level
    from the top; a closed one is `name/ (n files)`."""
    counts: dict[str, int] = {}
    inside: dict[str, dict[str, None]] = {}
    for file in files:
        child = file
        for parent in map(str, PurePosixPath(file).parents):
            inside.setdefault(parent, {})[child] = None
            counts[parent] = counts.get(parent, 0) + 1
            child = parent
    opened = {"."}
    level, used = ["."], len(inside["."])
    while level:
        following: list[str] = []
        for directory in level:
            for child in inside[directory]:
                if child in inside and used + len(inside[child]) - 1 <= cap:
                    used += len(inside[child]) - 1
                    opened.add(child)
                    following.append(child)
        level = following
    lines: list[str] = []
    waiting = list(inside["."])[::-1]
    while waiting:
        item = waiting.pop()
        if item in opened:
            waiting += list(inside[item])[::-1]
        else:
            lines.append(f"{item}/ ({counts[item]} files)" if item in inside else item)
    return lines if len(lines) <= cap else [*lines[:cap], f"[{len(lines) - cap} more]"]


async def _nothing(shown: str, glob: str, entries: int) -> str:
    if glob:
        return f"No file in {shown} matches {glob}."
    return f"{shown} is empty." if entries == 0 else f"{shown} holds {entries} entries, all empty or ignored by git."
