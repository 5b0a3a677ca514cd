"""A face of the tests' own: what is said to it can be read, and panels are worked by keys."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from weakref import ref

import anyio
import msgspec
from prompt_toolkit.key_binding.key_processor import KeyPress, KeyPressEvent, KeyProcessor
from prompt_toolkit.keys import KEY_ALIASES, Keys
from rich.cells import cell_len
from rich.console import RenderableType
from rich.text import Text

from laguna_agent.agent.commands import COMMANDS, Command
from laguna_agent.agent.events import Event
from laguna_agent.agent.permissions import Approver, deny_all
from laguna_agent.agent.session import Session
from laguna_agent.config import Settings
from laguna_agent.event_lines import printable
from laguna_agent.messages import ContentBlock, TextBlock
from laguna_agent.terminal.face import Facts, Panel
from laguna_agent.terminal.lines import Line, rendered
from laguna_agent.terminal.slash import find
from laguna_agent.terminal.theme import Theme, theme_named
from tests.agent.driving import settings_for, talk
from tests.model_server import ModelServer

R = TypeVar("R")
T = TypeVar("T")


def plain(lines: Iterable[Line]) -> str:
    """The words of the lines, one row each."""
    return "\n".join("".join(segment.text for segment in line).rstrip() for line in lines)


def widest(lines: Iterable[Line]) -> int:
    """The cells of the longest row."""
    return max((sum(cell_len(segment.text) for segment in line) for line in lines), default=0)


def press(panel: Panel[Any], *keys: str) -> None:
    """Work the panel by keys, as prompt_toolkit names them; a text of several letters is typed."""
    processor = KeyProcessor(panel.keys)
    for key in keys:
        named = [each for each in Keys if each.value == KEY_ALIASES.get(key, key)]
        for each in named or list(key):
            # The best of those whose filters hold comes last.
            fitting = [binding for binding in panel.keys.get_bindings_for_keys((each,)) if binding.filter()]
            event = KeyPressEvent(ref(processor), None, [KeyPress(each)], [], is_repeat=False)
            for binding in fitting[-1:]:
                binding.call(event)


class OwnLink:
    """A link to a session in the same event loop."""

    def __init__(self, session: Session | None, commands: Sequence[Command] = COMMANDS) -> None:
        self._session = session
        self.commands = commands
        self.events: list[Event] = []

    @property
    def session(self) -> Session | None:
        return self._session

    @property
    def facts(self) -> Facts:
        if self._session is None:
            return Facts(Path("/"), agent="another")
        return Facts(
            self._session.cwd, self._session.model, "test", self._session.wanted.approve, "none", self._session.id
        )

    async def open(self) -> Sequence[Event]:
        return ()

    async def send(self, content: tuple[ContentBlock, ...]) -> None:
        assert self._session is not None
        text = "".join(block.text for block in content if isinstance(block, TextBlock))
        self.events += await talk(self._session, text)

    async def steer(self, content: tuple[ContentBlock, ...]) -> bool:
        return False

    def cancel(self) -> None:
        if self._session is not None:
            self._session.cancel()

    async def change(self, **settings: Any) -> None:
        assert self._session is not None
        self._session.configure(msgspec.structs.replace(self._session.wanted, **settings), anew="model" in settings)

    async def call(self, function: Callable[..., T | Awaitable[T]], *arguments: object) -> T:
        result = function(*arguments)
        return await result if isinstance(result, Awaitable) else result

    async def close(self) -> None:
        if self._session is not None:
            await self._session.aclose()


class RecordingFace:
    """See the module. `keys` are pressed in the panels that are shown, in order, one group for each panel; a key
    `until WORDS` waits for the words."""

    def __init__(self, link: OwnLink, width: int = 80) -> None:
        self.theme: Theme = theme_named("dark")
        self.link = link
        self.busy = False
        self.width = width
        self.lines: list[Line] = []
        self.panels: list[str] = []
        self.keys: deque[tuple[str, ...]] = deque()
        self.submitted: list[str] = []
        self.drafts: list[str] = []
        self.went_to: list[str | None] = []
        self.left = False

    @property
    def settings(self) -> Settings:
        return self.link.session.wanted if self.link.session is not None else Settings()

    @property
    def said(self) -> str:
        """All that was said, as words."""
        return plain(self.lines)

    def say(self, what: RenderableType, style: str = "") -> None:
        if isinstance(what, str):
            what = Text(printable(what), style=self.theme.style(style or "text"))
        self.lines += rendered(what, self.width)

    async def show(self, panel: Panel[R]) -> R:
        results: list[R] = []
        panel.done = results.append
        for key in ("", *self.keys.popleft()):
            if key.startswith("until "):
                with anyio.fail_after(10):
                    while key.removeprefix("until ") not in plain(panel.lines(self.width, 20)):
                        await anyio.sleep(0.01)
            elif key == "escape":
                panel.interrupted()
            elif key:
                press(panel, key)
            self.panels.append(plain(panel.lines(self.width, 20)))
        assert results, f"the panel is still open:\n{self.panels[-1]}"
        return results[0]

    def submit(self, text: str) -> None:
        self.submitted.append(text)

    def draft(self, text: str) -> None:
        self.drafts.append(text)

    def use_theme(self, name: str) -> None:
        self.theme = theme_named(name)

    async def go_on_in(self, session_id: str | None, **changed: object) -> None:
        self.went_to.append(session_id)

    def unfold(self) -> None:
        self.say("unfolded")

    def leave(self) -> None:
        self.left = True

    async def obey(self, line: str) -> None:
        """What the app does with a line that begins with a slash: ours, or the agent's."""
        name, _, argument = line[1:].partition(" ")
        command = find(name, self, argument)
        if command is None:
            await self.link.send((TextBlock(line),))
        else:
            await command.run(self, argument)


@asynccontextmanager
async def face_of(
    server: ModelServer, workspace: Path, *, approver: Approver = deny_all, width: int = 80, **settings: Any
) -> AsyncGenerator[RecordingFace]:
    """A face over a new session."""
    session = await Session.start(workspace, settings_for(server, **settings), approver=approver)
    try:
        yield RecordingFace(OwnLink(session), width)
    finally:
        await session.aclose()


def with_face(
    server: ModelServer, workspace: Path, work: Callable[[RecordingFace], Awaitable[None]], **how: Any
) -> RecordingFace:
    """Do something with a face over a new session; the face, to look at."""

    async def run() -> RecordingFace:
        async with face_of(server, workspace, **how) as face:
            await work(face)
            return face

    return anyio.run(run)
