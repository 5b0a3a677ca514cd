"""A foreign agent's process, as the source and sink of a peer.

The person named the command, so it is theirs: it runs with their rights and their whole environment, the keys included
that this program keeps from everything a model starts (the agent needs its own, and nobody else can tell which those
are). It ends with us, whatever ends us, as an MCP server does. Knows processes; must not know the protocol.
"""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path

import anyio

from laguna_agent.errors import UsageError
from laguna_agent.event_lines import one_line
from laguna_agent.held_keys import held_variables
from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.process import ServerProcess
from laguna_agent.redaction import without_keys

PRINTED = 400
"""Bytes from the beginning of its stdout that are kept: what is no agent says there what it is."""


class AgentProcess:
    """See the module; make one with `start`, leave it with `end`."""

    def __init__(self, program: str, process: ServerProcess) -> None:
        self.program = program
        self._process = process
        self._printed = b""
        self._waiting_since = math.inf

    @classmethod
    async def start(cls, command: str, cwd: Path) -> AgentProcess:
        """Run the command line, which no shell reads, in `cwd`. Raises UsageError where it cannot be started."""
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise UsageError(f"the agent's command cannot be read ({error}): {one_line(command)}") from None
        if not words:
            raise UsageError("the agent's command is empty; give the one that speaks ACP, such as 'gemini --acp'")
        program = McpServer(words[0], command=words[0], args=tuple(words[1:]))
        try:
            process = await ServerProcess.start(program, cwd, outer={**os.environ, **held_variables()})
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"the agent cannot be started: {one_line(words[0])}: {reason}") from error
        return cls(Path(words[0]).name, process)

    async def read(self) -> bytes:
        """Some bytes of its stdout; none at the end."""
        self._waiting_since = anyio.current_time()
        data = await self._process.read()
        self._waiting_since = math.inf
        if len(self._printed) < PRINTED:
            self._printed = (self._printed + data)[:PRINTED]
        return data

    async def write(self, data: bytes) -> None:
        """Write to its stdin. Where nobody reads that any more it is dropped: what the agent still said is worth
        hearing, and the end of that is the end."""
        await self._process.send(data)

    async def listen(self) -> None:
        """Read its stderr to the end."""
        await self._process.listen()

    async def silent(self, seconds: float) -> None:
        """Wait for its end, and until its stdout has given nothing for so long to who reads it: what it started may
        hold the pipe, so that there may never be an end of it."""
        await self._process.exited()
        while anyio.current_time() < self._waiting_since + seconds:  # noqa: ASYNC110 - time alone tells
            await anyio.sleep(seconds / 4)

    async def end(self) -> None:
        """Close its stdin, and end what of it is left a moment later: TERM, then KILL."""
        await self._process.end()

    @property
    def ended(self) -> str:
        """How it ended: "exit code 3", "signal 9"; "" while it runs."""
        code = self._process.exit_code
        return "" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"

    @property
    def last_words(self) -> str:
        """What it said last on stderr, else what it printed that is no message; on one line, without keys."""
        said = self._process.said.text
        if not said and not self._printed.lstrip().startswith(b"{"):
            said = " ".join(self._printed.decode("utf-8", "replace").split())
        return one_line(without_keys(said), PRINTED)
