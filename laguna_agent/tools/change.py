"""Change one file: checked against what the model saw, written whole, its syntax looked at.

What `edit`, `write` and `rewrite_symbol` share. Knows files as bytes and text; it must not know how a tool arrived at
the new content.
"""

from __future__ import annotations

import difflib
import re

import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, Location
from laguna_agent.tools.base import ToolContext, ToolResult, text_result
from laguna_agent.tools.leave import reach
from laguna_agent.tools.text import TextFile, decode, media_type
from laguna_agent.tools.workspace import Place, Workspace

FILE_CAP = 16 * 1024 * 1024
"""Bytes of the longest file that is changed."""

_ELISION = re.compile(
    r"(?i)^\s*(?:#|//|/\*|<!--|--|;)?\s*(?:"
    r"(?:\.\.\.|…)\s*\(?(?:the )?(?:rest|remaining|existing|other|unchanged|same|previous|original)\b.*"
    r"|(?:the )?(?:rest|remainder) of (?:the |your )?(?:\w+ )?(?:code|file|class|function|methods?|module)\b.*"
    r"(?:unchanged|same|here|remains?|as before|\.\.\.|…).*"
    r"|(?:existing|previous|original|unchanged) (?:code|methods?|functions?)\s*(?:here|\.\.\.|…|unchanged).*)$"
)


WHOLE = 128 * 1024
"""Characters of both versions of a file up to which a change tells of all of it."""
AROUND = 40
"""Lines before and after the change that it tells of in a longer one."""


class OpenFile(msgspec.Struct, frozen=True):
    """A text file as it is on disk now."""

    place: Place
    data: bytes
    file: TextFile


class Proposal(msgspec.Struct, frozen=True):
    """A change that has not been made. `before` is None where there is no file yet; `summary` says what is done, and
    `line` where it begins."""

    place: Place
    before: OpenFile | None
    after: bytes
    text: str
    summary: str
    line: int | None = None

    @property
    def diff(self) -> FileDiff:
        """The change for people and editors; of a long file what changed, with some lines around it."""
        if self.before is None:
            return FileDiff(self.place.shown, None, self.text)
        return FileDiff(self.place.shown, *excerpts(self.before.file.text, self.text))


def excerpts(before: str, after: str) -> tuple[str, str, int]:
    """Two versions of a text without the lines, far from any change, that they begin and end with: the log keeps them
    for each edit, and must not grow with the size of the file. Short texts stay whole. Third, the number of the line
    that they begin with."""
    if len(before) + len(after) <= WHOLE:
        return before, after, 1
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    shorter = min(len(old), len(new))
    same = next((at for at in range(shorter) if old[at] != new[at]), shorter)
    tail = next((at for at in range(shorter - same) if old[-1 - at] != new[-1 - at]), shorter - same)
    begin, left = max(0, same - AROUND), max(0, tail - AROUND)
    # Lines are counted as an editor does, whatever else `splitlines` takes for their ends.
    line = "".join(old[:begin]).count("\n") + 1
    return "".join(old[begin : len(old) - left]), "".join(new[begin : len(new) - left]), line


async def open_text(path: str, context: ToolContext) -> OpenFile:
    """The text file at `path`, to be changed. ToolError when there is none, or it is no text."""
    workspace = context.workspace
    place = reach("write", path, context)
    entry = await workspace.entry(place.path)
    if entry is None:
        raise ToolError(f"There is no file {place.shown}.{await nearby(place, workspace)}")
    if entry.kind != "file":
        raise ToolError(f"{place.shown} is a {entry.kind if entry.kind == 'directory' else 'device'}, not a file.")
    data = await workspace.read_bytes(place.path, FILE_CAP)
    file = decode(data)
    if file is None:
        raise ToolError(f"{place.shown} is binary ({media_type(data) or 'unknown type'}), not text.")
    return OpenFile(place, data, file)


async def make(proposal: Proposal, context: ToolContext) -> ToolResult:
    """Write it. ToolError, and nothing is written, when the file is not what the model last saw."""
    place, before = proposal.place, proposal.before
    if before is not None:
        context.ledger.check(place.path, place.shown, before.data)
        if before.data == proposal.after:
            raise ToolError(f"{place.shown} already is exactly so; nothing was changed.")
    await context.workspace.write_bytes(place.path, proposal.after)
    context.ledger.saw(place.path, proposal.after)
    summary = proposal.summary + await anyio.to_thread.run_sync(_syntax_note, proposal)
    return text_result(summary, diffs=(proposal.diff,), locations=(Location(place.shown, proposal.line),))


async def nearby(place: Place, workspace: Workspace) -> str:
    """A hint at files of nearly that name in the same directory; "" when there are none."""
    if place.outside or await workspace.entry(place.path.parent) is None:
        return ""
    names = [entry.name for entry in await workspace.list(place.path.parent)]
    near = difflib.get_close_matches(place.path.name, names, 3, 0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def refuse_elision(new: str, before: str) -> None:
    """ToolError when `new` leaves code out with words ("# ... rest of the code unchanged") that `before` lacks."""
    for line in new.split("\n"):
        if _ELISION.match(line) and line not in before:
            raise ToolError(f"Nothing was changed: {line.strip()!r} stands for code that is left out. Write all of it.")


def _syntax_note(proposal: Proposal) -> str:
    from laguna_agent.code.syntax import new_error

    before = None if proposal.before is None else proposal.before.file.text
    problem = new_error(str(proposal.place.path), before, proposal.text)
    if problem is None:
        return ""
    return f"\nThis brought a syntax error into {proposal.place.shown}, line {problem.line}: {problem.text}."
