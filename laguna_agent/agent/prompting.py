"""One prompt at work: from the person's words to TurnEnded, whatever happens in between.

Knows the session that it works for, the tape, the clock and the face's end of the events; must not know what a turn
does with the model. What goes wrong becomes the outcome of the run here, a bug too: nothing is raised in the face.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from time import monotonic
from typing import TYPE_CHECKING, Literal

import anyio

from laguna_agent.agent import events, outcome
from laguna_agent.agent.commands import command_in, expanded, is_for_the_model, text_of
from laguna_agent.agent.conversation import orphan_results
from laguna_agent.agent.delivery import Delivery
from laguna_agent.agent.loop import run_turn
from laguna_agent.agent.obeying import obey
from laguna_agent.agent.outcome import RunRecord
from laguna_agent.agent.preparation import prepare
from laguna_agent.agent.steering import Steering
from laguna_agent.agent.store import Prompted, Said
from laguna_agent.agent.telling import tell_end, tell_event
from laguna_agent.agent.turn import Turn
from laguna_agent.errors import LagunaError

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

Cause = Literal["interrupted", "terminated"]


class Prompting:
    """One prompt of a session. `busy` while it is worked on, `cause` why it was cancelled, `record` what came of it."""

    def __init__(self, session: Session, prompted: Prompted) -> None:
        self.delivery = Delivery()
        self.cause: Cause | None = None
        self.busy = True
        self.record: RunRecord | None = None
        self.steering = Steering(session.tape, takes=is_for_the_model(prompted.content))
        self._session = session
        self._prompted = prompted
        self._scope: anyio.CancelScope | None = None
        self._turn: Turn | None = None

    async def stream(self) -> AsyncGenerator[events.Event, None]:
        """Work on it; yields events, the last of which is TurnEnded."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._run)
                try:
                    while (event := await self.delivery.next()) is not None:
                        yield event
                except GeneratorExit:
                    # The face left. A task group would wrap this; end the run in good order instead.
                    self.cancel()
                    await self.delivery.drain()
        finally:
            self.delivery.abandon()
            self.busy = False

    def cancel(self, cause: Cause = "interrupted") -> None:
        """End it as soon as its processes are gone; harmless where it has ended."""
        if not self.busy:
            return
        self.cause = self.cause or cause
        self.steering.close()
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self) -> None:
        session, started, verdict = self._session, monotonic(), outcome.COMPLETED
        span = session.telemetry.begin("prompt", "laguna-agent", number=session.prompt_number + 1)
        session.budget.begin_run()
        if session.check is not None:
            session.check.runs.clear()
        with self.delivery:
            try:
                with anyio.CancelScope() as self._scope:
                    if self.cause is not None:
                        self._scope.cancel()
                    await session.take_settings()
                    with anyio.move_on_after(session.settings.max_time) as clock:
                        await self._work()
                    if clock.cancelled_caught:
                        raise session.budget.out_of_time()
            except LagunaError as error:
                verdict = outcome.verdict_of(error)
            except Exception as bug:  # noqa: BLE001 - the one place where a bug becomes an outcome
                verdict = session.crashed(bug)
            self._scope = None
            self.steering.close()
            if self.cause is not None:
                verdict = outcome.TERMINATED if self.cause == "terminated" else outcome.INTERRUPTED
            seconds = round(monotonic() - started, 3)
            self.record = await session.end(verdict, self._turn, seconds, self.delivery.emitted)
            tell_end(session.telemetry, span, self.record, verdict.error)
            await self.delivery.put(session.turn_ended(self.record, verdict.error))

    async def _work(self) -> None:
        session, content = self._session, self._prompted.content
        self._begin()
        command = command_in(content)
        if command in (None, "init"):
            self._turn = await prepare(session, content, self._emit)
            await run_turn(self._turn)
        else:
            await obey(command, content, session, self._emit)

    async def _emit(self, event: events.Event) -> None:
        self._session.admit(self.delivery.emitted)
        if isinstance(event, events.UsageUpdated):
            self._session.usage = event
        tell_event(self._session.telemetry, event)
        await self.delivery.put(event)

    def _begin(self) -> None:
        session, prompted = self._session, self._prompted
        if not session.tape.recorded:
            session.tape.note(prompted)
        text = text_of(prompted.content)
        session.prompt_number += 1
        session.keeping.begin()
        session.prompts.append(text)
        if is_for_the_model(prompted.content):
            session.asked.append(text)
            session.words.append(text_of(expanded(prompted.content)))
        for message in orphan_results(session.history, session.unanswered):
            session.tape.note(Said(message))
            session.history.append(message)
        session.unanswered.clear()
