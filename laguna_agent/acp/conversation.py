"""One open session of a client: its turn, its updates, its questions to the person, its choices."""

from __future__ import annotations

import logging
from contextlib import aclosing

import anyio
import anyio.to_thread

from laguna_agent.acp import schema
from laguna_agent.acp.options import config_options, mode_state
from laguna_agent.acp.peer import AUTH_REQUIRED, INTERNAL_ERROR, INVALID_REQUEST, Peer, RpcError
from laguna_agent.acp.updates import Renderer
from laguna_agent.agent.archive import given_title, title_of
from laguna_agent.agent.commands import Command
from laguna_agent.agent.custom_commands import commands_of
from laguna_agent.agent.events import Event, PermissionRequested, ToolCallUpdate, TurnEnded
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import now
from laguna_agent.errors import AuthenticationFailed, LagunaError
from laguna_agent.messages import ContentBlock, TextBlock
from laguna_agent.visible import visible

log = logging.getLogger(__name__)


class Conversation:
    """A session that the client has open, and its turn, where one runs."""

    def __init__(self, session: Session, renderer: Renderer, peer: Peer) -> None:
        self.session = session
        self.renderer = renderer
        self.running = False
        self.models: list[str] = []
        self.peer = peer
        self._cancelled = False
        self._ended = anyio.Event()
        self._title: str | None = None
        self._commands: tuple[Command, ...] = ()
        self._untold = False
        self._shown: dict[str, anyio.Event] = {}

    # -- the turn ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Claim the session for a turn."""
        if self.running:
            raise RpcError(INVALID_REQUEST, "A prompt of this session is still being answered; cancel it first")
        self.running, self._cancelled, self._ended = True, False, anyio.Event()

    def cancel(self) -> None:
        """End the running turn; harmless when none runs."""
        if self.running:
            self._cancelled = True
            self.session.cancel()

    async def turn(
        self, content: tuple[ContentBlock, ...], given: tuple[dict[str, object], ...] = ()
    ) -> schema.PromptResponse:
        """Work on a prompt, after `begin`; raises RpcError for a turn that ended with an error."""
        try:
            end = None if self._cancelled else await self._run(content, given)
        finally:
            self.running = False
            self._shown.clear()
            self._ended.set()
        if end is None or self._cancelled:
            return schema.PromptResponse(stop_reason="cancelled")
        return answer_of(end)

    async def _run(self, content: tuple[ContentBlock, ...], given: tuple[dict[str, object], ...]) -> TurnEnded | None:
        end = None
        if self._untold:
            await self.tell_options()
        await self._tell_info(content)
        async with aclosing(self.session.prompt(content, given)) as events:
            async for event in events:
                if self._cancelled:
                    # Again, as the first time may have been before the session had begun.
                    self.session.cancel()
                await self.show(event)
                if isinstance(event, ToolCallUpdate):
                    self._shown_event(event.id).set()
                elif isinstance(event, TurnEnded):
                    end = event
        await self._tell_commands()
        return end

    async def aclose(self) -> None:
        """Cancel the turn, wait for its end, free everything. Never raises: nobody could do anything about it.

        A client that cancels its session/close in the meantime does not stop it: half closed is no use to anybody.
        """
        self.cancel()
        with anyio.CancelScope(shield=True):
            if self.running:
                await self._ended.wait()
            try:
                await self.session.aclose()
            except Exception:
                log.exception("session %s could not be closed; this is a bug", self.session.id)

    # -- updates ----------------------------------------------------------------------------------------------------

    async def show(self, event: Event) -> None:
        """Tell the client of an event."""
        for update in self.renderer.render(event):
            await self.tell(update)

    async def show_again(self, event: Event) -> None:
        """Tell the client of an event of the past."""
        for update in self.renderer.look_back(event):
            await self.tell(update)

    async def tell(self, update: schema.SessionUpdate) -> None:
        """Send one update."""
        await self.peer.notify("session/update", schema.SessionNotification(session_id=self.session.id, update=update))

    async def introduce(self) -> None:
        """What a client should know of a session that it has just opened."""
        await self._tell_commands()

    async def _tell_commands(self) -> None:
        """The slash commands, where they are others than the client knows: files and trust change."""
        commands = await anyio.to_thread.run_sync(commands_of, self.session)
        if commands == self._commands:
            return
        self._commands = commands
        told = [
            schema.AvailableCommand(
                name=command.name,
                description=command.description,
                input=schema.AvailableCommandInput(hint=command.hint) if command.hint else None,
            )
            for command in commands
        ]
        await self.tell(schema.AvailableCommandsUpdate(available_commands=told))

    async def _tell_info(self, content: tuple[ContentBlock, ...]) -> None:
        """The session's title, which its first prompt gives it, and that something happens in it."""
        if self._title is None:
            first = (TextBlock(self.session.prompts[0]),) if self.session.prompts else content
            self._title = given_title(self.session.id) or title_of(first)
        await self.tell(schema.SessionInfoUpdate(title=visible(self._title) or None, updated_at=now()))

    # -- choices ----------------------------------------------------------------------------------------------------

    def modes(self) -> schema.SessionModeState:
        """The modes, and the one that the session is in."""
        return mode_state(self.session.wanted)

    def options(self) -> list[schema.SessionConfigOption]:
        """All config options."""
        return config_options(self.session.wanted, self.models)

    async def tell_options(self) -> None:
        """The options have changed."""
        self._untold = False
        await self.tell(schema.ConfigOptionUpdate(config_options=self.options()))

    async def learn_models(self, models: list[str]) -> None:
        """Offer these models. Between two turns nothing is sent: the next one begins with it."""
        before, self.models = self.options(), models
        self._untold = self.options() != before
        if self._untold and (self.running or not self.session.prompts):
            await self.tell_options()

    async def tell_mode(self) -> None:
        """The mode has changed."""
        await self.tell(schema.CurrentModeUpdate(current_mode_id=self.session.wanted.approve))

    # -- questions --------------------------------------------------------------------------------------------------

    async def approve(self, asked: PermissionRequested) -> PermissionAnswer:
        """Ask the person through the client."""
        try:
            response = await self.peer.request(
                "session/request_permission",
                self.renderer.permission(self.session.id, asked),
                schema.RequestPermissionResponse,
            )
        except LagunaError as error:
            return PermissionAnswer(False, reason=f"the editor could not ask the person: {error}")
        outcome = response.outcome
        if not isinstance(outcome, schema.SelectedPermissionOutcome):
            return PermissionAnswer(False, reason="the person dismissed the question")
        kind = next((option.kind for option in asked.options if option.id == outcome.option_id), None)
        if kind is None:
            return PermissionAnswer(
                False, reason=f"the editor gave an answer that was not offered: {outcome.option_id}"
            )
        return PermissionAnswer(kind.startswith("allow"), kind.endswith("always"))

    async def call_shown(self, call_id: str) -> None:
        """Wait until the client has seen that the call runs."""
        await self._shown_event(call_id).wait()

    def _shown_event(self, call_id: str) -> anyio.Event:
        return self._shown.setdefault(call_id, anyio.Event())


def answer_of(end: TurnEnded) -> schema.PromptResponse:
    """The answer to session/prompt; v1 has no stop reason for an error, which is a JSON-RPC error instead."""
    if end.stop_reason != "error":
        return schema.PromptResponse(stop_reason=end.stop_reason)
    code = AUTH_REQUIRED if end.error == AuthenticationFailed.__name__ else INTERNAL_ERROR
    raise RpcError(code, end.message, {"outcome": end.outcome, "exitCode": end.exit_code, "error": end.error})
