"""The end of a prompt: its record, and the event that tells faces of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec

from laguna_agent.agent.events import TurnEnded
from laguna_agent.agent.outcome import RunRecord, Verdict, last_answer
from laguna_agent.agent.store import Ended
from laguna_agent.errors import UsageError
from laguna_agent.redaction import without_keys

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session
    from laguna_agent.agent.turn import Turn


async def end_on_tape(session: Session, verdict: Verdict, turn: Turn | None, seconds: float, emitted: int) -> RunRecord:
    """The prompt's record, and the files as it left them, written to the tape after `emitted` events. A record that
    cannot be written says so itself."""
    after = await session.keeping.after()
    # Whoever did it: a job in the background tells nobody of its files.
    moved = after is not None and after.tree not in ("", session.keeping.tree)
    record = await record_of(session, verdict, turn, seconds, moved=moved)
    try:
        session.tape.note(Ended(record, verdict.error, emitted))
        if after is not None:
            session.tape.note(after)
    except UsageError as error:
        record = msgspec.structs.replace(record, message=f"{record.message} ({error})".strip())
    return record


async def record_of(
    session: Session, verdict: Verdict, turn: Turn | None, seconds: float, *, moved: bool = False
) -> RunRecord:
    """What came of the prompt that `turn` worked on (None: it came to no turn) in `seconds`; `moved`: files are not as
    they were."""
    changed = dict(turn.execution.changed) if turn else {}
    message = verdict.message
    if session.snapshot is not None:
        try:
            changed |= dict.fromkeys(await anyio.to_thread.run_sync(session.snapshot.changed))
        except UsageError as error:
            message = f"{message} (the changes could not be listed: {error})".strip()
    spent = session.budget.usage
    evidence, note = turn.execution.evidence.verdict(changed=moved or bool(changed)) if turn else ("", "")
    return RunRecord(
        verdict.outcome,
        verdict.stop_reason,
        verdict.exit_code,
        without_keys(message),
        last_answer(session.history),
        session.budget.turns,
        spent.input_tokens,
        spent.output_tokens,
        spent.cached_tokens,
        spent.reasoning_tokens,
        spent.cost,
        seconds,
        tuple(changed),
        tuple(session.check.runs) if session.check else (),
        tuple(turn.execution.denied) if turn else (),
        session.workspace.sandbox,
        session.id,
        session.model,
        evidence,
        note,
    )


def ended_event(record: RunRecord, error: str) -> TurnEnded:
    """The last event of a prompt; `error` names the class of what ended it."""
    return TurnEnded(
        record.stop_reason,
        record.outcome,
        record.exit_code,
        record.message,
        record.turns,
        record.files_changed,
        record.checks,
        error,
        record.evidence,
        record.evidence_note,
    )
