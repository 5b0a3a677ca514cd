"""What is kept of a bug: the traceback in `<state>/crash.log`, and one line for the person."""

from __future__ import annotations

import datetime
import os
import sys
import traceback

from laguna_agent import __version__
from laguna_agent.directories import open_private, private_directory, state_directory
from laguna_agent.redaction import without_tokens

CRASH_LOG_BYTES = 1_000_000


def describe_crash(error: BaseException) -> str:
    """Append the traceback to the crash log; returns the one line that says what happened and where to look.

    Never raises: a state directory that cannot be written is said in the line instead.
    """
    path = state_directory() / "crash.log"
    what = " ".join(without_tokens(f"{type(error).__name__}: {error}").split())[:300]
    try:
        private_directory(path.parent)
        # A program that crashes in a loop must not fill the disk.
        full = path.exists() and path.stat().st_size > CRASH_LOG_BYTES
        handle = open_private(path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if full else os.O_APPEND))
        with os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"--- {datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} laguna-agent {__version__} ")
            log.write(f"python {sys.version.split()[0]} {sys.platform}\n")
            log.write(without_tokens("".join(traceback.format_exception(error))))
    except OSError as unwritable:
        return f"internal error: {what} (no traceback: {path}: {unwritable.strerror})"
    return f"internal error: {what} (a bug; the traceback is in {path})"
