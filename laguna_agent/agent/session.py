"""A session: one conversation in one workspace, with everything that outlives a turn.

    session = await Session.start(cwd, settings, approver=approver)
    async with aclosing(session.prompt("Fix the failing test")) as events:
        async for event in events: ...
    record = session.record()

A session owns the history, the budget, the grants, the log and the workspace; a face owns the session. Starting one is
cheap: the backend is opened by the first prompt. `prompt` yields the turn's events and always ends with TurnEnded: what
goes wrong in a run is its outcome, never an exception in the face.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec

from laguna_agent.agent import events, outcome
from laguna_agent.agent.budget import Budget
from laguna_agent.agent.changes import Snapshot
from laguna_agent.agent.checks import Check
from laguna_agent.agent.conversation import Past, conversation_events, rebuild
from laguna_agent.agent.ending import end_on_tape, ended_event
from laguna_agent.agent.fallback import Fallback
from laguna_agent.agent.journal import Journal
from laguna_agent.agent.keeping import Keeping
from laguna_agent.agent.opening import begin_log, new_session, output_directory, recorded_session, walls_for
from laguna_agent.agent.outcome import RunRecord, Verdict
from laguna_agent.agent.permissions import Approver, permissions_for
from laguna_agent.agent.prompting import Cause, Prompting
from laguna_agent.agent.recovery import clear_up
from laguna_agent.agent.remembering import remember
from laguna_agent.agent.rules import Rules
from laguna_agent.agent.steering import Steering
from laguna_agent.agent.store import (
    AnyRecord,
    Configured,
    Opened,
    Prompted,
    Rewound,
    find_session,
    iterate_log,
    session_directory,
)
from laguna_agent.agent.tape import LiveTape, Tape, encodable, redacted
from laguna_agent.agent.telemetry import SILENT, Telemetry, open_telemetry
from laguna_agent.agent.turn import Turn
from laguna_agent.backend.base import Backend
from laguna_agent.checkpoints.keep import Keep
from laguna_agent.config import Settings
from laguna_agent.credentials import know_stored_keys
from laguna_agent.errors import UsageError
from laguna_agent.mcp.servers import McpServers
from laguna_agent.messages import ContentBlock, TextBlock
from laguna_agent.sandbox.walls import Walls
from laguna_agent.tools.footprint import Footprint
from laguna_agent.tools.ledger import FileLedger
from laguna_agent.tools.registry import Registry, default_registry
from laguna_agent.tools.workspace import LocalWorkspace, Workspace
from laguna_agent.trust import Trust

# Settings that say which server is asked for which model.
WHERE = ("model", "base_url", "api_key_env", "fallback_models")


class Session:
    """See the module. Build one with `start` or `resume`; close it with `aclose`."""

    def __init__(
        self, opened: Opened, settings: Settings, approver: Approver, tape: Tape, walls: Walls | None = None
    ) -> None:
        self.id = opened.id
        self.cwd = Path(opened.cwd)
        self.model = opened.model
        self.settings = self.wanted = settings
        self.approver = approver
        self.tape = tape
        self.budget = Budget.of(settings)
        self.continue_from(Past())
        self.footprint = Footprint()
        self.registry: Registry = default_registry()
        self.servers: McpServers | None = None
        self.trust = Trust(self.cwd)
        self.trusting = False
        """Whether prompts come from a person who may trust something with /trust; set by the face."""
        self.workspace: Workspace = LocalWorkspace(
            self.cwd,
            spool=output_directory(self.id),
            roots=tuple(map(Path, opened.roots)),
            walls=walls,
            sandbox=opened.sandbox,
        )
        self.walls = walls
        self.keeping = Keeping(Keep(walls.policy, self.id) if walls and settings.checkpoints else None)
        self.permissions = permissions_for(settings, self.workspace, walls)
        self.check = Check(opened.check) if opened.check else None
        self.output_schema = opened.output_schema
        self.backend: Backend | None = None
        self.resumed = self.prompted = self._anew = False
        self.wire_model = ""
        self.fallback = Fallback.of(settings)
        self.snapshot: Snapshot | None = None
        self.usage: events.UsageUpdated | None = None
        self.latest_turn: Turn | None = None
        self.telemetry: Telemetry = SILENT
        self._journal: Journal | None = None
        self._prompting: Prompting | None = None

    @classmethod
    async def start(
        cls,
        cwd: Path,
        settings: Settings,
        *,
        approver: Approver,
        check: str | None = None,
        output_schema: dict[str, Any] | None = None,
        snapshot: bool = False,
        roots: tuple[str, ...] = (),
    ) -> Session:
        """A new session in `cwd`; raises UsageError where that is no directory or the log cannot be written.

        `roots` are further directories, absolute, that belong to the workspace as `cwd` does.
        `snapshot` keeps the workspace's state outside it, so that `patch` can tell every change, whoever made it.
        """
        opened = new_session(cwd, settings, check, output_schema, roots)
        return await cls._open(opened, settings, approver, snapshot)

    @classmethod
    async def resume(
        cls,
        session_id: str,
        settings: Settings,
        *,
        approver: Approver,
        check: str | None = None,
        output_schema: dict[str, Any] | None = None,
        snapshot: bool = False,
        roots: tuple[str, ...] | None = None,
        cwd: Path | None = None,
    ) -> Session:
        """A recorded session, ready for its next prompt; raises UsageError where it is unknown, damaged or in use.

        `roots` of None are those that it began with, and so is `cwd`.
        """
        path = find_session(session_id)
        opened = recorded_session(path, settings, check, output_schema, roots, cwd)
        session = await cls._open(opened, settings, approver, snapshot)
        past = session.history, session.unanswered, session.registry, session.workspace
        await anyio.to_thread.run_sync(clear_up, *past)
        session.resumed = True
        return session

    @classmethod
    async def _open(cls, opened: Opened, settings: Settings, approver: Approver, snapshot: bool) -> Session:
        # Each raises for one that cannot be used, while there is nothing to close.
        Rules(settings.rules)
        Fallback.of(settings)
        telemetry = open_telemetry(settings, session_directory(opened.id))
        await anyio.to_thread.run_sync(know_stored_keys)
        walls = await anyio.to_thread.run_sync(walls_for, opened, settings)
        try:
            journal, opened, past = begin_log(opened, walls.tier)
        except UsageError:
            walls.take_down()
            raise
        session = cls(opened, settings, approver, LiveTape(journal), walls)
        session._journal, session.telemetry = journal, telemetry
        session.continue_from(past)
        if snapshot:
            session.snapshot = await anyio.to_thread.run_sync(
                Snapshot, session.cwd, session_directory(opened.id) / "start.git"
            )
        return session

    # -- the past ---------------------------------------------------------------------------------------------------

    def continue_from(self, past: Past) -> None:
        """Take the conversation from there. What the files held that it tells of may have changed since, so the model
        must look at a file again before it writes over it."""
        self.history, self.unanswered, self.estimate = past.history, past.unanswered, past.estimate
        self.prompts, self.asked, self.prompt_number = past.prompts, past.asked, past.prompt_number
        self.call_ids, self.work = past.call_ids, past.work
        self.words, self._untaken = past.words, past.untaken
        self.ledger = FileLedger()

    def rewind(self, prompts: int) -> str:
        """Take back that many of the newest prompts for the model with everything that followed, files aside (those are
        for `undoing`); returns the first one's text. Not while a prompt runs. Raises UsageError where there are fewer.

        Grants stay: they are the person's word for the session. So does what is spent.
        """
        if not 1 <= prompts <= len(self.asked):
            raise UsageError(f"session {self.id} has {len(self.asked)} prompts to take back, not {prompts}")
        text = self.asked[-prompts]
        self.tape.note(Rewound(prompts))
        self.look_again()
        return text

    def look_again(self) -> None:
        """The log has changed what the conversation is."""
        self.continue_from(rebuild(self.records()))

    def records(self) -> Iterable[AnyRecord]:
        """What happened so far."""
        return iterate_log(find_session(self.id))

    # -- settings ---------------------------------------------------------------------------------------------------

    def configure(self, settings: Settings, *, anew: bool = False) -> None:
        """Change settings: the approval mode at once, also for a turn that runs, all others for the next prompt.

        `anew` says that the model was chosen, be it the same: a session that fell back begins with it again.
        """
        self.wanted = settings
        self._anew = self._anew or (anew and self.fallback.taken)
        self.permissions.approve = settings.approve

    async def take_settings(self) -> None:
        """Put what `configure` was told in force, and into the log."""
        anew, self._anew = self._anew, False
        if self.wanted == self.settings and not anew:
            return
        if not self.tape.recorded:
            self.tape.note(Configured(msgspec.to_builtins(self.wanted), anew))
        moved = anew or any(getattr(self.wanted, key) != getattr(self.settings, key) for key in WHERE)
        self.settings = self.wanted
        if moved:
            self.fallback = Fallback.of(self.settings)
            self.model = self.settings.model or ""
            backend, self.backend = self.backend, None
            if backend is not None:
                await backend.aclose()

    # -- prompting --------------------------------------------------------------------------------------------------

    def prompt(
        self, content: str | tuple[ContentBlock, ...], given: tuple[dict[str, object], ...] = ()
    ) -> AsyncGenerator[events.Event, None]:
        """Work on a prompt; yields events, the last of which is TurnEnded. One prompt at a time.

        `given` is kept for the face, which gets it back when the conversation is shown again. Leave the generator early
        only through `contextlib.aclosing`; `cancel` is the polite way.
        """
        blocks = (TextBlock(content),) if isinstance(content, str) else content
        # From here on, not from the task's first step, a cancel is for this prompt.
        self._prompting = Prompting(self, redacted(encodable(Prompted(blocks, given))))
        return self._prompting.stream()

    def steer(self, content: str | tuple[ContentBlock, ...]) -> bool:
        """Say something into the prompt that runs: the model gets it with its next request, when the event `Steered`
        goes out, and does not end its turn before. Call it where the session lives.

        False where it cannot be said any more, or is a slash command; then it is to be the next prompt. What was
        accepted and not taken, because the turn was cancelled or failed, is `untaken` after it.
        """
        blocks = (TextBlock(content),) if isinstance(content, str) else content
        return self._prompting is not None and self._prompting.steering.accept(blocks)

    @property
    def steering(self) -> Steering:
        """What is said into the prompt that runs."""
        assert self._prompting is not None, "a turn belongs to a prompt"
        return self._prompting.steering

    @property
    def untaken(self) -> tuple[tuple[ContentBlock, ...], ...]:
        """What was said into the last prompt and the model does not have (yet): after the prompt's end, also of one
        that was killed, it is the face's to send as a prompt. The next prompt forgets it."""
        return tuple(self._prompting.steering.untaken if self._prompting is not None else self._untaken)

    def cancel(self, cause: Cause = "interrupted") -> None:
        """End the running prompt as soon as its processes are gone; harmless when none runs."""
        if self._prompting is not None:
            self._prompting.cancel(cause)

    # What a replay does otherwise.

    def admit(self, emitted: int) -> None:
        """Called before an event goes out, `emitted` of which have; a replay stops here where the recorded run did."""

    async def end(self, verdict: Verdict, turn: Turn | None, seconds: float, emitted: int) -> RunRecord:
        """The run's record, in the log too."""
        return await end_on_tape(self, verdict, turn, seconds, emitted)

    def turn_ended(self, record: RunRecord, error: str) -> events.TurnEnded:
        """The last event."""
        return ended_event(record, error)

    def crashed(self, bug: Exception) -> Verdict:
        """What a bug comes to."""
        return outcome.bug_verdict(bug, session=self.id, log=self.telemetry.recent())

    # -- looking back -----------------------------------------------------------------------------------------------

    def record(self) -> RunRecord:
        """The final record of the last prompt."""
        assert self._prompting is not None and self._prompting.record is not None, "no prompt has ended"
        return self._prompting.record

    def patch(self) -> bytes:
        """What changed in the workspace since the session started, for `git apply --binary`; needs `snapshot`."""
        if self.snapshot is None:
            raise UsageError("this session keeps no snapshot to compare with")
        return self.snapshot.patch()

    def replay_events(self) -> Iterator[events.Event]:
        """The conversation so far as events, for a face that shows a resumed session."""
        return conversation_events(self.records(), self.registry)

    async def aclose(self) -> None:
        """End background commands and MCP servers, close the backend and the log."""
        hurried = self._prompting is not None and self._prompting.cause == "terminated"
        with anyio.CancelScope(shield=True):
            if self.backend is not None and self.prompted:
                await remember(self.backend, self.id, hurried=hurried)
            for owned in (self.workspace, self.servers, self.backend):
                if owned is not None:
                    await owned.aclose()
            if self.walls is not None:
                await anyio.to_thread.run_sync(self.walls.take_down)
            await anyio.to_thread.run_sync(self.telemetry.close)
        if self._journal is not None:
            self._journal.close()
