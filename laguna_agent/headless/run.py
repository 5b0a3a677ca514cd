"""One run from its first check to its exit code."""

from __future__ import annotations

from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from msgspec.structs import replace

from laguna_agent.agent.events import StopReason
from laguna_agent.agent.outcome import RunRecord, Verdict, bug_verdict, record_without_turn, verdict_of
from laguna_agent.config import Settings, load
from laguna_agent.directories import displaced
from laguna_agent.errors import EXIT_SIGINT, EXIT_SIGTERM, LagunaError, UsageError
from laguna_agent.headless.approval import choose_approver
from laguna_agent.headless.artifacts import write_artifacts
from laguna_agent.headless.invocation import (
    Invocation,
    prompts_to_take_back,
    read_schema,
    refuse_beside_replay,
    require_writable,
)
from laguna_agent.headless.output import LAST_WORDS_PATIENCE, Output, Unreadable
from laguna_agent.headless.prompt import read_prompt
from laguna_agent.headless.stopping import Stop, Stopped
from laguna_agent.session_choice import choose_session
from laguna_agent.trust import Trust, look

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

# Before there is a session there is nothing to resume, which is what the session's own verdicts offer.
_STOPPED = {
    "interrupted": Verdict("interrupted", "cancelled", EXIT_SIGINT, "interrupted before the run began"),
    "terminated": Verdict("terminated", "cancelled", EXIT_SIGTERM, "terminated before the run began"),
}


def run(invocation: Invocation) -> int:
    """Do what was asked; returns the exit code. Raises UsageError only while the output mode is not known."""
    output, stop = Output(invocation.output), Stop()
    try:
        try:
            record = anyio.run(_supervise, invocation, _prepare(invocation, stop), output, stop)
        except Stopped:
            record = _without_session(_STOPPED[stop.outcome or "interrupted"], invocation)
        except LagunaError as error:
            record = _without_session(verdict_of(error), invocation)
        except Unreadable:
            raise
        except Exception as error:  # noqa: BLE001 - a bug must still end in the final record
            record = _without_session(bug_verdict(error), invocation)
        output.finish(record, hurried=stop.outcome is not None)
        return record.exit_code
    except Unreadable as error:
        return error.exit_code
    finally:
        stop.over()


def write_early_result(mode: str, outcome: str, exit_code: int, message: str) -> None:
    """Write the final record of a run that ended before `run` was called, unless one is written already."""
    if not Output.result_written:
        stop_reason: StopReason = "cancelled" if exit_code >= EXIT_SIGINT else "error"
        record = _without_session(Verdict(outcome, stop_reason, exit_code, message), Invocation())
        with suppress(Unreadable):
            Output(mode).write_record(record, LAST_WORDS_PATIENCE)


@dataclass(frozen=True)
class Job:
    """An invocation that has passed every check that costs nothing."""

    invocation: Invocation
    cwd: Path
    settings: Settings
    prompt: str
    schema: dict[str, Any] | None
    resumed: str | None
    rewind: int
    trust: Trust


def _prepare(invocation: Invocation, stop: Stop) -> Job | None:
    """The job; None for a replay, which finds everything in its recording."""
    if invocation.replay is not None:
        refuse_beside_replay(invocation)
        return None
    require_writable(invocation.patch_out, "--patch-out")
    require_writable(invocation.trajectory, "--trajectory")
    rewind = prompts_to_take_back(invocation)
    resumed, cwd = choose_session(
        resume=invocation.resume, continue_latest=invocation.continue_latest, cwd=invocation.cwd
    )
    ground = look(cwd)
    if invocation.trust:
        ground = ground.granted()
    settings = load(cwd, invocation.flags, ground)
    schema = read_schema(invocation.output_schema) if invocation.output_schema else None
    with stop.waiting():
        prompt = read_prompt(invocation)
    trust = Trust(cwd, ground if invocation.trust else None)
    return Job(invocation, cwd, settings, prompt, schema, resumed, rewind, trust)


async def _replay(recording: str, output: Output, stop: Stop) -> RunRecord:
    """Run a recording again. Its final record is the recorded one, and so is the exit code; Diverged is exit 2."""
    from laguna_agent.agent.replay import find_recording, recorded_result, replay

    path = find_recording(recording)
    async with aclosing(replay(path)) as events:
        async for event in events:
            await stop.write(output, event)
    return recorded_result(path)


async def _supervise(invocation: Invocation, job: Job | None, output: Output, stop: Stop) -> RunRecord:
    """The run under the signal watch; its final record. Raises Stopped where a signal came before the session."""
    result: RunRecord | Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop.watch)
        try:
            result = await _converse(job, invocation, output, stop, tasks)
        except Exception as error:  # noqa: BLE001 - carried out of the task group, which would wrap it
            result = error
        tasks.cancel_scope.cancel()
    if isinstance(result, Exception):
        raise result
    if result is None:
        raise Stopped
    return result


async def _converse(
    job: Job | None, invocation: Invocation, output: Output, stop: Stop, tasks: TaskGroup
) -> RunRecord | None:
    with anyio.CancelScope() as stop.before_session:
        stop.apply()
        if job is None:
            return await _replay(str(invocation.replay), output, stop)
        stop.session = await _open(job)
        output.warn(displaced())
        stop.session.trust = job.trust
    if job is None or stop.session is None:
        return None
    return await _follow(stop.session, job, output, stop, tasks)


async def _follow(session: Session, job: Job, output: Output, stop: Stop, tasks: TaskGroup) -> RunRecord:
    from laguna_agent.agent.serving import start_servers

    unwritten: Unreadable | None = None
    try:
        await start_servers(session, tasks)
        async with aclosing(session.prompt(job.prompt)) as events:
            async for event in events:
                # A signal between the session's start and its first step finds no step to cancel.
                stop.apply()
                try:
                    if unwritten is None:
                        await stop.write(output, event)
                except Unreadable as error:
                    unwritten = error
                    session.cancel("terminated")
        record = _with_artifacts(session, job.invocation)
    finally:
        with anyio.CancelScope(shield=True):
            await session.aclose()
    if unwritten is not None:
        raise unwritten
    return record


def _with_artifacts(session: Session, invocation: Invocation) -> RunRecord:
    """The session's record, and its artifacts written; a run whose artifact is missing did not succeed."""
    record = session.record()
    try:
        write_artifacts(session, invocation.patch_out, invocation.trajectory)
    except LagunaError as error:
        if record.exit_code == 0:
            return replace(record, outcome=error.outcome, exit_code=error.exit_code, message=str(error))
        return replace(record, message=f"{record.message}; {error}")
    return record


async def _open(job: Job) -> Session:
    from laguna_agent.agent.archive import fork_session
    from laguna_agent.agent.opening import require_walls
    from laguna_agent.agent.permissions import deny_all
    from laguna_agent.agent.session import Session

    approver, check, snapshot = choose_approver(), job.invocation.check, job.invocation.patch_out is not None
    if job.resumed is None:
        session = await Session.start(
            job.cwd, job.settings, approver=approver, check=check, output_schema=job.schema, snapshot=snapshot
        )
    else:
        recorded = await anyio.to_thread.run_sync(fork_session, job.resumed) if job.invocation.fork else job.resumed
        session = await Session.resume(
            recorded, job.settings, approver=approver, check=check, output_schema=job.schema, snapshot=snapshot
        )
    try:
        if approver is deny_all and session.walls is not None:
            require_walls(session.walls, job.settings)
        if job.rewind:
            session.rewind(job.rewind)
    except UsageError:
        await session.aclose()
        raise
    return session


def _without_session(verdict: Verdict, invocation: Invocation) -> RunRecord:
    """The final record of a run that has no session, or whose session could not give its own."""
    model = invocation.flags.get("model")
    return record_without_turn(verdict, model=model if isinstance(model, str) else "")
