"""Commands in the client's terminals: https://agentclientprotocol.com/protocol/v1/terminals

Knows the life of a terminal: created, watched, read, killed where need be, released exactly once whatever happens. It
must not know when a command may run there; the workspace decides that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from laguna_agent.acp import schema
from laguna_agent.acp.peer import METHOD_NOT_FOUND, ConnectionClosed, Peer, RpcError
from laguna_agent.errors import LagunaError, ToolError
from laguna_agent.sandbox import processes
from laguna_agent.sandbox.environment import terminal_environment
from laguna_agent.sandbox.launcher import GRACE, CommandResult
from laguna_agent.sandbox.output import Capture
from laguna_agent.sandbox.shells import shell

OUTPUT_LIMIT = 4 * 1024 * 1024
"""Bytes of output that the client is asked to keep: the last ones."""
PATIENCE = 20.0
"""Seconds that a client may take to make a terminal or to hand over its output."""
CANCEL_PATIENCE = 2.0
"""Seconds that it may take for each of these, and to kill, once the turn was cancelled."""
KILLED = schema.TerminalExitStatus(signal="SIGKILL")
UNKNOWN_EXIT = 255
"""The exit code of a command of which the client does not say how it ended."""

T = TypeVar("T")


class Terminals:
    """Runs commands in terminals of one session's client.

    `offered` says whether the client has any.
    """

    def __init__(self, peer: Peer, session_id: str, offered: bool, patience: float = PATIENCE) -> None:
        self.offered = offered
        self._peer = peer
        self._session_id = session_id
        self._patience = patience

    async def run(
        self,
        command: str,
        cwd: Path,
        capture: Capture,
        *,
        timeout: float,
        on_terminal: Callable[[str], Awaitable[None]] | None,
    ) -> CommandResult | None:
        """Run to the end, or for `timeout` seconds; None where the client refused, and so nothing ran. `on_terminal`
        returns once the client was told which call the terminal belongs to.

        ToolError where the client is gone or does not answer: then nobody knows what ran.
        """
        started, mark = monotonic(), secrets.token_hex(8)
        terminal = await self._create(command, cwd, mark)
        if terminal is None:
            return None
        try:
            if on_terminal is not None:
                # Not given up half-way: a client shows no terminal that it hears of only after the release.
                with anyio.CancelScope(shield=True), anyio.move_on_after(CANCEL_PATIENCE):
                    await on_terminal(terminal)
            status = await self._wait(terminal, timeout)
            if status is None:
                await self._end(terminal, mark)
            last = await self._read(terminal, capture)
            code = exit_code(status, last) if status else exit_code(last, KILLED)
            return CommandResult(capture, code, monotonic() - started, timed_out=status is None)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await self._end(terminal, mark)
            if isinstance(error, LagunaError):
                raise ToolError(f"The editor's terminal failed, and the command was ended: {error}") from error
            raise
        finally:
            self._release(terminal)

    async def _create(self, command: str, cwd: Path, mark: str) -> str | None:
        """A new terminal's id. Cancelled, it waits a moment for the answer, and releases what comes later."""
        request = schema.CreateTerminalRequest(
            session_id=self._session_id,
            command=shell(),
            args=["-c", command],
            env=[
                schema.EnvVariable(name=name, value=value)
                for name, value in (terminal_environment(os.environ) | {processes.MARK: mark}).items()
            ],
            cwd=str(cwd),
            output_byte_limit=OUTPUT_LIMIT,
        )
        try:
            made = await self._settled("terminal/create", request, schema.CreateTerminalResponse, self._too_late)
        except ConnectionClosed:
            raise ToolError("The editor is gone; nothing is known of the command.") from None
        except RpcError as refusal:
            self.offered = refusal.code != METHOD_NOT_FOUND
            return None
        if made is None:
            # It may still run there. Running it here as well could do twice what must be done once.
            self.offered = False
            raise ToolError(
                f"The editor did not make a terminal within {self._patience:g} s; whether the command ran is not "
                "known. Commands will run without the editor from now on: look at what there is, then try again."
            )
        return made.terminal_id

    async def _settled(self, method: str, params: Any, kind: type[T], late: Callable[[T], None]) -> T | None:
        """The answer to a request that must not be forgotten: None where it takes too long, and then `late` takes it.

        Cancelled, it gives the answer `CANCEL_PATIENCE` more.
        """
        outcome: list[T | LagunaError] = []
        answered = anyio.Event()
        waiting = anyio.CancelScope(shield=True, deadline=anyio.current_time() + self._patience)

        async def ask() -> None:
            with waiting:
                try:
                    result: T = await self._peer.request(method, params, kind, late=late)
                    outcome.append(result)
                except LagunaError as error:
                    outcome.append(error)
            answered.set()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                try:
                    await answered.wait()
                except anyio.get_cancelled_exc_class():
                    waiting.deadline = min(waiting.deadline, anyio.current_time() + CANCEL_PATIENCE)
                    raise
        except anyio.get_cancelled_exc_class():
            if outcome and not isinstance(outcome[0], LagunaError):
                late(outcome[0])
            raise
        result = outcome[0] if outcome else None
        if isinstance(result, LagunaError):
            raise result
        return result

    async def _wait(self, terminal: str, timeout: float) -> schema.TerminalExitStatus | None:
        """How the command ended; None where it did not within `timeout` seconds."""
        request = schema.WaitForTerminalExitRequest(session_id=self._session_id, terminal_id=terminal)
        with anyio.move_on_after(timeout):
            ended = await self._peer.request("terminal/wait_for_exit", request, schema.WaitForTerminalExitResponse)
            return schema.TerminalExitStatus(exit_code=ended.exit_code, signal=ended.signal)
        return None

    async def _read(self, terminal: str, capture: Capture) -> schema.TerminalExitStatus | None:
        """Put the output into `capture`; how the command ended, where the client says it here too."""
        request = schema.TerminalOutputRequest(session_id=self._session_id, terminal_id=terminal)
        said, problem = None, f"no answer within {self._patience:g} s"
        with anyio.move_on_after(self._patience):
            try:
                said = await self._peer.request("terminal/output", request, schema.TerminalOutputResponse)
            except RpcError as refusal:
                problem = str(refusal)
        if said is None:
            capture.feed(f"[the editor did not hand over the output: {problem}]\n".encode())
        elif said.truncated:
            capture.feed(b"[the editor kept only the end of the output]\n")
        capture.feed((said.output if said else "").encode("utf-8", "replace"))
        capture.close()
        return said.exit_status if said else None

    async def _end(self, terminal: str, mark: str) -> None:
        """Have the client kill the command, and end ourselves what of it is left on this machine."""
        request = schema.KillTerminalRequest(session_id=self._session_id, terminal_id=terminal)
        with anyio.move_on_after(CANCEL_PATIENCE), contextlib.suppress(LagunaError):
            await self._peer.request("terminal/kill", request, schema.KillTerminalResponse)
        await anyio.to_thread.run_sync(processes.end_marked, mark, GRACE)

    def _too_late(self, made: schema.CreateTerminalResponse) -> None:
        self._release(made.terminal_id)

    def _release(self, terminal: str) -> None:
        # Nobody waits for the answer: a client that does not answer any more must not hold up a cancelled turn.
        request = schema.ReleaseTerminalRequest(session_id=self._session_id, terminal_id=terminal)
        self._peer.post("terminal/release", request)


def exit_code(*statuses: schema.TerminalExitStatus | None) -> int:
    """The first code that the client gives; else 128 + n for the first signal n that it names, as shells do."""
    known = [status for status in statuses if status is not None]
    for status in known:
        if status.exit_code is not None:
            return status.exit_code
    for status in known:
        name = (status.signal or "").upper()
        number = int(name) if name.isdigit() else signal.Signals.__members__.get(f"SIG{name.removeprefix('SIG')}")
        if number is not None:
            return 128 + number
    return UNKNOWN_EXIT
