"""How the loop and a model understand each other; what the model can follow decides which dialect it gets.

`ToolDialect` is for models that call tools; `code_dialect.CodeDialect` is for small ones that can only write code. A
dialect turns the prompt into the opening message, an answer into calls, results into messages. It knows nothing of
permissions, events or logs, and `calls` depends on nothing but the answer and `shown`, so that a replay is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from laguna_agent.agent.choosing import Choice
from laguna_agent.agent.events import CheckRun
from laguna_agent.agent.prompt import environment, rules, untold
from laguna_agent.agent.store import Said
from laguna_agent.backend.assemble import Reply
from laguna_agent.backend.base import Sampling
from laguna_agent.backend.tool_text import recover_calls
from laguna_agent.messages import ContentBlock, Message, Role, TextBlock, ToolCall, ToolSpec, text_message
from laguna_agent.tools.base import ToolResult
from laguna_agent.tools.workspace import Workspace

TEXT_CALL = "text_"
Shown = dict[str, tuple[str, ...]]
PLANNING = (
    "Plan mode: only reading is allowed now. Find out what must be done and answer with a plan: "
    "which files change and how, in order, and how to check it. Do not try to change anything."
)


MUST_PASS = "When you are done this command must pass: `{command}`."


class Dialect(Protocol):
    """See the module. `tools` are advertised in every request; `corrections` is how often a failing check goes back,
    `asks_anew` whether each time without what was said before. `compacts`: the older part of a long conversation may
    give place to a summary."""

    tools: tuple[ToolSpec, ...]
    corrections: int
    asks_anew: bool
    compacts: bool

    def system(self) -> str:
        """The system message."""
        ...

    async def question(self, content: Sequence[ContentBlock], check: CheckRun | None) -> Said | None:
        """What the model must choose before the opening; None where nothing is left open. Its `shown` are the paths to
        choose among."""
        ...

    def chosen(self, choice: Choice | None) -> None:
        """What the model chose; None where its answer was no choice."""
        ...

    async def opening(self, content: Sequence[ContentBlock], check: CheckRun | None) -> Said:
        """The prompt as the model gets it; `check` is how the check stands before any work."""
        ...

    async def steered(self, content: Sequence[ContentBlock]) -> Said:
        """What the person said while the turn ran, as the model gets it: at the end of the conversation."""
        ...

    async def standing(self) -> str:
        """What holds for the whole prompt and is told anew where the conversation gives place to a summary."""
        ...

    def told(self, said: Said, position: int) -> None:
        """The model is being told this: an opening or a correction, at this position of the history. All that the
        dialect does from here on follows from it, live and replayed."""
        ...

    def view(self, history: Sequence[Message]) -> list[Message]:
        """The part of the conversation that goes into the next request."""
        ...

    def ask_with(self, sampling: Sampling) -> tuple[Sampling, dict[str, Any] | None]:
        """Sampling, and the schema that constrains the next answer, if any."""
        ...

    def calls(self, reply: Reply) -> tuple[ToolCall, ...]:
        """What the answer asks to be done."""
        ...

    def answers(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> list[Message]:
        """The messages that tell the model the results; none where it need not answer them."""
        ...

    def unusable(self, reply: Reply) -> str | None:
        """What to say to an answer without calls that cannot be the last one; None where it can."""
        ...

    async def correction(self, run: CheckRun, attempt: int) -> Said | None:
        """What to say when the check fails after the model was done; `attempt` counts from 1. None: nothing is left to
        try."""
        ...


class ToolDialect:
    """Native tool calls, and calls that arrive as text where a server or a template fails to parse them."""

    corrections = 4
    compacts = True
    asks_anew = False

    def __init__(
        self,
        tools: tuple[ToolSpec, ...],
        system: str,
        workspace: Workspace,
        prompt: int,
        instructions: str = "",
        history: Sequence[Message] = (),
        *,
        planning: bool = False,
    ) -> None:
        """`prompt` is the prompt's number in the session; call ids must be unique there. `instructions` are the
        project's own, trusted; `history` is what the model was told so far. `planning`: nothing may be changed."""
        self.tools = tools
        self._system = system
        self._workspace = workspace
        self._prefix = f"{TEXT_CALL}{prompt}_"
        self._instructions = rules(instructions)
        self._history = history
        self._command = ""
        self._planning = planning
        self._recovered = 0

    def system(self) -> str:
        return self._system

    async def question(self, content: Sequence[ContentBlock], check: CheckRun | None) -> Said | None:
        return None

    def chosen(self, choice: Choice | None) -> None:
        pass

    async def opening(self, content: Sequence[ContentBlock], check: CheckRun | None) -> Said:
        # State goes to the end of the newest message: the prefix before it stays the same from turn to turn.
        notes = untold(self._history, await environment(self._workspace), self._instructions)
        if self._planning:
            notes.append(PLANNING)
        if check is not None:
            self._command = MUST_PASS.format(command=check.command)
            state = "passes" if check.exit_code == 0 else f"fails:\n{check.output[-2_500:]}"
            notes.append(f"{self._command} At the moment it {state}")
        return Said(Message("user", (*content, TextBlock("\n\n" + "\n\n".join(notes))) if notes else tuple(content)))

    async def steered(self, content: Sequence[ContentBlock]) -> Said:
        return Said(Message("user", tuple(content)))

    async def standing(self) -> str:
        planning = PLANNING if self._planning else ""
        notes = (await environment(self._workspace), self._instructions, planning, self._command)
        return "\n\n".join(filter(None, notes))

    def told(self, said: Said, position: int) -> None:
        pass

    def view(self, history: Sequence[Message]) -> list[Message]:
        return list(history)

    def ask_with(self, sampling: Sampling) -> tuple[Sampling, dict[str, Any] | None]:
        return sampling, None

    def calls(self, reply: Reply) -> tuple[ToolCall, ...]:
        if reply.message.tool_calls:
            return reply.message.tool_calls
        found = recover_calls(reply.message.text, self.tools)
        if not found and not reply.message.text.strip():
            # Laguna sometimes opens a call before it closes its thought.
            found = recover_calls(reply.message.reasoning, self.tools, tagged_only=True)
        base = self._recovered
        self._recovered += len(found)
        numbered = enumerate(found, base + 1)
        return tuple(msgspec.structs.replace(call, id=f"{self._prefix}{number}") for number, call in numbered)

    def answers(self, calls: Sequence[ToolCall], results: Sequence[ToolResult]) -> list[Message]:
        messages = []
        for call, result in zip(calls, results, strict=True):
            content = result.content or (TextBlock("(no output)"),)
            role: Role = "tool"
            if call.id.startswith(self._prefix):
                # A server that did not see a call would refuse a message of role "tool".
                role, content = "user", (TextBlock(f"Result of {call.name}:\n"), *content)
            messages.append(Message(role, content, tool_call_id=call.id, name=call.name))
        return messages

    def unusable(self, reply: Reply) -> str | None:
        if reply.finish == "length":
            return "Your answer was cut off at the length limit. Go on in smaller steps."
        if not reply.message.text.strip():
            return "Your answer was empty. Call a tool, or say that you are done."
        return None

    async def correction(self, run: CheckRun, attempt: int) -> Said | None:
        return Said(
            text_message("user", f"`{run.command}` fails (exit {run.exit_code}). Fix it.\n{run.output[-4_000:]}")
        )
