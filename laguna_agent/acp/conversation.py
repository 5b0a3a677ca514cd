"""One open session of a client: its turn, its updates, its questions to the person."""

from __future__ import annotations

from contextlib import aclosing

import anyio

from laguna_agent.acp import schema
from laguna_agent.acp.peer import AUTH_REQUIRED, INTERNAL_ERROR, INVALID_REQUEST, Peer, RpcError
from laguna_agent.acp.updates import Renderer
from laguna_agent.agent.events import Event, PermissionRequested, ToolCallUpdate, TurnEnded
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.agent.session import Session
from laguna_agent.errors import AuthenticationFailed, LagunaError
from laguna_agent.messages import ContentBlock


class Conversation:
    """A session that the client has open, and its turn, where one runs."""

    def __init__(self, session: Session, renderer: Renderer, peer: Peer) -> None:
        self.session = session
        self.renderer = renderer
        self.running = False
        self._peer = peer
        self._cancelled = False
        self._shown: dict[str, anyio.Event] = {}

    def begin(self) -> None:
        """Claim the session for a turn."""
        if self.running:
            raise RpcError(INVALID_REQUEST, "A prompt of this session is still being answered; cancel it first")
        self.running, self._cancelled = True, False

    def cancel(self) -> None:
        """End the running turn; harmless when none runs."""
        if self.running:
            self._cancelled = True
            self.session.cancel()

    async def turn(self, content: tuple[ContentBlock, ...]) -> schema.PromptResponse:
        """Work on a prompt, after `begin`; raises RpcError for a turn that ended with an error."""
        try:
            end = None if self._cancelled else await self._run(content)
        finally:
            self.running = False
            self._shown.clear()
        if end is None or self._cancelled:
            return schema.PromptResponse(stop_reason="cancelled")
        return answer_of(end)

    async def _run(self, content: tuple[ContentBlock, ...]) -> TurnEnded | None:
        end = None
        async with aclosing(self.session.prompt(content)) as events:
            async for event in events:
                if self._cancelled:
                    # Again, as the first time may have been before the session had begun.
                    self.session.cancel()
                await self.show(event)
                if isinstance(event, PermissionRequested):
                    self._shown_event(event.call_id).set()
                elif isinstance(event, ToolCallUpdate) and event.terminal:
                    self._shown_event(f"terminal {event.terminal}").set()
                elif isinstance(event, TurnEnded):
                    end = event
        return end

    async def show(self, event: Event) -> None:
        """Tell the client of an event."""
        for update in self.renderer.render(event):
            await self._peer.notify(
                "session/update", schema.SessionNotification(session_id=self.session.id, update=update)
            )

    async def approve(self, asked: PermissionRequested) -> PermissionAnswer:
        """Ask the person through the client, once the client has seen the call that it is about."""
        await self._shown_event(asked.call_id).wait()
        try:
            response = await self._peer.request(
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

    async def terminal_shown(self, terminal_id: str) -> None:
        """Wait until the client was told which call the terminal belongs to."""
        await self._shown_event(f"terminal {terminal_id}").wait()

    def _shown_event(self, call_id: str) -> anyio.Event:
        return self._shown.setdefault(call_id, anyio.Event())


def answer_of(end: TurnEnded) -> schema.PromptResponse:
    """The answer to session/prompt; v1 has no stop reason for an error, which is a JSON-RPC error instead."""
    if end.stop_reason != "error":
        return schema.PromptResponse(stop_reason=end.stop_reason)
    code = AUTH_REQUIRED if end.error == AuthenticationFailed.__name__ else INTERNAL_ERROR
    raise RpcError(code, end.message, {"outcome": end.outcome, "exitCode": end.exit_code, "error": end.error})
