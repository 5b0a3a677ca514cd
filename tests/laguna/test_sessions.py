"""Whole sessions on the in-process engine: real tools, a model that is made to say what the test wants, and a count of
every token that it computes. Taking back, branching and going on in another process cost only what is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest
import torch

from laguna_agent.agent.archive import fork_session
from laguna_agent.agent.events import TurnEnded, UsageUpdated
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.agent.session import Session
from laguna_agent.backend.laguna import in_process
from laguna_agent.config import Settings
from tests.laguna.whole_checkpoint import script, whole_checkpoint

TURNS = 20
# Two thousand passes of a small model: seconds on a machine of its own, minutes on a busy one.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return whole_checkpoint(tmp_path_factory.mktemp("models") / "laguna-tiny", context=32_768)


@pytest.fixture(autouse=True)
def engines_end() -> Iterator[None]:
    yield
    in_process.close_engines()


def said(before: str) -> str:
    """Each prompt is answered by reading a file, and then by a word about it."""
    number = before.count("<user>")
    if "<tool_response>" in before.rpartition("</user>")[2]:
        return f"File {number} holds what it should.</assistant>"
    call = f"<tool_call>read<arg_key>path</arg_key><arg_value>file{number}.txt</arg_value></tool_call>"
    return f"I look into it.{call}</assistant>"


THINNED = 40
"""Tokens of one exchange. Of the places that a cache can return to, those far back are thinned out: the nearest may lie
within a prompt."""


class Counted:
    """A session, and what its model computed."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.computed: list[int] = []
        self.requests = 0
        self.usage: UsageUpdated | None = None
        self.end = 0

    async def prompt(self, text: str) -> None:
        """One prompt; the usage that it reports must account for every token that was computed."""
        before, counted = self.usage or UsageUpdated(0, 0), sum(self.computed)
        requests, last = 0, before
        async with aclosing(self.session.prompt(text)) as events:
            async for event in events:
                if isinstance(event, UsageUpdated):
                    last, requests = event, requests + 1
                if isinstance(event, TurnEnded):
                    assert (event.outcome, event.exit_code) == ("completed", 0), event
        assert requests == 2
        read = (last.input_tokens - last.cached_tokens) - (before.input_tokens - before.cached_tokens)
        written = last.output_tokens - before.output_tokens
        assert sum(self.computed) - counted == read + written - requests
        assert last.context_used is not None
        self.usage, self.end = last, last.context_used - 1


async def allow(_: object) -> PermissionAnswer:
    return PermissionAnswer(True)


def settings(checkpoint: Path) -> Settings:
    return Settings(model=f"local/{checkpoint}", quant="bf16", temperature=0.0, context_length=32_768, approve="all")


async def counted(session: Session) -> Counted:
    """Open the session's backend and give its model its words."""
    from laguna_agent.backend.providers import open_backend

    backend, _ = await open_backend(session.settings)
    assert isinstance(backend, in_process.InProcessBackend)
    engine = backend.engine
    # Drafts that turn out wrong are computed too.
    engine.draft = 0
    found = Counted(session)
    work = engine.call(lambda _: script(engine._load().local, said, "<assistant></think>"))
    found.computed = await anyio.to_thread.run_sync(work.result)
    return found


def files(folder: Path) -> None:
    for number in range(1, TURNS + 5):
        (folder / f"file{number}.txt").write_text(f"line of file {number}\n" * (number % 5 + 1))


async def twenty_turns(checkpoint: Path, folder: Path) -> tuple[str, int, int]:
    """The session's id, where it ended, and where its tenth prompt had ended."""
    one = await counted(await Session.start(folder, settings(checkpoint), approver=allow))
    tenth = 0
    for number in range(TURNS):
        await one.prompt(f"Look at file {number}.")
        # Everything in the conversation was computed once, and nothing else was.
        assert sum(one.computed) == one.end
        tenth = one.end if number == 9 else tenth
    await one.session.aclose()
    return one.session.id, one.end, tenth


def test_in_twenty_turns_every_token_is_computed_once(checkpoint, workspace):
    files(workspace)

    async def work() -> None:
        one = await counted(await Session.start(workspace, settings(checkpoint), approver=allow))
        ends = []
        for number in range(TURNS):
            await one.prompt(f"Look at file {number}.")
            assert sum(one.computed) == one.end
            ends.append(one.end)

        # Ten prompts are taken back: what comes then is all that is computed.
        one.session.rewind(10)
        before = sum(one.computed)
        await one.prompt("Look at another one instead.")
        assert one.end < ends[10] + 40
        assert sum(one.computed) - before <= one.end - ends[9] + THINNED
        await one.session.aclose()

        # A copy of the session goes its own way, and the session goes on; both read only what is new.
        at = one.end
        copy = await Session.resume(fork_session(one.session.id), settings(checkpoint), approver=allow)
        other = Counted(copy)
        other.computed = one.computed
        for counting in (other, Counted(await Session.resume(one.session.id, settings(checkpoint), approver=allow))):
            counting.computed = one.computed
            before = sum(one.computed)
            await counting.prompt(f"Look once more, {counting.session.id}.")
            assert sum(one.computed) - before <= counting.end - at
            await counting.session.aclose()

    anyio.run(work)


def test_a_resumed_session_in_a_new_engine_computes_only_what_is_new(checkpoint, workspace):
    files(workspace)
    session, end, tenth = anyio.run(twenty_turns, checkpoint, workspace)

    async def go_on(back: int, at: int) -> None:
        one = await counted(await Session.resume(session, settings(checkpoint), approver=allow))
        if back:
            one.session.rewind(back)
        await one.prompt("And now?")
        assert one.end > at
        assert sum(one.computed) <= one.end - at + (THINNED if back else 0)
        await one.session.aclose()

    # Without its engine a process has nothing but what lies on disk.
    in_process.close_engines()
    anyio.run(go_on, 0, end)
    in_process.close_engines()
    anyio.run(go_on, 11, tenth)
