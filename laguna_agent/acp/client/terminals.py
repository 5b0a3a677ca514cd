"""A foreign agent's requests for commands: https://agentclientprotocol.com/protocol/v1/terminals

A terminal is one command, run by our launcher behind the session's walls once the person lets it, with its output kept
until the agent releases it. Must not know the agent's tool calls, though one may show a terminal.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path

import anyio
import anyio.abc

from laguna_agent.acp import schema
from laguna_agent.acp.client.ground import Ground
from laguna_agent.acp.peer import RESOURCE_NOT_FOUND, RpcError
from laguna_agent.errors import LagunaError, ToolError
from laguna_agent.sandbox.environment import terminal_environment
from laguna_agent.sandbox.launcher import Granted
from laguna_agent.sandbox.processes import MARK
from laguna_agent.tools.base import Need
from laguna_agent.tools.workspace import LocalWorkspace

OUTPUT_LIMIT = 1 << 20
"""Characters of output that are kept where the agent sets no lower limit: the last ones."""
MOST = 32
"""Terminals of a session that may be there at once."""
OURS = frozenset({*terminal_environment({}), MARK})
"""Variables that our launcher sets itself."""
SHELLS = ("sh", "bash")


class ForeignTerminal:
    """One command and what it has printed; `shown` is the call that stands for it where the agent tells of none."""

    def __init__(self, command: str, limit: int, shown: str) -> None:
        self.command = command
        self.shown = shown
        self.output = ""
        self.truncated = False
        self.status: schema.TerminalExitStatus | None = None
        self.ended = anyio.Event()
        self.scope = anyio.CancelScope()
        self._limit = limit

    def print(self, text: str) -> None:
        """Take more output."""
        whole = self.output + text
        self.output = whole[max(0, len(whole) - self._limit) :]
        self.truncated = self.truncated or len(whole) > self._limit

    def end(self, status: schema.TerminalExitStatus) -> None:
        """It is over."""
        self.status = status
        self.ended.set()


class ForeignTerminals:
    """The terminals of one session. `printed` is told the id of one that has printed something."""

    def __init__(self, ground: Ground, tasks: anyio.abc.TaskGroup, printed: Callable[[str], None]) -> None:
        self._ground = ground
        self._tasks = tasks
        self._printed = printed
        self._terminals: dict[str, ForeignTerminal] = {}
        self._count = 0

    def output_of(self, id: str) -> str:
        """What a terminal has printed; "" for one that is not there."""
        terminal = self._terminals.get(id)
        return "" if terminal is None else terminal.output

    async def create(self, asked: schema.CreateTerminalRequest) -> schema.CreateTerminalResponse:
        """Run a command, once the person lets it."""
        if len(self._terminals) >= MOST:
            raise ToolError(f"{MOST} terminals are there; release one first.")
        workspace = await self._ground.workspace()
        line = command_line(asked.command, asked.args or ())
        whole = await self._whole(asked, line, workspace)
        kind, shown = await self._leave(line, whole)
        self._count += 1
        id = f"terminal-{self._count}"
        limit = OUTPUT_LIMIT if asked.output_byte_limit is None else max(0, min(asked.output_byte_limit, OUTPUT_LIMIT))
        self._terminals[id] = ForeignTerminal(whole, limit, shown)
        self._ground.news(shown, "in_progress", [schema.Terminal(terminal_id=id)])
        self._tasks.start_soon(self._run, id, self._terminals[id], workspace, kind)
        return schema.CreateTerminalResponse(terminal_id=id)

    async def output(self, asked: schema.TerminalOutputRequest) -> schema.TerminalOutputResponse:
        """What a command has printed so far, and how it ended."""
        terminal = self._known(asked.terminal_id)
        return schema.TerminalOutputResponse(
            output=terminal.output, truncated=terminal.truncated, exit_status=terminal.status
        )

    async def wait(self, asked: schema.WaitForTerminalExitRequest) -> schema.WaitForTerminalExitResponse:
        """Wait for its end."""
        terminal = self._known(asked.terminal_id)
        await terminal.ended.wait()
        status = terminal.status or schema.TerminalExitStatus()
        return schema.WaitForTerminalExitResponse(exit_code=status.exit_code, signal=status.signal)

    async def kill(self, asked: schema.KillTerminalRequest) -> schema.KillTerminalResponse:
        """End the command and all that it started; its output stays."""
        terminal = self._known(asked.terminal_id)
        terminal.scope.cancel()
        await terminal.ended.wait()
        return schema.KillTerminalResponse()

    async def release(self, asked: schema.ReleaseTerminalRequest) -> schema.ReleaseTerminalResponse:
        """End it, and forget it."""
        terminal = self._known(asked.terminal_id)
        terminal.scope.cancel()
        await terminal.ended.wait()
        self._terminals.pop(asked.terminal_id, None)
        return schema.ReleaseTerminalResponse()

    def end_all(self) -> None:
        """End every command."""
        for terminal in self._terminals.values():
            terminal.scope.cancel()

    async def _whole(self, asked: schema.CreateTerminalRequest, line: str, workspace: LocalWorkspace) -> str:
        """The command line with the environment and the directory that the agent wants."""
        named = {each.name: each.value for each in asked.env or () if each.name not in OURS}
        if unfit := [name for name in named if not name.isidentifier()]:
            raise ToolError(f"{unfit[0]} is no name of a variable.")
        before = [f"export {name}={shlex.quote(value)}" for name, value in named.items()]
        if asked.cwd is not None:
            place = (await self._ground.inside(asked.cwd)).path
            before += [f"cd {shlex.quote(str(place))}"] if place != workspace.root else []
        return "\n".join([*before, line])

    async def _leave(self, line: str, whole: str) -> tuple[Granted, str]:
        """What the command may reach, and the call that stands for it."""
        need = Need("execute", whole)
        decision = await self._ground.decide(need)
        kind = decision.kind or "workspace"
        if decision.verdict == "ask" and whole == line and self._ground.questions.allowed_command(line):
            return kind, ""
        return kind, await self._ground.leave(need, decision, f"$ {whole}", "execute")

    async def _run(self, id: str, terminal: ForeignTerminal, workspace: LocalWorkspace, kind: Granted) -> None:
        async def emit(text: str) -> None:
            terminal.print(text)
            self._printed(id)

        status = schema.TerminalExitStatus(signal="SIGTERM")
        try:
            with terminal.scope:
                result = await workspace.run(terminal.command, timeout=math.inf, emit=emit, kind=kind)
                status = schema.TerminalExitStatus(exit_code=result.exit_code)
        except LagunaError as error:
            await emit(f"{error}\n")
            status = schema.TerminalExitStatus(exit_code=126)
        finally:
            terminal.end(status)
            well = status.exit_code == 0
            self._ground.news(terminal.shown, "completed" if well else "failed", exit_code=status.exit_code)

    def _known(self, id: str) -> ForeignTerminal:
        terminal = self._terminals.get(id)
        if terminal is None:
            raise RpcError(RESOURCE_NOT_FOUND, f"There is no terminal {id}.")
        return terminal


def command_line(command: str, args: Iterable[str]) -> str:
    """The line for a shell. Where there are no arguments the command is one already, as most agents mean it; a shell
    that is given a line gives way to that line, so that a person reads what runs."""
    words = [command, *args]
    if len(words) == 1:
        return command
    if len(words) == 3 and Path(command).name in SHELLS and words[1] == "-c":
        return words[2]
    return shlex.join(words)
