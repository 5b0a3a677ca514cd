"""What a foreign agent asks the person, and what we ask on its behalf: one question at a time, none after a cancel.

https://agentclientprotocol.com/protocol/v1/tool-calls#requesting-permission. Knows questions and answers; must not know
files or terminals. What was allowed for a call counts as leave for the file or command of it for the rest of the turn:
an agent that asks, and then does it through us, must not be asked about twice.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

import anyio

from laguna_agent.acp import schema
from laguna_agent.acp.client.calls import CHANGING, Call, text_of
from laguna_agent.acp.client.incoming import Incoming
from laguna_agent.acp.client.translation import Translator
from laguna_agent.agent.events import PermissionOption, PermissionRequested, PermissionResolved
from laguna_agent.agent.permissions import NOT_CERTAIN, Approver, PermissionAnswer, part_line

ITS_OWN = "whether anything confines it is up to the agent"
CANCELLED = schema.RequestPermissionResponse(outcome=schema.RequestPermissionOutcomeCancelled())


class Questions:
    """The questions of one session. `ask` puts one to the person."""

    def __init__(self, ask: Approver, incoming: Incoming, translator: Translator) -> None:
        self._ask = ask
        self._incoming = incoming
        self._translator = translator
        self._one = anyio.Lock()
        self._open: set[anyio.CancelScope] = set()
        self._asking = False
        self._paths: set[str] = set()
        self._commands: set[str] = set()

    def begin_turn(self) -> None:
        """From now on somebody is there to be asked, and nothing has been allowed."""
        self._asking = True
        self._paths.clear()
        self._commands.clear()

    def withdraw(self) -> None:
        """Nobody is asked until the next turn; what is open counts as not answered."""
        self._asking = False
        for scope in list(self._open):
            scope.cancel()

    def allowed_path(self, path: str) -> bool:
        """Whether the person allowed a call of this turn that changes the file, by the name that people read."""
        return path in self._paths

    def allowed_command(self, command: str) -> bool:
        """Whether the person allowed a call of this turn that runs exactly this."""
        return command in self._commands

    def tell(self, update: schema.ToolCall | schema.SessionUpdateToolCallUpdate) -> None:
        """Show news of a call, as if the agent had told them."""
        for event in self._translator.events(update):
            self._incoming.put(event)

    def call_about(self, path: str) -> str:
        """The id of the agent's running call on whose behalf it changes a file; "" where it tells of none."""
        call = self._translator.calls.about(path)
        return "" if call is None else call.id

    def call_commanding(self) -> str:
        """The id of the agent's running call on whose behalf it runs a command; "" where it tells of none."""
        call = self._translator.calls.commanding()
        return "" if call is None else call.id

    async def permission(self, asked: schema.RequestPermissionRequest) -> schema.RequestPermissionResponse:
        """The agent asks for leave."""
        self.tell(told(asked.tool_call))
        call = self._translator.calls.known(asked.tool_call.tool_call_id)
        options = tuple(PermissionOption(each.option_id, each.kind, each.name) for each in asked.options)
        parts, unusual = facts_of(call)
        said = remarks(asked.tool_call.content or (), command_of(call.input))
        request = PermissionRequested(
            call.id,
            call.title or call.id,
            call.kind,
            call.input,
            options,
            call.diffs,
            call.locations,
            parts,
            (*unusual, *said),
        )
        answer = await self.put(request)
        chosen = None if answer is None else chosen_option(answer, options)
        if chosen is None:
            return CANCELLED
        if chosen.kind.startswith("allow"):
            self._remember(call)
        return schema.RequestPermissionResponse(outcome=schema.SelectedPermissionOutcome(option_id=chosen.id))

    async def put(self, request: PermissionRequested) -> PermissionAnswer | None:
        """Ask the person; None where nobody is there, or the turn is cancelled first."""
        answer = None
        with anyio.CancelScope() as scope:
            self._open.add(scope)
            try:
                async with self._one:
                    answer = await self._put(request) if self._asking else None
            finally:
                self._open.discard(scope)
        return answer

    async def _put(self, request: PermissionRequested) -> PermissionAnswer:
        answer = PermissionAnswer(False, reason="the question was withdrawn")
        self._incoming.put(request)
        try:
            await self._incoming.shown()
            answer = await self._ask(request)
            return answer
        finally:
            self._incoming.put(PermissionResolved(request.call_id, answer.allowed, answer.reason))

    def _remember(self, call: Call) -> None:
        if call.kind in CHANGING or call.diffs:
            self._paths |= call.paths
        if (command := command_of(call.input)) is not None:
            self._commands.add(command)


def told(call: schema.ToolCallUpdate) -> schema.SessionUpdateToolCallUpdate:
    """What a question tells of its call, as the update that it stands for. Its words are for the question alone: they
    are nothing that the call gave."""
    diffs: list[schema.ToolCallContent] = [each for each in call.content or () if isinstance(each, schema.Diff)]
    known = {name: getattr(call, name) for name in call.__struct_fields__}
    return schema.SessionUpdateToolCallUpdate(**(known | {"content": diffs or None}))


def remarks(content: Iterable[schema.ToolCallContent], command: str | None) -> tuple[str, ...]:
    """What the agent says beside a question, line by line. Code is left out: it repeats what the call is."""
    texts = [text_of(each.content) for each in content if isinstance(each, schema.Content)]
    words = [text for text in texts if "```" not in text and text.strip() != (command or "").strip()]
    lines = [line.strip().removeprefix("- ") for text in words for line in text.split("\n")]
    return tuple(filter(None, lines))


def chosen_option(answer: PermissionAnswer, options: Iterable[PermissionOption]) -> PermissionOption | None:
    """The option that the person's answer stands for: the very one where it names it, else by kind. Never one that
    grants more than was said; a refusal may be a broader one. None where there is none."""
    offered = tuple(options)
    verb = "allow" if answer.allowed else "reject"
    named = next((each for each in offered if each.id == answer.option and each.kind.startswith(verb)), None)
    wanted = [f"{verb}_always", f"{verb}_once"] if answer.remember else [f"{verb}_once"]
    wanted += [] if answer.allowed else ["reject_always"]
    kinds = {kind: each for kind in wanted for each in reversed(offered) if each.kind == kind}
    return named or next((kinds[kind] for kind in wanted if kind in kinds), None)


def facts_of(call: Call) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a command runs, part by part, and what is unusual about it; nothing for a call that runs none."""
    command = command_of(call.input)
    if call.kind != "execute" or command is None:
        return (), ()
    from laguna_agent.code.shell_command import parts

    parsed = parts(command)
    shown = tuple(part_line(part) for part in parsed.parts if not part.through)
    return shown, (ITS_OWN, *(NOT_CERTAIN + reason for reason in parsed.unclear))


def command_of(given: dict[str, Any]) -> str | None:
    """The command line in a call's arguments, where agents put it."""
    command = given.get("command", given.get("cmd"))
    if isinstance(command, list) and all(isinstance(word, str) for word in command):
        return shlex.join(command)
    return command if isinstance(command, str) else None
