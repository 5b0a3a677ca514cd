"""What a foreign agent may ask of its client, in one session: leave of the person, files and commands of the workspace.

Knows which request goes where; must not know prompts or what the agent tells.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.abc

from laguna_agent.acp import schema
from laguna_agent.acp.client.files import ForeignFiles
from laguna_agent.acp.client.ground import Ground
from laguna_agent.acp.client.incoming import Incoming
from laguna_agent.acp.client.questions import Questions
from laguna_agent.acp.client.terminals import ForeignTerminals
from laguna_agent.acp.client.translation import Translator
from laguna_agent.acp.peer import INVALID_PARAMS, Call, RequestHandler, RpcError
from laguna_agent.agent.permissions import Approver
from laguna_agent.config import Settings

CAPABILITIES = schema.ClientCapabilities(
    fs=schema.FileSystemCapabilities(read_text_file=True, write_text_file=True),
    terminal=True,
    session=schema.ClientSessionCapabilities(
        compaction=schema.CompactionCapabilities(),
        config_options=schema.SessionConfigOptionsCapabilities(boolean=schema.BooleanConfigOptionCapabilities()),
        notices=schema.NoticeCapabilities(),
    ),
)


class Served:
    """See the module. `ours` says whether an id is that of the session. Events go to `incoming`."""

    def __init__(
        self,
        root: Path,
        settings: Settings,
        ask: Approver,
        tasks: anyio.abc.TaskGroup,
        incoming: Incoming,
        ours: Callable[[str], bool],
    ) -> None:
        self.translator = Translator(root, self._output)
        self._ours = ours
        self._incoming = incoming
        self._questions = Questions(ask, incoming, self.translator)
        self._ground = Ground(root, settings, self._questions)
        self._files = ForeignFiles(self._ground)
        self._terminals = ForeignTerminals(self._ground, tasks, self._printed)

    @property
    def requests(self) -> dict[str, tuple[type, RequestHandler]]:
        """The methods, for the peer."""
        asked: dict[str, tuple[type, Callable[[Any], Awaitable[Any]]]] = {
            "session/request_permission": (schema.RequestPermissionRequest, self._questions.permission),
            "fs/read_text_file": (schema.ReadTextFileRequest, self._files.read),
            "fs/write_text_file": (schema.WriteTextFileRequest, self._files.write),
            "terminal/create": (schema.CreateTerminalRequest, self._terminals.create),
            "terminal/output": (schema.TerminalOutputRequest, self._terminals.output),
            "terminal/wait_for_exit": (schema.WaitForTerminalExitRequest, self._terminals.wait),
            "terminal/kill": (schema.KillTerminalRequest, self._terminals.kill),
            "terminal/release": (schema.ReleaseTerminalRequest, self._terminals.release),
        }
        return {method: (kind, self._checked(handler)) for method, (kind, handler) in asked.items()}

    @property
    def changed(self) -> tuple[str, ...]:
        """The files that were changed in this turn, as far as the agent tells."""
        return tuple({**self.translator.changed, **self._files.changed})

    def begin_turn(self) -> None:
        """A prompt was sent: now the person can be asked."""
        self.translator.begin_turn()
        self._questions.begin_turn()
        self._files.changed.clear()

    def withdraw(self) -> None:
        """Nobody is asked any more until the next turn."""
        self._questions.withdraw()

    def end(self) -> None:
        """The agent is gone: nothing of what it asked for goes on."""
        self._questions.withdraw()
        self._terminals.end_all()

    async def aclose(self) -> None:
        """Free what was made for its requests."""
        await self._ground.aclose()

    def _checked(self, handler: Callable[[Any], Awaitable[Any]]) -> RequestHandler:
        async def work(params: Any, _: Call) -> Any:
            if not self._ours(params.session_id):
                raise RpcError(INVALID_PARAMS, f"Unknown session: {params.session_id}")
            return await handler(params)

        return work

    def _output(self, terminal: str) -> str:
        return self._terminals.output_of(terminal)

    def _printed(self, terminal: str) -> None:
        for event in self.translator.printed(terminal):
            self._incoming.put(event)
