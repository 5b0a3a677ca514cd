"""Which session and which directory a face was asked for: the meaning of --cwd, --continue and --resume."""

from __future__ import annotations

from pathlib import Path

from laguna_agent.errors import UsageError


def working_directory(named: Path | None) -> Path:
    """The absolute directory to work in; raises UsageError where it is none."""
    try:
        path = (named or Path()).resolve(strict=True)
    except OSError as error:
        raise UsageError(f"the working directory {named or '.'} cannot be used: {error.strerror}") from error
    if not path.is_dir():
        raise UsageError(f"the working directory {path} is not a directory")
    return path


def choose_session(*, resume: str | None, continue_latest: bool, cwd: Path | None) -> tuple[str | None, Path]:
    """The id of the session to go on with, None for a new one, and its directory. Raises UsageError."""
    if resume is not None and continue_latest:
        raise UsageError("--resume and --continue exclude each other; leave one out")
    if resume is not None:
        return _resumed(resume, cwd)
    directory = working_directory(cwd)
    if not continue_latest:
        return None, directory
    from laguna_agent.agent.archive import latest_session

    latest = latest_session(directory)
    if latest is None:
        raise UsageError(f"there is no session of {directory} to continue; leave --continue out")
    return latest, directory


def _resumed(id_or_prefix: str, cwd: Path | None) -> tuple[str, Path]:
    from laguna_agent.agent.store import Opened, find_session, iterate_log

    log = find_session(id_or_prefix)
    opened = next(iterate_log(log), None)
    if not isinstance(opened, Opened):
        raise UsageError(f"the log of session {log.parent.name} does not say where it began: {log}")
    directory = working_directory(Path(opened.cwd))
    if cwd is not None and working_directory(cwd) != directory:
        raise UsageError(f"session {log.parent.name} belongs to {directory}; leave --cwd out")
    return log.parent.name, directory
