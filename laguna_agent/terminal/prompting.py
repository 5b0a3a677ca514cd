"""What happens with what the person sends: prompts, commands, the person's own shell commands; one after the other.

While a turn runs, a prompt is said into it where the agent takes that; everything else waits for its end. What waits is
shown, and goes back to the input line where the turn is interrupted: then the person wants to have another look.
"""

from __future__ import annotations

import asyncio
import difflib
import re
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from rich.segment import Segment

from laguna_agent.agent.commands import is_for_the_model, text_of
from laguna_agent.errors import LagunaError
from laguna_agent.event_lines import one_line
from laguna_agent.messages import ContentBlock, TextBlock
from laguna_agent.terminal.bang import Banged, run_bang
from laguna_agent.terminal.composer import Submission
from laguna_agent.terminal.folding import cut
from laguna_agent.terminal.lines import Line

if TYPE_CHECKING:
    from laguna_agent.terminal.app import InteractiveFace
    from laguna_agent.terminal.face import SlashCommand

WAITING_ROWS = 4


class Prompting:
    """The queue of a face. All on the face's thread."""

    def __init__(self, face: InteractiveFace) -> None:
        self._face = face
        self._waiting: deque[Submission] = deque()
        self._steering: list[str] = []
        self._banged: list[Banged] = []
        self._worker: asyncio.Task[None] | None = None
        self._turn: asyncio.Task[None] | None = None
        self._interrupted = self._stopped = False
        self.began: float | None = None
        """When what runs began, by the monotonic clock; None while nothing does."""

    @property
    def busy(self) -> bool:
        """Whether something of the person's is worked on."""
        return self._worker is not None

    @property
    def queued(self) -> int:
        """How much waits."""
        return len(self._waiting) + len(self._steering)

    def submit(self, text: str) -> None:
        """As if the person had typed it."""
        self.send(Submission(text, (TextBlock(text),)))

    def send(self, submission: Submission) -> None:
        """Take what the person sent."""
        command = self._command(submission.text) if self.busy else None
        if command is not None and command.at_work:
            self._face.start(asyncio.create_task(self._obey(command, submission.text)))
            self._face.refresh()
        elif self._turn is not None and submission.text[:1] not in ("/", "!"):
            self._face.start(asyncio.create_task(self._steer(submission)))
        else:
            self.queue(submission)

    def queue(self, submission: Submission) -> None:
        """Have it wait for the end of what runs, whatever it is."""
        self._waiting.append(submission)
        self.go_on()
        self._face.refresh()

    def go_on(self) -> None:
        """Begin with what waits, where the session is there and nothing runs."""
        if self._waiting and self._face.opened and self._worker is None:
            self._worker = asyncio.create_task(self._work())
            self._face.start(self._worker)

    def interrupt(self) -> bool:
        """End what runs; False where nothing does."""
        if self._turn is None:
            return False
        self._interrupted = True
        self._turn.cancel() if self._turn.get_name() == "bang" else self._face.link.cancel()
        return True

    def stop(self) -> None:
        """Nothing is begun any more."""
        self._waiting.clear()
        self._stopped = True

    def waiting_lines(self, width: int) -> list[Line]:
        """What waits, as rows of the screen."""
        style = self._face.theme.style("dim")
        texts = [f"› goes to the model with its next request: {one_line(text)}" for text in self._steering]
        texts += [f"› waits for the end of the turn: {one_line(each.text)}" for each in self._waiting]
        if len(texts) > WAITING_ROWS:
            texts[WAITING_ROWS - 1 :] = [f"  and {len(texts) - WAITING_ROWS + 1} more wait"]
        return [(Segment(cut(text, width - 1), style),) for text in texts]

    # -- doing it ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._do(self._waiting.popleft())
        finally:
            self._worker = None

    async def _do(self, submission: Submission) -> None:
        text = submission.text
        if text.startswith("!") and text[1:].strip():
            await self._bang(text[1:].strip())
        elif (command := self._command(text)) is not None:
            await self._obey(command, text)
        elif (unknown := self._unknown(text)) is not None:
            self._face.say(unknown, "error")
        else:
            await self._prompt(submission)

    def _command(self, text: str) -> SlashCommand | None:
        name = _name(text)
        if not name:
            return None
        from laguna_agent.terminal import slash

        return slash.find(name, self._face, text.partition(" ")[2].strip())

    def _unknown(self, text: str) -> str | None:
        """What to say of a command that nobody knows; None for what is none. A path is a prompt."""
        name = _name(text)
        known = [command.name for command in self._face.link.commands]
        if not name or name in known:
            return None
        from laguna_agent.terminal import slash

        near = difflib.get_close_matches(name, [*known, *slash.names(self._face)], n=1)
        meant = f" (is it /{near[0]}?)" if near else ""
        return f"unknown command /{one_line(name, 40)}{meant}; /help lists them"

    async def _obey(self, command: SlashCommand, text: str) -> None:
        self._face.transcript.said(text)
        try:
            await command.run(self._face, text.partition(" ")[2].strip())
        except LagunaError as error:
            self._face.say(str(error), "error")

    async def _prompt(self, submission: Submission) -> None:
        self._face.transcript.said(submission.text)
        told = self._told() if is_for_the_model(submission.content) else ()
        content = (*submission.content, *told)
        self._turn = asyncio.create_task(self._face.link.send(content), name="turn")
        await self._attend(self._turn)
        if not self._stopped:
            await self._face.turn_over()
            self._take_back()

    async def _attend(self, turn: asyncio.Task[None]) -> None:
        """Wait for what runs, and tell what went wrong."""
        self.began, self._interrupted = monotonic(), False
        self._face.refresh()
        try:
            await turn
        except LagunaError as error:
            self._face.say(str(error), "error")
        except asyncio.CancelledError:
            if not turn.cancelled():
                raise
        finally:
            self._turn, self.began = None, None

    def _take_back(self) -> None:
        """What waited goes back to the person after an interrupt, and what was not said any more is said next."""
        unsaid = [Submission(text_of(content), content) for content in self._face.link.unsaid]
        self._steering.clear()
        if not self._interrupted:
            self._waiting.extendleft(reversed(unsaid))
            return
        texts = [each.text for each in (*unsaid, *self._waiting)]
        self._waiting.clear()
        if texts:
            self._face.draft("\n".join([*texts, *filter(None, [self._face.composer.text])]))

    # -- while a turn runs ------------------------------------------------------------------------------------------

    async def _steer(self, submission: Submission) -> None:
        text = text_of(submission.content)
        self._steering.append(text)
        self._face.refresh()
        if not await self._face.link.steer(submission.content):
            self.heard(text)
            self.queue(submission)

    def heard(self, text: str) -> None:
        """What was said into the turn has reached the agent, or waits elsewhere now."""
        if text in self._steering:
            self._steering.remove(text)

    # -- the person's own commands ----------------------------------------------------------------------------------

    async def _bang(self, command: str) -> None:
        self._face.transcript.said(f"!{command}")

        def printed(text: str) -> None:
            self._face.transcript.printed(text)
            self._face.refresh()

        async def run() -> None:
            banged = await run_bang(command, self._face.link.facts.cwd, printed)
            self._banged.append(banged)
            self._face.say(f"exit {banged.exit_code}", "dim" if banged.exit_code == 0 else "error")

        self._turn = asyncio.create_task(run(), name="bang")
        await self._attend(self._turn)
        self._face.drain()
        self._face.look_at_git()

    def _told(self) -> list[ContentBlock]:
        """What the person ran since the last prompt, for the agent to know."""
        banged, self._banged = self._banged, []
        return [TextBlock(_account(each)) for each in banged]


def _account(banged: Banged) -> str:
    """What a command of the person's wrote, fenced in by more marks than it holds."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", banged.output_tail)), default=0))
    cut = ", the end of its output" if banged.cut else ""
    head = f"I ran `{banged.command}` (exit code {banged.exit_code}{cut}):"
    return f"\n\n{head}\n{fence}\n{banged.output_tail}\n{fence}"


def _name(text: str) -> str:
    """The name of the command that a text is, "" where it is none."""
    word = text.split(None, 1)[0] if text.strip() else ""
    return word[1:] if word.startswith("/") and "/" not in word[1:] else ""
