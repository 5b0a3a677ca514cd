"""What a run of a session begins with: the `Opened` record of a new or a recorded one, its walls, its log.

Knows the log and the settings; opens no backend.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from laguna_agent import __version__
from laguna_agent.agent.conversation import Past, rebuild
from laguna_agent.agent.journal import Journal
from laguna_agent.agent.rules import denied_globs
from laguna_agent.agent.store import Opened, iterate_log, new_session_id, now, session_directory
from laguna_agent.config import Settings
from laguna_agent.errors import SandboxError, UsageError
from laguna_agent.sandbox.confinement import Tier
from laguna_agent.sandbox.walls import Walls, put_up


def new_session(
    cwd: Path, settings: Settings, check: str | None, output_schema: dict[str, Any] | None, roots: tuple[str, ...]
) -> Opened:
    """The first record of a new session in `cwd`; raises UsageError where that is no directory."""
    if not cwd.is_dir():
        raise UsageError(f"the working directory does not exist: {cwd}")
    return Opened(
        new_session_id(),
        str(cwd.resolve()),
        settings.model or "",
        now(),
        f"laguna-agent {__version__}",
        msgspec.to_builtins(settings),
        check,
        output_schema,
        roots=roots,
    )


def recorded_session(
    log: Path,
    settings: Settings,
    check: str | None,
    output_schema: dict[str, Any] | None,
    roots: tuple[str, ...] | None,
    cwd: Path | None,
) -> Opened:
    """The first record of a later run of the session in `log`. `roots` and `cwd` of None are those that it began with.

    Raises UsageError where the log does not say where it began, or that directory is gone.
    """
    first = next(iterate_log(log), None)
    if not isinstance(first, Opened):
        raise UsageError(f"session {log.parent.name} was cut off before it began")
    directory = str(cwd.resolve()) if cwd else first.cwd
    if not Path(directory).is_dir():
        raise UsageError(f"the session's working directory is gone: {directory}")
    return msgspec.structs.replace(
        first,
        cwd=directory,
        model=settings.model or first.model,
        created=now(),
        settings=msgspec.to_builtins(settings),
        check=check,
        output_schema=output_schema,
        roots=first.roots if roots is None else roots,
    )


def walls_for(opened: Opened, settings: Settings) -> Walls:
    """What confines the commands of a session. Blocking. Raises SandboxError where that is not to be had."""
    root, roots = Path(opened.cwd), tuple(map(Path, opened.roots))
    return put_up(
        settings.sandbox,
        root,
        roots,
        spool=output_directory(opened.id),
        writable=map(Path, settings.writable),
        passed=settings.environment,
        denied=denied_globs(settings.rules),
    )


def require_walls(walls: Walls, settings: Settings) -> None:
    """Refuse to run a model's commands where nothing confines them and nobody is there to ask, but by the person's
    explicit word. Raises SandboxError."""
    if walls.tier == "none" and settings.sandbox != "none" and settings.approve in ("edits", "all"):
        raise SandboxError(
            f"--approve {settings.approve} runs commands that nobody sees, and no sandbox works here ({walls.why}); "
            "install bubblewrap, or give --sandbox=none to run them with your own rights"
        )


def output_directory(session_id: str) -> Path:
    """Where the whole output of a session's commands is kept."""
    return session_directory(session_id) / "output"


def begin_log(opened: Opened, sandbox: Tier) -> tuple[Journal, Opened, Past]:
    """The log of a session that is opened in this sandbox, and what it tells of the past. Raises UsageError, with
    nothing left open."""
    journal = Journal(session_directory(opened.id) / "log.jsonl")
    try:
        # Under the lock, for until then another process may have been writing; a log that is damaged stays as it is.
        past = rebuild(iterate_log(journal.path))
        opened = msgspec.structs.replace(opened, sandbox=sandbox)
        journal.append(opened)
    except UsageError:
        journal.close()
        raise
    return journal, opened, past
