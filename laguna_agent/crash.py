"""What is kept of a bug: a report in `<state>/crashes/`, and one line for the person. It goes nowhere by itself."""

from __future__ import annotations

import datetime
import os
import secrets
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from laguna_agent import __version__
from laguna_agent.directories import open_private, private_directory, state_directory
from laguna_agent.redaction import without_tokens

KEPT = 10
"""Reports; older ones go, for a program that crashes in a loop must not fill the disk."""
LONGEST = 200_000
"""Characters of a report."""
PACKAGES = ("msgspec", "anyio", "httpx", "typer", "mcp", "tree-sitter", "torch")


def describe_crash(error: BaseException, *, session: str = "", log: Iterable[str] = ()) -> str:
    """Write a report; returns the one line that says what happened and where to look. `log` are the last lines of the
    session's own log.

    Never raises: a state directory that cannot be written is said in the line instead.
    """
    what = " ".join(without_tokens(f"{type(error).__name__}: {error}").split())[:300]
    now = datetime.datetime.now(datetime.UTC)
    path = crash_directory() / f"{now:%Y%m%d-%H%M%S-%f}-{secrets.token_hex(2)}.txt"
    try:
        private_directory(path.parent)
        handle = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as report:
            report.write(without_tokens(_report(error, now, session, log))[:LONGEST])
        for old in crash_reports()[KEPT:]:
            with suppress(FileNotFoundError):  # another process may have been faster
                old.unlink()
    except OSError as unwritable:
        return f"internal error: {what} (no report: {path}: {unwritable.strerror})"
    return f"internal error: {what} (a bug; the report is in {path})"


def crash_directory() -> Path:
    """Where the reports lie."""
    return state_directory() / "crashes"


def crash_reports() -> list[Path]:
    """All reports, newest first. Raises OSError."""
    return sorted(crash_directory().glob("*.txt"), reverse=True)


def _report(error: BaseException, now: datetime.datetime, session: str, log: Iterable[str]) -> str:
    import platform

    lines = [
        f"laguna-agent {__version__}, {now:%Y-%m-%dT%H:%M:%SZ}",
        f"python {sys.version.split()[0]} on {platform.system()} {platform.release()} {platform.machine()}",
        ", ".join(_versions()),
        f"session {session or '(none)'}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    said = list(log)
    if said:
        lines += ["The last lines of the session's log:", *said, ""]
    return "\n".join(lines)


def _versions() -> Iterable[str]:
    from importlib import metadata

    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield f"{name} {metadata.version(name)}"
