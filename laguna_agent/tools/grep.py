"""Search file contents."""

from __future__ import annotations

import os
import re
from typing import ClassVar

import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import Location, ToolKind
from laguna_agent.sandbox.policy import Policy
from laguna_agent.tools.base import Need, ToolContext, ToolResult, text_result
from laguna_agent.tools.files import Files
from laguna_agent.tools.leave import path_need, reach
from laguna_agent.tools.ripgrep import TIME_CAP, ripgrep
from laguna_agent.tools.workspace import Place, Workspace

LINES_CAP = 200
"""Lines of matches shown."""
COLUMNS_CAP = 300
"""Characters shown of a line."""
_INPUT = b"<stdin>"


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
        return path_need("read", args.path, workspace)

    def locations(self, args: GrepArguments) -> tuple[Location, ...]:
        return ()

    async def run(self, args: GrepArguments, context: ToolContext) -> ToolResult:
        place = reach("read", args.path, context)
        entry = await context.workspace.entry(place.path)
        if entry is None:
            raise ToolError(f"There is no file or directory {place.shown}.")
        if entry.kind == "other":
            raise ToolError(f"{place.shown} is a device, FIFO or socket, not a file.")
        if not args.pattern:
            raise ToolError("The pattern is empty.")
        files = context.workspace.files
        options = ["--line-number", "--no-heading", "--with-filename", "--sort=path", f"--max-columns={COLUMNS_CAP}"]
        options += ["--max-columns-preview", f"--context={min(max(0, args.context), 20)}"]
        options += [f"--glob={_below(place, args.glob)}"] if args.glob else []
        options += excluded(files.policy, place)
        found = await ripgrep(*options, f"--regexp={args.pattern}", files=files, path=place.path)
        note = ""
        if found.error and "regex parse error" in found.error:
            note = "(not a valid regular expression; searched as plain text)\n"
            options.append("--fixed-strings")
            found = await ripgrep(*options, f"--regexp={args.pattern}", files=files, path=place.path)
        if found.error:
            raise ToolError(f"The search failed: {found.error.splitlines()[-1]}")
        if found.cut and not found.output:
            raise ToolError(f"Nothing was found in {TIME_CAP:g} s; search a smaller directory.")
        lines = await anyio.to_thread.run_sync(_visible, found.output, place, files)
        shown, more = lines[:LINES_CAP], len(lines) - LINES_CAP
        if more > 0 or found.cut:
            shown.append(f"[{max(more, 0)}{'+' if found.cut else ''} more lines; narrow the pattern, path or glob]")
        return text_result(note + ("\n".join(shown) or "No matches."))


def _below(place: Place, glob: str) -> str:
    """A glob relative to the place, where it was given relative to the workspace."""
    return glob.removeprefix("./").removeprefix(f"{place.shown}/")


def excluded(policy: Policy, place: Place) -> list[str]:
    """Options that keep ripgrep from reading what would be left out of its answer anyway, as far as globs can say."""
    globs = [glob for glob in policy.denied if "/" not in glob or place.path in policy.workspace]
    options = [f"--iglob=!{part}" for glob in globs for part in (glob, f"{glob.rstrip('/')}/**")]
    if not place.hidden:
        below = (path.relative_to(place.path) for path in policy.hidden if path.is_relative_to(place.path))
        options += [f"--iglob=!/{_escaped(path.as_posix())}" for path in below]
    return options


def _escaped(path: str) -> str:
    return re.sub(r"([\\*?\[\]{}!])", r"\\\1", path)


def _visible(output: bytes, place: Place, files: Files) -> list[str]:
    """The lines of the answer, without what may not be seen: whatever the globs missed, and whatever a file has become
    since ripgrep began."""
    lines: list[str] = []
    seen: dict[bytes, bool] = {}
    for line in output.split(b"\n"):
        name, separator, rest = line.partition(b"\0")
        if not separator:
            # Between the groups of a search with context; twice in a row where a file between them was left out.
            if line and lines and lines[-1] != "--":
                lines.append(line.decode("utf-8", "replace"))
            continue
        if name not in seen:
            seen[name] = _may_be_seen(name, place, files)
        if seen[name]:
            lines.append(_line(name, rest, place))
    return lines[:-1] if lines and lines[-1] == "--" else lines


def _may_be_seen(name: bytes, place: Place, files: Files) -> bool:
    if name == _INPUT:
        return True
    path = place.path / os.fsdecode(name)
    if files.is_denied(path):
        return False
    if not place.hidden and files.policy.hides_below(place.path) and files.policy.is_hidden(path):
        return False
    try:
        found = files.stat(path)
    except ToolError:
        return False
    return found is None or not files.is_twin(path, found)


def _line(name: bytes, rest: bytes, place: Place) -> str:
    path = name.removeprefix(b"./").decode("utf-8", "replace")
    if name == _INPUT:
        path = place.shown
    elif place.shown != ".":
        path = f"{place.shown}/{path}"
    text = rest.decode("utf-8", "replace")
    number = re.match(r"\d+[:-]", text)
    return f"{path}{number[0][-1] if number else ''}{text}"
