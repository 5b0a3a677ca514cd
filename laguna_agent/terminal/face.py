"""What the parts of the interactive face know of each other.

    Link      the agent on the other side: our own session, or any ACP agent
    Face      the screen with its input line, as slash commands and panels see it
    Panel     something that takes the keyboard for a moment: a permission question, a list to choose from
    SlashCommand   what `/name` does
    Facts     what the status line tells

The face's thread runs prompt_toolkit's event loop and owns the terminal; a session lives in an event loop on a thread
of its own, so that neither waits for the other. `Link` is the only way across.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings
    from rich.console import RenderableType

    from laguna_agent.agent.commands import Command
    from laguna_agent.agent.events import Event, PermissionRequested
    from laguna_agent.agent.permissions import PermissionAnswer
    from laguna_agent.agent.prompting import Cause
    from laguna_agent.agent.session import Session
    from laguna_agent.config import Settings
    from laguna_agent.messages import ContentBlock
    from laguna_agent.terminal.lines import Line
    from laguna_agent.terminal.theme import Theme
    from laguna_agent.tools.files import Files

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Facts:
    """What is so just now, for the status line; "" and None where it is not known."""

    cwd: Path
    model: str = ""
    provider: str = ""
    mode: str = ""
    sandbox: str = ""
    session_id: str = ""
    agent: str = ""
    """The name of another agent that is driven; "" for our own."""


@dataclass(frozen=True)
class Question:
    """A permission request on its way to the person; `answer` may be called once, on the face's thread."""

    request: PermissionRequested
    answer: Callable[[PermissionAnswer], None]


class Link(Protocol):
    """The agent that the face talks to. All of it is called on the face's thread.

    Events and questions go to the inbox that a link was made with, in order; `send` returns when the last event of its
    turn is there.
    """

    @property
    def session(self) -> Session | None:
        """Our own session; None for another agent, and before `open`. Reading plain attributes of it is safe."""

    @property
    def facts(self) -> Facts: ...

    @property
    def commands(self) -> Sequence[Command]:
        """Slash commands that the agent itself answers: they are sent like prompts."""

    async def open(self) -> Sequence[Event]:
        """Begin or take up the session; what was said in it before. Raises LagunaError."""

    async def send(self, content: tuple[ContentBlock, ...]) -> None:
        """Have a prompt worked on to its end."""

    async def steer(self, content: tuple[ContentBlock, ...]) -> bool:
        """Say something into the turn that runs; False where it cannot be said any more."""

    @property
    def unsaid(self) -> tuple[tuple[ContentBlock, ...], ...]:
        """What was said into the last turn and did not reach the agent."""

    @property
    def files(self) -> Files:
        """The workspace's files, as far as the person's own rules show them."""

    def cancel(self, cause: Cause = "interrupted") -> None:
        """End the turn that runs as soon as its processes are gone."""

    async def change(self, **settings: Any) -> None:
        """Change settings of the session, such as `model` and `approve`. Raises LagunaError."""

    @overload
    async def call(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: object) -> T: ...
    @overload
    async def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Run something on the session's thread, where the session may be touched; raises what it raises."""

    async def close(self) -> None:
        """End the session; nothing of it stays running."""


class Panel(Protocol[R]):
    """Something that takes the keyboard. The input line is hidden (its draft kept) unless `reading` names what is to be
    typed: then Enter calls `typed`, and Escape `typed(None)`."""

    reading: str | None
    done: Callable[[R], None] | None
    """Set by the face before the panel is shown; the panel calls it once, with its result."""

    @property
    def keys(self) -> KeyBindings: ...

    def lines(self, width: int, height: int) -> list[Line]:
        """What is shown in place of the input line, at most `height` rows of `width` columns."""

    def typed(self, text: str | None) -> None: ...

    def interrupted(self) -> None:
        """Ctrl-C, Escape, or the end of the turn that asked: give the answer that does nothing."""


class Face(Protocol):
    """The interactive face as its commands see it. Everything is called on its thread."""

    theme: Theme

    @property
    def link(self) -> Link: ...

    @property
    def settings(self) -> Settings: ...

    @property
    def busy(self) -> bool:
        """Whether a turn runs."""

    @property
    def width(self) -> int:
        """Columns that finished lines are made for."""

    def say(self, what: RenderableType, style: str = "") -> None:
        """Put something into the history. A plain string is shown as it is, made printable, in a style of the theme."""

    async def show(self, panel: Panel[R]) -> R:
        """Give the keyboard to a panel until it is done; its result. Panels wait for one another."""

    def submit(self, text: str) -> None:
        """As if the person had sent it."""

    def draft(self, text: str) -> None:
        """Put a text into the input line, for the person to change."""

    def use_theme(self, name: str) -> None:
        """Draw with another theme from now on, and remember it. Raises UsageError for an unknown one."""

    async def go_on_in(self, session_id: str | None, **changed: object) -> None:
        """Leave the session and go on in another one (None: a new one); it is shown. Raises LagunaError, and then the
        session goes on."""

    def unfold(self) -> None:
        """Show in full what was folded last."""

    def leave(self) -> None:
        """End the program, once what runs has ended."""


@dataclass(frozen=True)
class SlashCommand:
    """What `/name` does in the face. `arguments` lists what may follow, for completion.

    `at_work` ones may run while a turn does; the others wait for its end. `session` says that it needs our own session:
    it is not offered where another agent is driven.
    """

    name: str
    description: str
    run: Callable[[Face, str], Awaitable[None]]
    hint: str = ""
    arguments: Callable[[Face], Iterable[str]] | None = None
    at_work: bool = False
    session: bool = False
