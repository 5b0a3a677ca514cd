"""`/diff` and `/rewind`: what the session did to files, and back to an earlier prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.to_thread
from rich.console import Group
from rich.text import Text

from laguna_agent.errors import UsageError
from laguna_agent.event_lines import one_line
from laguna_agent.messages import TextBlock
from laguna_agent.terminal.face import SlashCommand
from laguna_agent.terminal.picker import Picker
from laguna_agent.terminal.slash.tables import Cell, show, text

if TYPE_CHECKING:
    from laguna_agent.checkpoints.changes import FileChange
    from laguna_agent.terminal.face import Face
    from laguna_agent.terminal.theme import Theme

SHOWN_LINES = 400
STYLES = {"+": "added", "-": "removed", "@": "accent"}


async def _diff(face: Face, argument: str) -> None:
    session = face.link.session
    assert session is not None, "the command needs our own session"
    since = _number(argument)
    if not session.asked:
        face.say("Nothing was changed: no prompt was sent yet.", "dim")
        return
    if since > len(session.asked):
        raise UsageError(f"there are prompts 1 to {len(session.asked)}, and no prompt {since}")
    found = await anyio.to_thread.run_sync(_changes, session.id, since)
    if not found:
        face.say("No files were changed.", "dim")
        return
    show(face, changes_text(found, face.theme, session.id))


def _number(argument: str) -> int:
    argument = argument.strip()
    if not argument:
        return 1
    if not (argument.isascii() and argument.isdigit() and int(argument)):
        raise UsageError(
            f"/diff {argument}: that is no number of a prompt; /diff 2 shows what changed since the second"
        )
    return int(argument)


def _changes(session_id: str, since: int) -> list[FileChange]:
    from laguna_agent.agent.session_files import NothingChanged, SessionFiles

    try:
        files = SessionFiles(session_id)
    except NothingChanged:
        return []
    return files.changes(since, len(files.prompts))


def changes_text(found: list[FileChange], theme: Theme, session_id: str) -> Group:
    """The files with the lines that differ, and how many they are."""
    rows: list[Text] = []
    for change in found:
        rows.append(text(theme, (one_line(change.path), "strong"), ("  " + _counts(change), "dim")))
        # The rest of what git writes above is in the line that names the file.
        body = [line for line in change.patch if not line.startswith(("diff --git", "--- ", "+++ "))]
        rows += [text(theme, ("  " + line, STYLES.get(line[:1], "dim"))) for line in body]
    left_out = len(rows) - SHOWN_LINES
    if left_out > 0:
        said = f"... {left_out} more lines; `laguna-agent sessions diff {session_id}` prints all"
        rows = [*rows[:SHOWN_LINES], text(theme, (said, "dim"))]
    added, removed = sum(change.added or 0 for change in found), sum(change.removed or 0 for change in found)
    files = "1 file" if len(found) == 1 else f"{len(found)} files"
    cells: tuple[Cell, ...] = (f"{files}, ", (f"+{added}", "added"), " ", (f"-{removed}", "removed"))
    return Group(*rows, text(theme, *cells))


def _counts(change: FileChange) -> str:
    counts = "not text" if change.added is None else f"+{change.added} -{change.removed}"
    return counts + {"added": " (new)", "deleted": " (gone)"}.get(change.change, "")


async def _rewind(face: Face, argument: str) -> None:
    session = face.link.session
    assert session is not None, "the command needs our own session"
    if argument:
        # Where the app has not sent it there itself: the agent takes numbers.
        await face.link.send((TextBlock(f"/rewind {argument}"),))
        return
    asked = list(session.asked)
    if not asked:
        face.say("There is no prompt to go back to yet.", "dim")
        return
    items = [
        (back, one_line(words), "takes back 1 prompt" if back == 1 else f"takes back {back} prompts")
        for back, words in enumerate(reversed(asked), 1)
    ]
    back = await face.show(Picker("Back to before which prompt? Its files go back too", items, face.theme))
    if back is not None:
        face.submit(f"/rewind {back}")


def _prompts(face: Face) -> list[str]:
    session = face.link.session
    return [str(number) for number in range(1, min(20, len(session.asked) if session is not None else 0) + 1)]


DIFF = SlashCommand(
    "diff",
    "Show what the session changed in files, since prompt N if you like",
    _diff,
    "N",
    _prompts,
    at_work=True,
    session=True,
)
REWIND = SlashCommand(
    "rewind", "Go back to before a prompt, files too", _rewind, "how many prompts, force | keep", session=True
)
