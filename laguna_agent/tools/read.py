"""Read a file: text by lines, an image as an image, a directory as its entries."""

from __future__ import annotations

import base64
from typing import ClassVar

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import ImageBlock, Location, TextBlock, ToolKind
from laguna_agent.tools.base import Need, ToolContext, ToolResult, text_result
from laguna_agent.tools.change import nearby
from laguna_agent.tools.leave import path_need, reach
from laguna_agent.tools.text import decode, media_type
from laguna_agent.tools.workspace import Place, Workspace
from laguna_agent.visible import visible_line

FILE_CAP = 16 * 1024 * 1024
"""Bytes of the longest file that is read at all."""
IMAGE_CAP = 3_750_000
"""Bytes of the longest image: with base64 it stays under the 5 MB that model servers take."""
LINE_CAP = 2000
"""Characters shown of one line."""
ENTRIES_CAP = 500


class ReadArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`offset` is the first line, from 1; `limit` how many lines."""

    path: str
    offset: int = 1
    limit: int | None = None


class Read:
    """The tool `read`."""

    name: ClassVar[str] = "read"
    kind: ClassVar[ToolKind] = "read"
    arguments: ClassVar[type[msgspec.Struct]] = ReadArguments

    def title(self, args: ReadArguments) -> str:
        if args.offset <= 1 and args.limit is None:
            return f"Read {args.path}"
        last = "" if args.limit is None else str(max(1, args.offset) + args.limit - 1)
        return f"Read {args.path}:{max(1, args.offset)}-{last}"

    def needs(self, args: ReadArguments, workspace: Workspace) -> Need | None:
        return path_need("read", args.path, workspace)

    def locations(self, args: ReadArguments) -> tuple[Location, ...]:
        return (Location(args.path, max(1, args.offset)),)

    async def run(self, args: ReadArguments, context: ToolContext) -> ToolResult:
        place = reach("read", args.path, context)
        entry = await context.workspace.entry(place.path)
        if entry is None:
            raise ToolError(f"There is no file {place.shown}.{await nearby(place, context.workspace)}")
        if entry.kind == "directory":
            return await _directory(place, context.workspace)
        if entry.kind != "file":
            raise ToolError(f"{place.shown} is a device, FIFO or socket, not a file.")
        if entry.size > FILE_CAP:
            raise ToolError(
                f"{place.shown} has {entry.size:,} bytes, more than the {FILE_CAP:,} that `read` takes; "
                f"look at a part of it with grep, or with shell (sed -n '1,100p', head -c, tail)."
            )
        data = await context.workspace.read_bytes(place.path, FILE_CAP)
        type_ = media_type(data)
        if type_.startswith("image/"):
            return _image(place, type_, data)
        file = decode(data)
        if file is None or type_:
            raise ToolError(f"{place.shown} is binary ({type_ or 'unknown type'}, {len(data):,} bytes), not text.")
        context.ledger.saw(place.path, data)
        return text_result(numbered(file.text, args.offset, args.limit, context.read_cap))


def numbered(text: str, offset: int = 1, limit: int | None = None, cap: int = 60_000) -> str:
    """Lines `offset` to `offset + limit - 1` of a text, each after its number and a tab, at most about `cap`
    characters; a last line in brackets says where to go on when lines are left."""
    if not text:
        return "(the file is empty)"
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    first = max(1, offset)
    if first > len(lines):
        raise ToolError(f"The file has only {len(lines)} lines.")
    last = len(lines) if limit is None else min(len(lines), first + max(1, limit) - 1)
    shown: list[str] = []
    for number in range(first, last + 1):
        line = lines[number - 1]
        if len(line) > LINE_CAP:
            line = f"{line[:LINE_CAP]} [... {len(line) - LINE_CAP:,} more characters]"
        cap -= len(line) + 7
        if cap < 0 and shown:
            last = number - 1
            break
        shown.append(f"{number}\t{line}")
    if last < len(lines):
        shown.append(f"[lines {first}-{last} of {len(lines)}; go on with offset={last + 1}]")
    return "\n".join(shown)


def _image(place: Place, mime_type: str, data: bytes) -> ToolResult:
    if len(data) > IMAGE_CAP:
        raise ToolError(f"The image {place.shown} has {len(data):,} bytes; at most {IMAGE_CAP:,} can be shown.")
    block = ImageBlock(mime_type, base64.b64encode(data).decode("ascii"))
    return ToolResult(content=(TextBlock(f"{place.shown}: {mime_type}, {len(data):,} bytes"), block))


async def _directory(place: Place, workspace: Workspace) -> ToolResult:
    entries = await workspace.list(place.path)
    lines = [visible_line(entry.name) + ("/" if entry.kind == "directory" else "") for entry in entries[:ENTRIES_CAP]]
    if len(entries) > ENTRIES_CAP:
        lines.append(f"[{len(entries) - ENTRIES_CAP} more]")
    return text_result(f"{place.shown} is a directory:\n" + ("\n".join(lines) or "(empty)"))
