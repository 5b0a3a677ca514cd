"""A foreign agent, driven as an editor would: https://agentclientprotocol.com/protocol/v1/overview

    agent = await ForeignAgent.start("gemini --acp", cwd, ask=approver, tasks=group)
    async with aclosing(agent.prompt((TextBlock("Fix the failing test"),))) as events:
        async for event in events: ...
    await agent.aclose()

Its turns come as the events of our own sessions, the last of which is TurnEnded; so a face that shows a session shows
this. What it asks of us, `served` does. Nothing of it is recorded, and nothing of it outlives `aclose`. Must not know
any face.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from laguna_agent import __version__
from laguna_agent.acp import schema
from laguna_agent.acp.client.choices import Choice, Choices, Offered, Option, OptionsTold
from laguna_agent.acp.client.connection import Connection, connect
from laguna_agent.acp.client.incoming import Incoming
from laguna_agent.acp.client.served import CAPABILITIES, Served
from laguna_agent.acp.client.translation import Told
from laguna_agent.acp.client.usage import TokenUsage
from laguna_agent.acp.client.verdicts import INTERRUPTED, verdict
from laguna_agent.agent.commands import Command
from laguna_agent.agent.events import Event, Notice, TurnEnded, TurnStarted
from laguna_agent.agent.outcome import Verdict, verdict_of
from laguna_agent.agent.permissions import Approver
from laguna_agent.config import Settings, load
from laguna_agent.errors import LagunaError, ProviderError, UsageError
from laguna_agent.event_lines import one_line
from laguna_agent.messages import ContentBlock, ImageBlock

PROTOCOL_VERSION = 1
HELLO, OPENING, CHOOSING = 30.0, 120.0, 30.0
"""Seconds that an agent may take to answer `initialize`, to open a session, to change a mode or an option."""
CANCELLING = 15.0
"""Seconds that it may take to end a turn that was cancelled."""
LEAVING = 2.0
"""Seconds that it may take for that where the face has left."""
LATE, SILENCE, REPLAYING = 0.5, 0.3, 10.0
"""Seconds that a conversation may come behind the answer that says it was taken up, of silence that end it, in all."""
EARLY = 1000
"""Updates that are kept of those that come before the answer that opens the session."""


class Answered(schema.Wire, frozen=True):
    """The answer to session/prompt, whatever its stop reason is called."""

    stop_reason: str
    usage: TokenUsage | None = None


class ForeignAgent:
    """See the module; made by `start`, left by `aclose`. `version`, `model` and `title` are "" where it does not tell;
    `commands` are those that it announces."""

    def __init__(self, cwd: Path, ask: Approver, tasks: anyio.abc.TaskGroup, settings: Settings) -> None:
        self.cwd = cwd
        self.version = self.session_id = self.title = ""
        self.commands: tuple[Command, ...] = ()
        self._tasks = tasks
        self._incoming = Incoming()
        self._served = Served(cwd, settings, ask, tasks, self._incoming, self._is_ours)
        self._translator = self._served.translator
        self._choices = Choices()
        self._connection: Connection
        self._capabilities = schema.AgentCapabilities()
        self._early: list[Told] | None = []
        self._past: list[Event] = []
        self._turn = 0
        self._cancelled = self._left = False
        self._patience = anyio.CancelScope()
        self._idle = anyio.Event()
        self._idle.set()

    @classmethod
    async def start(
        cls,
        command: str,
        cwd: Path,
        *,
        ask: Approver,
        tasks: anyio.abc.TaskGroup,
        resume: str | None = None,
        settings: Settings | None = None,
    ) -> ForeignAgent:
        """Run the command line in `cwd` and open a session there, or the one called `resume`; it is served in tasks of
        `tasks`. `settings` hold the person's mode and rules; where none are given, those in force for `cwd` do.

        Raises UsageError for a command that cannot be run, ConfigError, AuthenticationFailed where it wants a login,
        ProviderError for anything else that it does not do. Then nothing of it runs any more.
        """
        cwd = cwd.resolve()
        if settings is None:
            settings = await anyio.to_thread.run_sync(load, cwd, {})
        agent = cls(cwd, ask, tasks, settings)
        agent._connection = await connect(
            command,
            cwd,
            tasks,
            agent._incoming,
            agent._served.requests,
            {"session/update": (Told, agent._hear)},
            agent._served.end,
        )
        try:
            await agent._open(resume)
        except BaseException:
            await agent.aclose()
            raise
        return agent

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """What it calls itself, else its program."""
        return self._connection.name

    @property
    def model(self) -> str:
        """The name of its model."""
        return self._choices.model

    @property
    def modes(self) -> tuple[Choice, ...]:
        """The modes that it offers."""
        return self._choices.modes

    @property
    def mode(self) -> str:
        """The id of the mode that it is in."""
        return self._choices.mode

    @property
    def options(self) -> tuple[Option, ...]:
        """What else it lets the person choose."""
        return self._choices.options

    async def set_mode(self, id: str) -> None:
        """Change the mode. Raises UsageError for one that it does not offer, ProviderError where it refuses."""
        if id not in {each.id for each in self.modes}:
            known = ", ".join(each.id for each in self.modes) or "none"
            raise UsageError(f"{self.name} has no mode {one_line(id)}; there are {one_line(known)}")
        option = self._choices.option("mode")
        if self._choices.own_modes or option is None:
            request = schema.SetSessionModeRequest(session_id=self.session_id, mode_id=id)
            await self._ask("session/set_mode", request, "does not change its mode", CHOOSING)
            self._choices.take_mode(id)
        else:
            await self.set_option(option.id, id)

    async def set_option(self, id: str, value: str | bool) -> None:
        """Change an option. Raises UsageError for one that it does not offer, ProviderError where it refuses."""
        option = next((each for each in self.options if each.id == id), None)
        if option is None:
            known = ", ".join(each.id for each in self.options) or "none"
            raise UsageError(f"{self.name} has no option {one_line(id)}; there are {one_line(known)}")
        kind = "boolean" if isinstance(value, bool) else None
        request = schema.SetSessionConfigOptionRequest(session_id=self.session_id, config_id=id, value=value, type=kind)
        await self._ask("session/set_config_option", request, f"does not change {one_line(option.name)}", CHOOSING)

    # -- the session ------------------------------------------------------------------------------------------------

    def past(self) -> list[Event]:
        """What the agent told of the session before its first prompt here: the conversation, where one was taken up."""
        if not self._turn:
            self._put(self._translator.heard())
            self._past += self._incoming.drain()
        return list(self._past)

    async def prompt(self, content: tuple[ContentBlock, ...]) -> AsyncGenerator[Event, None]:
        """Have the agent work on a prompt; yields events, the last of which is TurnEnded. One prompt at a time.

        Leave the generator early only through `contextlib.aclosing`; `cancel` is the polite way. Raises UsageError
        where a prompt before it has not ended.
        """
        with anyio.move_on_after(CANCELLING):
            await self._idle.wait()
        if not self._idle.is_set():
            raise UsageError(f"{self.name} has not ended the turn before; leave it where it never does")
        self._idle, self._patience = anyio.Event(), anyio.CancelScope()
        self._cancelled = self._left = False
        self._turn += 1
        self._served.begin_turn()
        self._incoming.begin()
        self._tasks.start_soon(self._converse, content)
        over = False
        try:
            yield TurnStarted(self._turn, self.session_id, self.model)
            while not over:
                event = await self._incoming.next()
                over = isinstance(event, TurnEnded)
                yield event
        finally:
            if not over:
                self.cancel()
                self._left = True
                with anyio.move_on_after(LEAVING, shield=True):
                    await self._idle.wait()
            self._incoming.end()

    def cancel(self) -> None:
        """End the running turn; what the agent has asked the person counts as cancelled. Harmless when none runs."""
        if self._idle.is_set() or self._cancelled:
            return
        self._cancelled = True
        self._patience.deadline = anyio.current_time() + CANCELLING
        self._served.withdraw()
        cancel = schema.CancelNotification(session_id=self.session_id)
        self._tasks.start_soon(self._connection.peer.notify, "session/cancel", cancel)

    async def aclose(self) -> None:
        """End the agent and everything that it started; returns when that is done."""
        with anyio.CancelScope(shield=True):
            self.cancel()
            with anyio.move_on_after(LEAVING):
                await self._idle.wait()
            await self._connection.aclose()
            await self._served.aclose()

    async def _open(self, resume: str | None) -> None:
        hello = await self._connection.request(
            "initialize",
            schema.InitializeRequest(
                protocol_version=PROTOCOL_VERSION,
                client_capabilities=CAPABILITIES,
                client_info=schema.Implementation(name="laguna-agent", title="Laguna Agent", version=__version__),
            ),
            schema.InitializeResponse,
            "cannot be spoken with",
            HELLO,
        )
        if hello.protocol_version != PROTOCOL_VERSION:
            raise ProviderError(
                f"{self.name} speaks version {hello.protocol_version} of the protocol, this program {PROTOCOL_VERSION}"
            )
        self._capabilities = hello.agent_capabilities
        self._connection.methods = hello.auth_methods
        if hello.agent_info is not None:
            self._connection.name = one_line(hello.agent_info.title or hello.agent_info.name) or self.name
            self.version = hello.agent_info.version
        if resume is None:
            await self._begin()
        else:
            await self._take_up(resume)

    async def _begin(self) -> None:
        request = schema.NewSessionRequest(cwd=str(self.cwd), mcp_servers=[])
        offered = await self._ask("session/new", request, "does not begin a session", OPENING)
        if not offered.session_id:
            raise ProviderError(f"{self.name} answered session/new without the id of a session")
        self.session_id = offered.session_id
        early, self._early = self._early or [], None
        for told in early:
            self._hear(told)

    async def _take_up(self, session: str) -> None:
        self.session_id, self._early = session, None
        what = f"does not take up session {one_line(session)}"
        if self._capabilities.load_session:
            load = schema.LoadSessionRequest(session_id=session, cwd=str(self.cwd), mcp_servers=[])
            await self._ask("session/load", load, what, OPENING)
            if not self._translator.told:
                await self._hear_late()
        elif self._capabilities.session_capabilities.resume is not None:
            again = schema.ResumeSessionRequest(session_id=session, cwd=str(self.cwd), mcp_servers=[])
            await self._ask("session/resume", again, what, OPENING)
        else:
            raise UsageError(f"{self.name} cannot take up sessions; start it without one")
        self._put(self._translator.end_turn())

    async def _hear_late(self) -> None:
        """There are agents that say first that a session was taken up, and tell of its conversation then."""
        with anyio.move_on_after(REPLAYING):
            await anyio.sleep(LATE)
            told = 0
            while told != self._translator.told:
                told = self._translator.told
                await anyio.sleep(SILENCE)

    async def _ask(self, method: str, params: Any, what: str, seconds: float) -> Offered:
        """Ask for something whose answer may tell of modes and options. An update may follow on its heels."""
        return await self._connection.request(method, params, Offered, what, seconds, self._choices.take)

    # -- a turn -----------------------------------------------------------------------------------------------------

    async def _converse(self, content: tuple[ContentBlock, ...]) -> None:
        """One prompt and its answer. Whatever happens, the turn ends with it."""
        told = INTERRUPTED
        try:
            told = await self._verdict(content)
        finally:
            self._served.withdraw()
            self._put(self._translator.end_turn())
            if not self._left:
                self._incoming.put(self._turn_ended(told))
            self._idle.set()

    async def _verdict(self, content: tuple[ContentBlock, ...]) -> Verdict:
        request = schema.PromptRequest(session_id=self.session_id, prompt=self._blocks(content))
        answer = None
        try:
            with self._patience:
                answer = await self._connection.peer.request("session/prompt", request, Answered)
        except LagunaError as error:
            # Agents differ in what they answer to a prompt that is cancelled.
            return INTERRUPTED if self._cancelled else verdict_of(await self._connection.failure(error, "failed"))
        if answer is None:
            late = f"{self.name} has not ended the turn within {CANCELLING:g} s; it may still be at work"
            self._incoming.put(Notice("warning", late))
            return INTERRUPTED
        if answer.usage is not None:
            self._incoming.put(self._translator.usage.take_totals(answer.usage))
        return INTERRUPTED if self._cancelled else verdict(answer.stop_reason, self.name)

    def _turn_ended(self, told: Verdict) -> TurnEnded:
        return TurnEnded(
            told.stop_reason,
            told.outcome,
            told.exit_code,
            told.message,
            files_changed=self._served.changed,
            error=told.error,
        )

    def _blocks(self, content: tuple[ContentBlock, ...]) -> list[schema.ContentBlock]:
        blocks: list[schema.ContentBlock] = []
        left_out = 0
        for block in content:
            if not isinstance(block, ImageBlock):
                blocks.append(schema.TextContent(text=block.text))
            elif self._capabilities.prompt_capabilities.image:
                blocks.append(schema.ImageContent(data=block.data, mime_type=block.mime_type))
            else:
                left_out += 1
        if left_out:
            self._incoming.put(Notice("warning", f"{self.name} takes no images, so {left_out} went without"))
        return blocks

    # -- what it tells and asks -------------------------------------------------------------------------------------

    def _hear(self, told: Told) -> None:
        if self._early is not None:
            # The answer that names the session is not here yet, but some agents tell of it already.
            self._early = [*self._early, told][-EARLY:]
            return
        if told.session_id != self.session_id:
            return
        match told.update:
            case schema.AvailableCommandsUpdate(available_commands=commands):
                self.commands = tuple(
                    Command(each.name.removeprefix("/"), each.description, each.input.hint if each.input else "")
                    for each in commands
                )
            case schema.CurrentModeUpdate(current_mode_id=mode):
                self._choices.take_mode(mode)
            case OptionsTold(config_options=options):
                self._choices.take(Offered(config_options=options))
            case schema.SessionInfoUpdate(title=title):
                self.title = title or self.title
        self._put(self._translator.events(told.update))

    def _is_ours(self, session: str) -> bool:
        return not self.session_id or session == self.session_id

    def _put(self, events: Iterable[Event]) -> None:
        for event in events:
            self._incoming.put(event)
