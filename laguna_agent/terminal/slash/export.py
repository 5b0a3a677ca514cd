"""`/export`: the session as a file, for people or for programs; never over another file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from laguna_agent.agent.exporting import FORMATS, exported
from laguna_agent.errors import UsageError
from laguna_agent.terminal.face import SlashCommand

if TYPE_CHECKING:
    from laguna_agent.terminal.face import Face

SUFFIXES = {"md": ".md", "atif": ".json", "log": ".jsonl"}


async def _export(face: Face, argument: str) -> None:
    session = face.link.session
    assert session is not None, "the command needs our own session"
    form, path = _wish(argument, session.cwd, session.id)
    await anyio.to_thread.run_sync(_write, session.id, form, path)
    face.say(f"wrote {path}", "dim")


def _wish(argument: str, cwd: Path, session_id: str) -> tuple[str, Path]:
    """The format and the file. Raises UsageError where there is no such format."""
    first, _, rest = argument.strip().partition(" ")
    if first in FORMATS or not first:
        form, name = first or "md", rest.strip()
    else:
        # A file alone says by its ending what it is to be.
        name = argument.strip()
        known = next((each for each, suffix in SUFFIXES.items() if name.endswith(suffix)), None)
        if known is None:
            raise UsageError(f"/export {first}: not a format; there are {', '.join(FORMATS)}, and a file may follow")
        form = known
    return form, cwd / (Path(name).expanduser() if name else f"session-{session_id}{SUFFIXES[form]}")


def _write(session_id: str, form: str, path: Path) -> None:
    from laguna_agent.agent.store import find_session
    from laguna_agent.directories import open_private

    data = exported(find_session(session_id), form)
    import os

    try:
        with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already, and nothing was written; name another file") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _formats(_: Face) -> tuple[str, ...]:
    return FORMATS


EXPORT = SlashCommand(
    "export", "Write the session to a file", _export, "md | atif | log, and a file", _formats, session=True
)
