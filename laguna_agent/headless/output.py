"""The run's stdout and stderr.

The real stdout is moved to a private descriptor and file descriptor 1 becomes stderr, so that a stray print of a
library, or a child that inherits our streams, cannot spoil the result. Writes wait for the reader without blocking the
event loop: a reader that stalls must not keep a signal from being handled.
"""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from typing import ClassVar

import anyio
import msgspec

from laguna_agent.agent.events import (
    Compaction,
    Event,
    Forked,
    ModelProgress,
    Notice,
    PermissionResolved,
    Redone,
    Retrying,
    Rewound,
    Steered,
    ToolCallStarted,
    ToolCallUpdate,
)
from laguna_agent.agent.outcome import RunRecord
from laguna_agent.errors import EXIT_SIGTERM, UsageError
from laguna_agent.event_lines import (
    ended_line,
    one_line,
    printable,
    retry_line,
    started_line,
    steered_line,
    summary_line,
)
from laguna_agent.progress_line import ProgressLine
from laguna_agent.visible import visible

MODES = ("text", "json", "stream-json")
LAST_WORDS_PATIENCE = 2.0
"""Seconds that the final record waits for a stalled reader once a signal asked us to go."""


class Unreadable(Exception):
    """Stdout does not take the result. A reader that went away is no error to talk about: it ends the run as a
    SIGTERM would; a full disk is."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.exit_code = EXIT_SIGTERM if isinstance(error, BrokenPipeError) else UsageError.exit_code
        if self.exit_code != EXIT_SIGTERM:
            _say(f"laguna-agent: cannot write the result to standard output: {error.strerror}")


class Output:
    """Where events and the final record go. Its methods raise Unreadable."""

    result_written: ClassVar[bool] = False
    """Whether this process has begun to write its one final record."""

    def __init__(self, mode: str) -> None:
        """Take over stdout; raises UsageError for an unknown mode or a closed stdout."""
        if mode not in MODES:
            raise UsageError(f"--output {mode!r} is not valid; expected one of {', '.join(MODES)}")
        self.mode = mode
        self._titles: dict[str, str] = {}
        self._progress_line = ProgressLine()
        self._stalled = False
        self._mid_line = False
        try:
            self._stdout = os.dup(1)
        except OSError as error:
            raise UsageError("standard output is closed; there is nowhere to write the result") from error
        with suppress(OSError):  # a closed stderr
            os.dup2(2, 1)

    async def event(self, event: Event) -> None:
        """Show one event, as the mode has it."""
        if self._stalled:
            return
        if isinstance(event, ModelProgress):
            self._progress_line.show(event)
        if event.live_only:
            return
        self._progress_line.clear()
        if self.mode == "stream-json":
            await self._write(msgspec.json.encode(event) + b"\n")
        elif self.mode == "text":
            self._progress(event)

    def warn(self, text: str) -> None:
        """Say something on stderr that is no event of the run; nothing where there is nothing to say."""
        if text:
            _say(f"warning: {one_line(text, 2_000)}")

    def give_up(self) -> None:
        """Write no more events: the reader does not take them."""
        self._stalled = True

    def finish(self, record: RunRecord, *, hurried: bool = False) -> None:
        """Write the final record, and on stderr why the run did not complete, where it did not. The first call counts:
        a signal that comes when the record is out must not write another one."""
        self._progress_line.clear()
        if Output.result_written:
            return
        if record.exit_code != 0:
            why = record.message or record.outcome
            # A person reads text, and advice may take several lines; logs want one.
            _say(f"laguna-agent: {printable(why) if self.mode == 'text' else one_line(why, 2_000)}")
        if self.mode == "text" and record.turns:
            _say(summary_line(record))
        self.write_record(record, LAST_WORDS_PATIENCE if hurried else None)

    def write_record(self, record: RunRecord, patience: float | None) -> None:
        """Write the final record alone; given `patience` in seconds, not to a reader that stalls for longer."""
        Output.result_written = True
        if self.mode == "text":
            # Also into a pipe: what reads it may be a pager. The exact text is in the JSON modes.
            text = printable(record.text) if os.isatty(self._stdout) else visible(record.text)
            data = (text.rstrip("\n") + "\n").encode(errors="surrogateescape") if text.strip() else b""
        else:
            data = b"\n" * self._mid_line + msgspec.json.encode(record) + b"\n"
        self._write_to_end(data, patience)

    def _progress(self, event: Event) -> None:
        match event:
            case ToolCallStarted():
                self._titles[event.id] = event.title or event.name
                _say(started_line(event))
            case ToolCallUpdate(status="completed" | "failed"):
                title = self._titles.pop(event.id, event.id)
                if event.status == "failed" or event.exit_code is not None:
                    _say("  " + ended_line(event, title))
            case PermissionResolved(allowed=False):
                _say(f"  denied: {one_line(event.reason)}")
            case Rewound():
                _say(f"{event.prompts} prompts taken back; {len(event.files)} files put back")
            case Redone():
                _say(f"what was taken back is there again; {len(event.files)} files put back")
            case Forked():
                _say(f"session {event.session_id} is a copy of this conversation; files were not copied")
            case Steered():
                _say(one_line(steered_line(event), 2_000))
            case Retrying():
                _say(f"warning: {one_line(retry_line(event), 2_000)}")
            case Compaction(status="completed" | "failed"):
                _say(f"history: {one_line(event.summary, 2_000)}")
            case Notice():
                _say(f"{event.severity}: {one_line(event.text, 2_000)}")

    async def _write(self, data: bytes) -> None:
        for at in range(0, len(data), select.PIPE_BUF):
            # A pipe that is writable takes PIPE_BUF bytes without blocking.
            if not _writable(self._stdout, 0):
                await anyio.wait_writable(self._stdout)
            self._put(data[at : at + select.PIPE_BUF])

    def _write_to_end(self, data: bytes, patience: float | None) -> None:
        for at in range(0, len(data), select.PIPE_BUF):
            if not _writable(self._stdout, patience):
                return
            self._put(data[at : at + select.PIPE_BUF])

    def _put(self, data: bytes) -> None:
        self._mid_line = not data.endswith(b"\n")
        try:
            while data:
                data = data[os.write(self._stdout, data) :]
        except OSError as error:
            raise Unreadable(error) from error


def _writable(fd: int, patience: float | None) -> bool:
    return bool(select.select([], [fd], [], patience)[1])


def _say(line: str) -> None:
    """A line for people; dropped rather than waited for when nobody reads stderr."""
    if sys.stderr is None:
        return
    with suppress(OSError):
        if _writable(2, 0):
            os.write(2, (line + "\n").encode(errors="backslashreplace"))
