"""The workspace that a foreign agent may ask us for: what our own tools may reach, behind the same walls and rules.

The agent's process could reach more by itself, for nothing confines it; but what it asks of us is done as if a model of
ours had asked. Made at the first such request, for most agents use their own files and shells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from laguna_agent.acp import schema
from laguna_agent.acp.client.questions import Questions
from laguna_agent.agent.events import PermissionRequested
from laguna_agent.agent.permissions import Decision, Permissions, options, permissions_for
from laguna_agent.agent.rules import denied_globs
from laguna_agent.config import Settings
from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, Location, ToolKind
from laguna_agent.sandbox.temporary import make_temporary, remove_temporary
from laguna_agent.sandbox.walls import Walls, put_up
from laguna_agent.tools.base import Need
from laguna_agent.tools.workspace import LocalWorkspace, Place


class Ground:
    """The workspace in `root`, its walls, and the person's leave for what is done there."""

    def __init__(self, root: Path, settings: Settings, questions: Questions) -> None:
        self.root = root
        self.questions = questions
        self._settings = settings
        self._making = anyio.Lock()
        self._made: tuple[LocalWorkspace, Walls, Permissions] | None = None
        self._spool: Path | None = None
        self._shown = 0

    async def workspace(self) -> LocalWorkspace:
        """The workspace. Raises SandboxError where the walls that the person wants cannot be put up."""
        async with self._making:
            if self._made is None:
                self._made = await anyio.to_thread.run_sync(self._make)
        return self._made[0]

    async def inside(self, path: str) -> Place:
        """Where a path leads; ToolError where that is outside the workspace, hidden, or denied by the person."""
        place = (await self.workspace()).resolve(path)
        if place.denied:
            raise ToolError(f"{place.shown} is not read: the person's rules deny it.")
        if place.scope != "workspace":
            raise ToolError(f"{place.shown} lies outside the workspace {self.root}.")
        return place

    async def decide(self, need: Need) -> Decision:
        """What the person's mode, rules and earlier answers say."""
        await self.workspace()
        assert self._made is not None, "it was just made"
        return self._made[2].decide(need)

    async def leave(
        self, need: Need, decision: Decision, title: str, kind: ToolKind, diffs: tuple[FileDiff, ...] = ()
    ) -> str:
        """Ask the person where they have to be asked. ToolError where there is no leave.

        The question belongs to the call that the agent tells of. Where it tells of none, one is shown that stands for
        it; its id is returned, for `news`. "" where there is nothing to end.
        """
        if decision.verdict == "allow":
            return ""
        if decision.verdict == "deny":
            raise ToolError(f"Denied: {decision.reason}.")
        commands = need.access == "execute"
        known = self.questions.call_commanding() if commands else self.questions.call_about(need.subject)
        given = {"command" if commands else "path": need.subject}
        places = () if commands else (Location(need.subject),)
        shown = "" if known else self._show(title, kind, given)
        facts = decision.facts
        answer = await self.questions.put(
            PermissionRequested(
                known or shown,
                title,
                kind,
                given,
                options(need, facts.parts),
                diffs,
                places,
                facts.parts,
                facts.unusual,
            )
        )
        assert self._made is not None, "the decision was made with it"
        if answer is not None and answer.remember:
            (self._made[2].remember if answer.allowed else self._made[2].refuse)(need)
        if answer is None or not answer.allowed:
            self.news(shown, "failed")
            why = (answer.reason or "the person refused it") if answer else "nobody can be asked now"
            raise ToolError(f"Denied: {why}.")
        return shown

    def news(
        self,
        id: str,
        status: Literal["in_progress", "completed", "failed"],
        content: list[schema.ToolCallContent] | None = None,
        exit_code: int | None = None,
    ) -> None:
        """News of a call that `leave` had to show; of none where the id is ""."""
        if id:
            output = None if exit_code is None else {"exitCode": exit_code}
            self.questions.tell(
                schema.SessionUpdateToolCallUpdate(tool_call_id=id, status=status, content=content, raw_output=output)
            )

    def _show(self, title: str, kind: ToolKind, given: dict[str, str]) -> str:
        self._shown += 1
        id = f"client-{self._shown}"
        self.questions.tell(schema.ToolCall(tool_call_id=id, title=title, kind=kind, raw_input=given))
        return id

    async def aclose(self) -> None:
        """End what runs there, and remove what was made for it."""
        if self._made is not None:
            await self._made[0].aclose()
            await anyio.to_thread.run_sync(self._made[1].take_down)
        if self._spool is not None:
            await anyio.to_thread.run_sync(remove_temporary, self._spool)

    def _make(self) -> tuple[LocalWorkspace, Walls, Permissions]:
        settings = self._settings
        spool = self._spool = self._spool or make_temporary()
        walls = put_up(
            settings.sandbox,
            self.root,
            spool=spool,
            writable=map(Path, settings.writable),
            passed=settings.environment,
            denied=denied_globs(settings.rules),
        )
        workspace = LocalWorkspace(self.root, spool=spool, walls=walls)
        return workspace, walls, permissions_for(settings, workspace, walls)
