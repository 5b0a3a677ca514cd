"""Another ACP agent behind the interactive faces: `laguna-agent --agent "CMD"`.

Its turns come as our own events (`acp.client`), so the faces show it as they show a session. What it cannot do, a
session of ours could: be told something in the middle of a turn, be asked what fills its window.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio.from_thread import BlockingPortal

from laguna_agent.errors import UsageError
from laguna_agent.terminal.face import Facts
from laguna_agent.terminal.link import Asking, Crossing, Deliver, Linked

if TYPE_CHECKING:
    from laguna_agent.acp.client.agent import ForeignAgent
    from laguna_agent.agent.commands import Command
    from laguna_agent.agent.events import Event
    from laguna_agent.agent.prompting import Cause
    from laguna_agent.config import Settings
    from laguna_agent.messages import ContentBlock


class AgentLink(Linked):
    """An agent that is started with a command line, as `face.Link` says."""

    session = None
    unsaid = ()

    def __init__(
        self,
        portal: BlockingPortal,
        command: str,
        cwd: Path,
        deliver: Deliver,
        settings: Settings,
        resumed: str | None,
    ) -> None:
        super().__init__(portal, cwd, deliver, settings, resumed)
        self._command = command
        self._agent: ForeignAgent | None = None

    @property
    def facts(self) -> Facts:
        agent = self._agent
        if agent is None:
            return Facts(cwd=self.cwd, agent=self._command.partition(" ")[0])
        mode = next((each.name for each in agent.modes if each.id == agent.mode), agent.mode)
        return Facts(cwd=self.cwd, model=agent.model, mode=mode, session_id=agent.session_id, agent=agent.name)

    @property
    def commands(self) -> Sequence[Command]:
        return self._agent.commands if self._agent is not None else ()

    async def open(self) -> Sequence[Event]:
        await self._cross()
        assert self._agent is not None, "it has begun"
        return await self.call(self._agent.past)

    async def send(self, content: tuple[ContentBlock, ...]) -> None:
        assert self._agent is not None, "a turn runs in a session"
        await self._over_there().call(self._pump, self._agent.prompt, content)

    async def steer(self, content: tuple[ContentBlock, ...]) -> bool:
        return False

    def cancel(self, cause: Cause = "interrupted") -> None:
        if self._agent is not None:
            self._over_there().post(self._agent.cancel)

    async def change(self, **settings: Any) -> None:
        """The mode by its id (`approve`), the model by its name, where the agent lets them be chosen."""
        agent = self._agent
        if agent is None:
            return
        for name, value in settings.items():
            if name == "approve":
                await self.call(agent.set_mode, str(value))
                continue
            option = next((each for each in agent.options if each.category == name), None)
            if option is None:
                raise UsageError(f"{agent.name} lets nobody choose its {name}")
            await self.call(agent.set_option, option.id, str(value))

    # -- on the session's thread ----------------------------------------------------------------------------------

    async def _begin(self, crossing: Crossing) -> None:
        from laguna_agent.acp.client.agent import ForeignAgent

        self._agent = await ForeignAgent.start(
            self._command,
            self.cwd,
            ask=Asking(crossing, self._deliver).ask,
            tasks=crossing.tasks,
            resume=self._resumed,
            settings=self._settings,
        )

    async def _end(self) -> None:
        if self._agent is not None:
            await self._agent.aclose()
