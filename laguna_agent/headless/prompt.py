"""Where the prompt comes from: the argument, a file, or standard input.

Standard input is read only when there is no other prompt, and an open one on which nobody writes ends in a usage error:
parents that leave a pipe open are common, and waiting on them for ever is the classic way to hang CI.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

from laguna_agent.errors import UsageError
from laguna_agent.headless.invocation import Invocation

STDIN_PATIENCE = 5.0
"""Seconds until an unasked-for standard input must have delivered its first byte."""
PROMPT_BYTES = 16 * 1024 * 1024

HOW = "give one as an argument, with -f FILE, or on standard input"


def read_prompt(invocation: Invocation) -> str:
    """The prompt as text, never empty. Raises UsageError."""
    if invocation.prompt is not None and invocation.file is not None:
        raise UsageError("the prompt is given twice: as an argument and with -f; leave one out")
    if invocation.file is not None:
        text = _decode(_read_file(invocation.file), f"the prompt file {invocation.file}")
    elif invocation.prompt in {None, "-"}:
        text = _decode(_read_stdin(asked_for=invocation.prompt == "-"), "the prompt on standard input")
    else:
        text = invocation.prompt or ""
    if not text.strip():
        raise UsageError(f"the prompt is empty; {HOW}")
    return text


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(PROMPT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the prompt file {path}: {error.strerror}") from error


def _read_stdin(*, asked_for: bool) -> bytes:
    if sys.stdin is None or (sys.stdin.isatty() and not asked_for):
        raise UsageError(f"no prompt; {HOW}")
    fd = sys.stdin.fileno()
    if not asked_for and not select.select([fd], [], [], STDIN_PATIENCE)[0]:
        raise UsageError(
            f"no prompt, and standard input is open but silent for {STDIN_PATIENCE:g} s; {HOW} ('-' waits for it)"
        )
    received = bytearray()
    try:
        while len(received) <= PROMPT_BYTES and (piece := os.read(fd, 65_536)):
            received += piece
    except OSError as error:
        raise UsageError(f"cannot read standard input: {error.strerror}") from error
    return bytes(received)


def _decode(data: bytes, what: str) -> str:
    if len(data) > PROMPT_BYTES:
        raise UsageError(
            f"{what} is larger than {PROMPT_BYTES // 1024 // 1024} MiB; name the file in the prompt instead"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is not UTF-8 text (byte {error.start})") from error
