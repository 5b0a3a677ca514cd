"""The ACP face: methods in, sessions driven, their events out. https://agentclientprotocol.com/protocol/v1/overview

Knows sessions and the protocol's rules of order (no update before the answer to session/new, the whole history before
the answer to session/load, the last update before the answer to session/prompt); how bytes travel is the peer's.
The core is imported by the first session: an editor waits for `initialize`, and it needs none of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import anyio
import anyio.to_thread

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
    from laguna_agent.acp import unstable
    from laguna_agent.acp.conversation import Conversation
    from laguna_agent.agent.session import Session
    from laguna_agent.config import Settings

PROTOCOL_VERSION = 1
ONE_AT_A_TIME = {f"session/{what}" for what in ("load", "resume", "close", "delete", "fork", "set_title")}
"""Requests that would find a session half open or half gone if they came between each other."""
PAGE = 50
"""Sessions in one answer to session/list."""
log = logging.getLogger(__name__)
SESSION_CAPABILITIES = schema.SessionCapabilities(
    list=schema.SessionListCapabilities(),
    delete=schema.SessionDeleteCapabilities(),
    additional_directories=schema.SessionAdditionalDirectoriesCapabilities(),
    resume=schema.SessionResumeCapabilities(),
    close=schema.SessionCloseCapabilities(),
)


class Face:
    """All sessions of one connection. `flags` are settings from the command line; `unstable` adds the methods of
    `acp.unstable`."""

    def __init__(self, source: Source, sink: Sink, flags: Mapping[str, object], *, unstable: bool = False) -> None:
        self._authentication = Authentication(flags)
        requests: dict[str, tuple[type, RequestHandler]] = {
            "initialize": (schema.InitializeRequest, self._initialize),
            "authenticate": (schema.AuthenticateRequest, self._authentication.authenticate),
            "logout": (schema.LogoutRequest, self._authentication.logout),
            "session/new": (schema.NewSessionRequest, self._new),
            "session/load": (schema.LoadSessionRequest, self._load),
            "session/resume": (schema.ResumeSessionRequest, self._resume),
            "session/list": (schema.ListSessionsRequest, self._list),
            "session/close": (schema.CloseSessionRequest, self._close),
            "session/delete": (schema.DeleteSessionRequest, self._delete),
            "session/set_mode": (schema.SetSessionModeRequest, self._set_mode),
            "session/set_config_option": (schema.SetSessionConfigOptionRequest, self._set_config_option),
            "session/prompt": (schema.PromptRequest, self._prompt),
        }
        notifications: dict[str, tuple[type, NotificationHandler]] = {
            "session/cancel": (schema.CancelNotification, self._cancel),
        }
        if unstable:
            from laguna_agent.acp.unstable import ForkSessionRequest, SetSessionTitleRequest

            requests["session/fork"] = (ForkSessionRequest, self._fork)
            requests["session/set_title"] = (SetSessionTitleRequest, self._set_title)
        for method in requests.keys() & ONE_AT_A_TIME:
            kind, handler = requests[method]
            requests[method] = (kind, self._in_turn(handler))
        self.peer = Peer(source, sink, requests, notifications)
        self._flags = flags
        self._unstable = unstable
        self._client = schema.ClientCapabilities()
        self._conversations: dict[str, Conversation] = {}
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._models: dict[tuple[str | None, str | None], list[str]] = {}

    def _in_turn(self, handler: RequestHandler) -> RequestHandler:
        """The handler, waiting for those before it that open, close or delete the same session."""

        async def work(params: Any, call: Call) -> Any:
            async with self._locks.setdefault(params.session_id, anyio.Lock()):
                return await handler(params, call)

        return work

    async def serve(self) -> None:
        """Serve the connection to its end; no process of a session outlives it."""
        async with anyio.create_task_group() as self._background:
            try:
                await self.peer.run(on_close=self._cancel_all)
            finally:
                with anyio.CancelScope(shield=True):
                    for conversation in self._conversations.values():
                        await conversation.aclose()
            self._background.cancel_scope.cancel()

    def _cancel_all(self) -> None:
        for conversation in self._conversations.values():
            conversation.cancel()

    # -- the connection ---------------------------------------------------------------------------------------------

    async def _initialize(self, params: schema.InitializeRequest, _: Call) -> schema.InitializeResponse:
        self._client = params.client_capabilities
        capabilities = SESSION_CAPABILITIES
        if self._unstable:
            from laguna_agent.acp.unstable import with_unstable

            capabilities = with_unstable(capabilities)
        return schema.InitializeResponse(
            protocol_version=PROTOCOL_VERSION,
            agent_capabilities=schema.AgentCapabilities(
                load_session=True,
                prompt_capabilities=schema.PromptCapabilities(image=True, embedded_context=True),
                mcp_capabilities=schema.McpCapabilities(http=True, sse=True),
                session_capabilities=capabilities,
                auth=schema.AgentAuthCapabilities(logout=schema.LogoutCapabilities()),
            ),
            auth_methods=auth_methods(params.client_capabilities, self._flags),
            agent_info=schema.Implementation(name="laguna-agent", title="Laguna Agent", version=__version__),
        )

    # -- opening sessions -------------------------------------------------------------------------------------------

    async def _new(self, params: schema.NewSessionRequest, call: Call) -> schema.NewSessionResponse:
        settings, roots = self._settings(params.cwd), directories(params.additional_directories)
        from laguna_agent.agent.permissions import deny_all
        from laguna_agent.agent.session import Session

        try:
            session = await Session.start(Path(params.cwd), settings, approver=deny_all, roots=roots)
        except UsageError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        conversation = await self._open(session, params.mcp_servers, call)
        return schema.NewSessionResponse(
            session_id=session.id, modes=conversation.modes(), config_options=conversation.options()
        )

    async def _load(self, params: schema.LoadSessionRequest, call: Call) -> schema.LoadSessionResponse:
        conversation = await self._reopen(params, call)
        for event in conversation.session.replay_events():
            await conversation.show_again(event)
        return schema.LoadSessionResponse(modes=conversation.modes(), config_options=conversation.options())

    async def _resume(self, params: schema.ResumeSessionRequest, call: Call) -> schema.ResumeSessionResponse:
        conversation = await self._reopen(params, call)
        return schema.ResumeSessionResponse(modes=conversation.modes(), config_options=conversation.options())

    async def _fork(self, params: unstable.ForkSessionRequest, call: Call) -> unstable.ForkSessionResponse:
        from laguna_agent.acp.unstable import ForkSessionResponse
        from laguna_agent.agent.archive import fork_session

        settings, roots = self._settings(params.cwd), directories(params.additional_directories)
        require_recorded(params.session_id)
        try:
            copy = await anyio.to_thread.run_sync(fork_session, params.session_id)
        except UsageError as error:
            raise RpcError(RESOURCE_NOT_FOUND, str(error)) from error
        conversation = await self._opened(copy, params, settings, roots, call)
        return ForkSessionResponse(session_id=copy, modes=conversation.modes(), config_options=conversation.options())

    async def _reopen(
        self, params: schema.LoadSessionRequest | schema.ResumeSessionRequest, call: Call
    ) -> Conversation:
        """Open the recorded session that `params` name; one that is open here is closed first."""
        settings, roots = self._settings(params.cwd), directories(params.additional_directories)
        require_recorded(params.session_id)
        await self._release(params.session_id)
        return await self._opened(params.session_id, params, settings, roots, call)

    async def _opened(
        self,
        id: str,
        params: schema.LoadSessionRequest | schema.ResumeSessionRequest | unstable.ForkSessionRequest,
        settings: Settings,
        roots: tuple[str, ...],
        call: Call,
    ) -> Conversation:
        from laguna_agent.agent.permissions import deny_all
        from laguna_agent.agent.session import Session

        try:
            session = await Session.resume(id, settings, approver=deny_all, roots=roots, cwd=Path(params.cwd))
        except UsageError as error:
            raise RpcError(RESOURCE_NOT_FOUND, str(error)) from error
        return await self._open(session, params.mcp_servers, call)

    def _settings(self, cwd: str) -> Settings:
        from laguna_agent.config import load

        require_directory("cwd", cwd)
        try:
            settings = load(Path(cwd), self._flags)
        except UsageError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        self._authentication.require(settings)
        return settings

    async def _open(self, session: Session, servers: list[schema.McpServer] | None, call: Call) -> Conversation:
        from laguna_agent.acp.conversation import Conversation
        from laguna_agent.acp.editor import through_editor
        from laguna_agent.acp.updates import Renderer

        conversation = Conversation(session, Renderer(session.cwd, self._client), self.peer)
        session.approver, session.trusting = conversation.approve, True
        session.workspace = through_editor(session.workspace, self.peer, session.id, self._client)
        self._conversations[session.id] = conversation
        call.after_response(conversation.introduce)
        from laguna_agent.acp.servers import connect

        await connect(conversation, servers or (), self._client, self._background)
        call.after_response(lambda: self._look_ahead(conversation))
        return conversation

    async def _look_ahead(self, conversation: Conversation) -> None:
        """While the person types: load what the first request needs, and ask which models there are."""
        from laguna_agent.backend.providers import preload

        await anyio.to_thread.run_sync(preload)
        self._background.start_soon(self._learn_models, conversation)

    async def _learn_models(self, conversation: Conversation) -> None:
        from laguna_agent.backend.catalog import known_models

        settings = conversation.session.wanted
        # Another session's server is most likely the same one, and it was asked already.
        where = (settings.base_url, settings.model)
        try:
            if where not in self._models:
                self._models[where] = await known_models(settings)
            await conversation.learn_models(self._models[where])
        except Exception:
            log.exception("the models could not be listed; this is a bug")

    # -- open sessions ----------------------------------------------------------------------------------------------

    def _prompt(self, params: schema.PromptRequest, call: Call) -> Awaitable[schema.PromptResponse]:
        from laguna_agent.acp.prompts import as_given, prompt_blocks

        conversation = self._conversation(params.session_id)
        try:
            content = prompt_blocks(params.prompt)
        except UsageError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        conversation.begin()
        call.on_cancel(conversation.cancel)
        return conversation.turn(content, as_given(params.prompt))

    def _cancel(self, params: schema.CancelNotification) -> None:
        self._conversation(params.session_id).cancel()

    async def _set_mode(self, params: schema.SetSessionModeRequest, call: Call) -> schema.SetSessionModeResponse:
        from laguna_agent.acp.options import with_mode

        conversation = self._conversation(params.session_id)
        conversation.session.configure(with_mode(conversation.session.wanted, params.mode_id))
        call.after_response(conversation.tell_options)
        return schema.SetSessionModeResponse()

    async def _set_config_option(
        self, params: schema.SetSessionConfigOptionRequest, call: Call
    ) -> schema.SetSessionConfigOptionResponse:
        from laguna_agent.acp.options import with_option

        conversation = self._conversation(params.session_id)
        before = conversation.session.wanted.approve
        settings = with_option(conversation.session.wanted, params.config_id, params.value)
        conversation.session.configure(settings, anew=params.config_id == "model")
        if conversation.session.wanted.approve != before:
            call.after_response(conversation.tell_mode)
        return schema.SetSessionConfigOptionResponse(config_options=conversation.options())

    async def _close(self, params: schema.CloseSessionRequest, _: Call) -> schema.CloseSessionResponse:
        conversation = self._conversation(params.session_id)
        del self._conversations[params.session_id]
        await conversation.aclose()
        return schema.CloseSessionResponse()

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
            await conversation.aclose()

    # -- recorded sessions ------------------------------------------------------------------------------------------

    async def _list(self, params: schema.ListSessionsRequest, _: Call) -> schema.ListSessionsResponse:
        from laguna_agent.acp.listing import session_page

        if params.cwd is not None and not Path(params.cwd).is_absolute():
            raise RpcError(INVALID_PARAMS, f"cwd must be an absolute path, not {params.cwd!r}")
        try:
            return await anyio.to_thread.run_sync(session_page, params.cwd, params.cursor, PAGE)
        except UsageError as error:
            raise RpcError(INVALID_PARAMS, f"Unknown cursor: {error}") from error

    async def _delete(self, params: schema.DeleteSessionRequest, _: Call) -> schema.DeleteSessionResponse:
        from laguna_agent.agent.archive import delete_session, is_recorded

        conversation = self._conversations.pop(params.session_id, None)
        if conversation is not None:
            await conversation.aclose()
        # To delete what is not there succeeds: that is how the protocol wants it.
        if is_recorded(params.session_id):
            await anyio.to_thread.run_sync(delete_session, params.session_id)
        return schema.DeleteSessionResponse()

    async def _set_title(self, params: unstable.SetSessionTitleRequest, _: Call) -> unstable.SetSessionTitleResponse:
        from laguna_agent.acp.unstable import SetSessionTitleResponse
        from laguna_agent.agent.archive import set_title

        require_recorded(params.session_id)
        title = await anyio.to_thread.run_sync(set_title, params.session_id, params.title)
        return SetSessionTitleResponse(title=title)


def require_recorded(session_id: str) -> None:
    """Refuse a session that there is no log of."""
    from laguna_agent.agent.archive import is_recorded

    if not is_recorded(session_id):
        raise RpcError(RESOURCE_NOT_FOUND, f"Unknown session: {session_id}")


def require_directory(name: str, path: str) -> None:
    """Refuse a directory that is not absolute or does not exist."""
    if not Path(path).is_absolute():
        raise RpcError(INVALID_PARAMS, f"{name} must be an absolute path, not {path!r}")
    if "\0" in path or not Path(path).is_dir():
        raise RpcError(INVALID_PARAMS, f"{name} is no directory: {path}")


def directories(paths: list[str] | None) -> tuple[str, ...]:
    """Further roots of the workspace, each of which must exist."""
    for path in paths or ():
        require_directory("additionalDirectories", path)
    return tuple(paths or ())
