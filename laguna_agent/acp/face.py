"""The ACP face: methods in, sessions driven, their events out. https://agentclientprotocol.com/protocol/v1/overview

Knows sessions and the protocol's rules of order (no update before the answer to session/new, the whole history before
the answer to session/load, the last update before the answer to session/prompt); how bytes travel is the peer's.
The core is imported by the first session: an editor waits for `initialize`, and it needs none of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from laguna_agent import __version__
from laguna_agent.acp import schema
from laguna_agent.acp.authentication import Authentication, auth_methods
from laguna_agent.acp.peer import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    RESOURCE_NOT_FOUND,
    Call,
    NotificationHandler,
    Peer,
    RequestHandler,
    RpcError,
)
from laguna_agent.acp.streams import Sink, Source
from laguna_agent.errors import UsageError

if TYPE_CHECKING:
    from laguna_agent.acp.conversation import Conversation
    from laguna_agent.agent.session import Session
    from laguna_agent.config import Settings

PROTOCOL_VERSION = 1
log = logging.getLogger(__name__)


class Face:
    """All sessions of one connection. `flags` are settings from the command line."""

    def __init__(self, source: Source, sink: Sink, flags: Mapping[str, object]) -> None:
        self._authentication = Authentication(flags)
        requests: dict[str, tuple[type, RequestHandler]] = {
            "initialize": (schema.InitializeRequest, self._initialize),
            "authenticate": (schema.AuthenticateRequest, self._authentication.authenticate),
            "logout": (schema.LogoutRequest, self._authentication.logout),
            "session/new": (schema.NewSessionRequest, self._new),
            "session/load": (schema.LoadSessionRequest, self._load),
            "session/prompt": (schema.PromptRequest, self._prompt),
        }
        notifications: dict[str, tuple[type, NotificationHandler]] = {
            "session/cancel": (schema.CancelNotification, self._cancel),
        }
        self.peer = Peer(source, sink, requests, notifications)
        self._flags = flags
        self._client = schema.ClientCapabilities()
        self._conversations: dict[str, Conversation] = {}

    async def serve(self) -> None:
        """Serve the connection to its end; no process of a session outlives it."""
        try:
            await self.peer.run(on_close=self._cancel_all)
        finally:
            with anyio.CancelScope(shield=True):
                for conversation in self._conversations.values():
                    await self._close(conversation)

    def _cancel_all(self) -> None:
        for conversation in self._conversations.values():
            conversation.cancel()

    async def _initialize(self, params: schema.InitializeRequest, _: Call) -> schema.InitializeResponse:
        self._client = params.client_capabilities
        return schema.InitializeResponse(
            protocol_version=PROTOCOL_VERSION,
            agent_capabilities=schema.AgentCapabilities(
                load_session=True,
                prompt_capabilities=schema.PromptCapabilities(image=True, embedded_context=True),
                auth=schema.AgentAuthCapabilities(logout=schema.LogoutCapabilities()),
            ),
            auth_methods=auth_methods(params.client_capabilities, self._flags),
            agent_info=schema.Implementation(name="laguna-agent", title="Laguna Agent", version=__version__),
        )

    async def _new(self, params: schema.NewSessionRequest, call: Call) -> schema.NewSessionResponse:
        settings = self._settings(params.cwd)
        from laguna_agent.agent.permissions import deny_all
        from laguna_agent.agent.session import Session

        try:
            session = await Session.start(Path(params.cwd), settings, approver=deny_all)
        except UsageError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        conversation = self._open(session)
        call.after_response(lambda: self._mention_servers(conversation, params.mcp_servers))
        return schema.NewSessionResponse(session_id=session.id)

    async def _load(self, params: schema.LoadSessionRequest, call: Call) -> schema.LoadSessionResponse:
        settings = self._settings(params.cwd)
        from laguna_agent.agent.permissions import deny_all
        from laguna_agent.agent.session import Session

        await self._release(params.session_id)
        try:
            session = await Session.resume(params.session_id, settings, approver=deny_all)
        except UsageError as error:
            raise RpcError(RESOURCE_NOT_FOUND, str(error)) from error
        conversation = self._open(session)
        for event in session.replay_events():
            await conversation.show(event)
        call.after_response(lambda: self._mention_servers(conversation, params.mcp_servers))
        return schema.LoadSessionResponse()

    def _prompt(self, params: schema.PromptRequest, call: Call) -> Awaitable[schema.PromptResponse]:
        from laguna_agent.acp.prompts import prompt_blocks

        conversation = self._conversation(params.session_id)
        try:
            content = prompt_blocks(params.prompt)
        except UsageError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        conversation.begin()
        call.on_cancel(conversation.cancel)
        return conversation.turn(content)

    def _cancel(self, params: schema.CancelNotification) -> None:
        self._conversation(params.session_id).cancel()

    def _settings(self, cwd: str) -> Settings:
        from laguna_agent.config import load

        if not Path(cwd).is_absolute():
            raise RpcError(INVALID_PARAMS, f"cwd must be an absolute path, not {cwd!r}")
        if not Path(cwd).is_dir():
            raise RpcError(INVALID_PARAMS, f"cwd is no directory: {cwd}")
        try:
            settings = load(Path(cwd), self._flags)
        except UsageError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        self._authentication.require(settings)
        return settings

    def _open(self, session: Session) -> Conversation:
        from laguna_agent.acp.conversation import Conversation
        from laguna_agent.acp.updates import Renderer

        conversation = Conversation(session, Renderer(session.cwd, self._client), self.peer)
        session.approver = conversation.approve
        self._conversations[session.id] = conversation
        return conversation

    def _conversation(self, session_id: str) -> Conversation:
        conversation = self._conversations.get(session_id)
        if conversation is None:
            raise RpcError(RESOURCE_NOT_FOUND, f"Unknown session: {session_id}; open it with session/load first")
        return conversation

    async def _release(self, session_id: str) -> None:
        """Close a session that is open here, so that it can be opened again."""
        conversation = self._conversations.get(session_id)
        if conversation is not None:
            if conversation.running:
                raise RpcError(INVALID_REQUEST, "A prompt of this session is still being answered; cancel it first")
            del self._conversations[session_id]
            await self._close(conversation)

    async def _close(self, conversation: Conversation) -> None:
        try:
            await conversation.session.aclose()
        except Exception:
            log.exception("session %s could not be closed; this is a bug", conversation.session.id)

    async def _mention_servers(self, conversation: Conversation, servers: list[schema.McpServer] | None) -> None:
        """Say that MCP servers are not used, rather than ignore them in silence."""
        if servers:
            from laguna_agent.agent.events import Notice

            names = ", ".join(server.name for server in servers)
            await conversation.show(Notice("warning", f"This version does not use MCP servers yet: {names}"))
