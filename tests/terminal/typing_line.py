"""A composer on a screen of its own, driven by the bytes that a terminal would send."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from prompt_toolkit.application import Application, create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.input.base import PipeInput
from prompt_toolkit.layout import HSplit, Layout
from prompt_toolkit.output.vt100 import Vt100_Output

from laguna_agent.agent.commands import Command
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.terminal.completion import Completer
from laguna_agent.terminal.composer import Composer, Submission
from laguna_agent.terminal.file_index import FileIndex
from laguna_agent.terminal.history import History
from laguna_agent.tools.files import Files

PASTE = "\x1b[200~{}\x1b[201~"
UP, DOWN, RIGHT, DELETE = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[3~"


class Line:
    """A composer that runs."""

    def __init__(self, composer: Composer, keyboard: PipeInput, app: Application[None], sent: list[Submission]) -> None:
        self.composer, self.sent, self.app = composer, sent, app
        self._keyboard = keyboard

    async def type(self, *keys: str) -> None:
        """Press keys, and let each arrive. A lone Escape is known by what does not follow."""
        for each in keys:
            self._keyboard.send_text(each)
            await settled()

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for something that takes its time."""
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.005)

    async def offered(self) -> list[str]:
        """What the menu offers, once it does."""
        await self.until(lambda: self.composer.menu.open)
        assert self.composer.menu.offers is not None
        return [offer.text for offer in self.composer.menu.offers.items]

    def shown(self) -> list[str]:
        """The rows of the input line as drawn, with what is below."""
        self.app.renderer.reset()
        self.app._redraw()
        screen = self.app.renderer.last_rendered_screen
        assert screen is not None
        rows = []
        for y in range(screen.height):
            row = screen.data_buffer[y]
            rows.append("".join(row[x].char for x in range(max(row, default=-1) + 1)).rstrip())
        return rows


async def settled() -> None:
    for _ in range(12):
        await asyncio.sleep(0)
    await asyncio.sleep(0.002)


@asynccontextmanager
async def line(
    folder: Path, *, vi: bool = False, columns: int = 60, commands: Iterable[Command] = (), history: Path | None = None
) -> AsyncIterator[Line]:
    """A composer in a workspace, with its history in the state directory unless told otherwise."""
    sent: list[Submission] = []
    size = Size(rows=30, columns=columns)
    with create_pipe_input() as keyboard:
        output = Vt100_Output(io.StringIO(), lambda: size, term="xterm")
        with create_app_session(input=keyboard, output=output):
            index = FileIndex(lambda: Files(policy_for(folder)))
            composer = Composer(
                history=History(history),
                completer=Completer(index, lambda: commands),
                on_submit=sent.append,
                vi=vi,
                cwd=folder,
            )
            app: Application[None] = Application(
                layout=Layout(HSplit([composer.container]), focused_element=composer.control),
                editing_mode=composer.editing_mode,
            )
            app.ttimeoutlen = app.timeoutlen = 0.01
            running = asyncio.create_task(app.run_async(handle_sigint=False))
            await settled()
            try:
                yield Line(composer, keyboard, app, sent)
            finally:
                app.exit()
                await running
