"""`!command`: a command of the person's own, in their shell and environment, not the model's.

Nothing confines it, as nothing does in the terminal next to this one. It has no keyboard and no terminal, which belong
to the face. Being interrupted ends its process group; what it leaves in the background stays, but nobody reads what
that writes. Knows processes and text; must not know who looks.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from laguna_agent.errors import UsageError
from laguna_agent.redaction import StreamRedactor, TokenStream
from laguna_agent.sandbox.output import Cleaner

TAIL = 32 * 1024
"""Characters of the output that are kept."""
LIVE = 4 * 1024 * 1024
"""Characters that are handed on while it runs; what comes then is in the tail alone."""
GRACE = 2.0
"""Seconds between TERM and KILL."""
_PIECE = 16 * 1024
_PAUSE = 0.3


@dataclass(frozen=True)
class Banged:
    """A command that has run. `output_tail` is the end of what it wrote, `cut` says that there was more before;
    `exit_code` is 128 + n after signal n."""

    command: str
    output_tail: str
    exit_code: int
    cut: bool = False


async def run_bang(command: str, cwd: Path, on_output: Callable[[str], None]) -> Banged:
    """Run a command to its end; being cancelled ends it and what it started, and raises on.

    `on_output` gets the output as it comes, both streams in their order, without escape sequences and known keys; what
    hides in Unicode is still for `visible`. Raises UsageError where the shell cannot be started.
    """
    shell = os.environ.get("SHELL") or "/bin/sh"
    output = _Output(on_output)
    reading_end, writing_end = os.pipe()
    with io.FileIO(reading_end) as pipe:
        try:
            process = await asyncio.create_subprocess_exec(
                shell,
                "-c",
                command,
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing_end,
                stderr=writing_end,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"{shell} cannot be started in {cwd}: {error}") from error
        finally:
            os.close(writing_end)
        try:
            await _until_its_end(process, pipe, output)
        except asyncio.CancelledError:
            await _end(process)
            raise
    output.end()
    code = process.returncode
    assert code is not None
    return Banged(command, output.tail, code if code >= 0 else 128 - code, output.cut)


async def _until_its_end(process: asyncio.subprocess.Process, pipe: io.FileIO, output: _Output) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    reading = asyncio.create_task(_read(reader, output))
    try:
        await process.wait()
        seen = -1
        # What it left in the background may keep the pipe open for ever; what it wrote itself comes without a pause.
        while not reading.done() and seen != output.bytes:
            seen = output.bytes
            await asyncio.wait({reading}, timeout=_PAUSE)
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading
        transport.close()


async def _read(stream: asyncio.StreamReader, output: _Output) -> None:
    while piece := await stream.read(_PIECE):
        output.feed(piece)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End its whole group."""
    _signal(process.pid, signal.SIGTERM)
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(process.wait(), GRACE)
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: int) -> None:
    # Nobody may be left in it.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


class _Output:
    """The output as text: cleaned, without keys, handed on, its end kept."""

    def __init__(self, on_output: Callable[[str], None]) -> None:
        self.tail = ""
        self.cut = False
        self.bytes = 0
        self._on_output = on_output
        self._handed_on = 0
        # Twice: escape sequences between the letters of a key hide it from the first, and not from a reader.
        self._raw, self._cleaner, self._keys = TokenStream(), Cleaner(), StreamRedactor("")

    def feed(self, data: bytes) -> None:
        self.bytes += len(data)
        self._add(self._keys.feed(self._cleaner.feed(self._raw.feed_bytes(data))))

    def end(self) -> None:
        """No more will come; hand on what was held back."""
        last = self._cleaner.feed(self._raw.feed_bytes(b"", final=True), final=True)
        self._add(self._keys.feed(last, final=True))

    def _add(self, text: str) -> None:
        if not text:
            return
        self.cut = self.cut or len(self.tail) + len(text) > TAIL
        self.tail = (self.tail + text)[-TAIL:]
        if self._handed_on < LIVE:
            self._handed_on += len(text)
            self._on_output(text)
