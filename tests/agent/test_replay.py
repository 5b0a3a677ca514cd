"""A recorded run replays offline to the same bytes: no server, no workspace, no command; or it says where it differs.

Every conversation of this room is replayed by `driving.converse`; here are the ways in which a run can be cut off, and
the real program's `run --replay`.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import msgspec
import pytest

from laguna_agent.agent.events import Event, PermissionRequested, TextDelta, ToolCallStarted, ToolCallUpdate
from laguna_agent.agent.journal import Journal
from laguna_agent.agent.permissions import PermissionAnswer, deny_all
from laguna_agent.agent.replay import find_recording, recorded_result, replay
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import Checkpointed, Ended, Replied, ToolRan, find_session, iterate_log
from laguna_agent.agent.tape import Diverged
from laguna_agent.errors import UsageError
from tests.agent.driving import Conversation, converse, lines, replayed, settings_for, talk
from tests.conftest import RunCli, StartCli
from tests.model_server import ModelServer, delay, http, reset, stall, stream, text, tool_call


def cancel_at(kind: type[Event], nth: int = 1) -> Callable[[Session, Event], None]:
    """Cancel when the nth event of a kind has come."""
    left = [nth]

    def watch(session: Session, event: Event) -> None:
        if isinstance(event, kind):
            left[0] -= 1
            if left[0] == 0:
                session.cancel()

    return watch


def test_without_server_and_workspace(model_server: ModelServer, workspace: Path, tmp_path: Path) -> None:
    command = {"command": f"echo ran >> {tmp_path / 'traces'}; echo out"}
    model_server.reply(tool_call("write", {"path": "a.py", "content": "x = 1\n"}), tool_call("shell", command))
    model_server.reply(text("Done."))
    spoken = converse(model_server, workspace, "x", check="test -f a.py", sandbox="none")
    model_server.close()
    shutil.rmtree(workspace)
    copy = tmp_path / "recording.jsonl"
    copy.write_bytes(spoken.log.read_bytes())
    shutil.rmtree(spoken.log.parent)
    before = sorted(tmp_path.rglob("*"))
    assert lines(replayed(copy)) == lines(spoken.events)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "traces").read_text() == "ran\n"
    assert recorded_result(copy) == spoken.result


@pytest.mark.parametrize(
    ("kind", "nth"), [(TextDelta, 1), (ToolCallStarted, 1), (ToolCallUpdate, 1), (ToolCallUpdate, 3)]
)
def test_interrupted_at_any_event(model_server: ModelServer, workspace: Path, kind: type[Event], nth: int) -> None:
    call = tool_call("shell", {"command": "echo one; sleep 0.1; echo two; sleep 30"})
    model_server.reply([text("I will wait."), call], text("Go on.", pieces=2))
    spoken = converse(model_server, workspace, "x", "and now?", watch=cancel_at(kind, nth))
    assert spoken.results[0].outcome == "interrupted"
    assert spoken.results[1].outcome == "completed"


def test_cancelled_before_its_first_step(model_server: ModelServer, workspace: Path) -> None:
    """A signal that comes between the call of prompt() and the first step of its task is for this prompt."""

    async def start() -> Session:
        session = await Session.start(workspace, settings_for(model_server), approver=deny_all)
        session.cancel()  # nothing runs yet, so this is for nothing

        async def cancel() -> None:
            session.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            await talk(session, "x")
        assert session.record().outcome == "interrupted"
        await talk(session, "y")
        await session.aclose()
        return session

    model_server.reply(text("Done."))
    assert anyio.run(start).record().outcome == "completed"
    assert len(model_server.chats) == 1


def test_interrupted_while_the_model_is_silent(model_server: ModelServer, workspace: Path) -> None:
    def watch(session: Session, event: Event) -> None:
        if isinstance(event, TextDelta):
            session.cancel("terminated")

    model_server.reply([text("half an", pieces=1), stall()])
    spoken = converse(model_server, workspace, "x", watch=watch)
    assert (spoken.result.outcome, spoken.result.exit_code) == ("terminated", 143)
    assert spoken.records(Replied)[0].error == ("Cancelled", "")


def test_interrupted_while_a_person_is_asked(model_server: ModelServer, workspace: Path) -> None:
    async def nobody(_: PermissionRequested) -> PermissionAnswer:
        await anyio.sleep_forever()
        raise AssertionError

    (workspace / "a.txt").write_text("old\n")
    model_server.reply(tool_call("edit", {"path": "a.txt", "old": "old", "new": "new"}))
    watch = cancel_at(PermissionRequested)
    spoken = converse(model_server, workspace, "x", approve="ask", approver=nobody, watch=watch)
    assert spoken.result.outcome == "interrupted"
    (asked,) = spoken.of(PermissionRequested)
    assert asked.diffs[0].new_text == "new\n"
    (workspace / "a.txt").unlink()
    assert lines(replayed(spoken.log)) == lines(spoken.events)


def test_what_was_asked_needs_no_path_of_this_machine(model_server: ModelServer, workspace: Path) -> None:
    # Not below /tmp, which is the sandbox's own.
    (workspace / "link.txt").symlink_to("/etc/passwd")

    async def person(_: PermissionRequested) -> PermissionAnswer:
        return PermissionAnswer(True)

    model_server.reply(tool_call("read", {"path": "link.txt"}), text("Done."))
    spoken = converse(model_server, workspace, "x", approve="ask", approver=person)
    (asked,) = spoken.of(PermissionRequested)
    assert "/etc/passwd" in asked.options[1].grant
    (workspace / "link.txt").unlink()
    assert lines(replayed(spoken.log)) == lines(spoken.events)
    (workspace / "link.txt").write_text("inside now")
    assert lines(replayed(spoken.log)) == lines(spoken.events)


def test_a_provider_error_in_the_middle(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("list", {}), stream(text("half"), reset()))
    spoken = converse(model_server, workspace, "x")
    assert (spoken.result.outcome, spoken.result.turns) == ("provider_error", 2)
    assert spoken.of(TextDelta)


def test_a_server_that_cannot_be_reached(model_server: ModelServer, workspace: Path) -> None:
    model_server.close()
    spoken = converse(model_server, workspace, "x")
    assert spoken.result.outcome == "provider_error"


def test_time_spent(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "echo begun; sleep 30"}))
    spoken = converse(model_server, workspace, "x", max_time=0.8)
    assert (spoken.result.outcome, spoken.result.exit_code) == ("budget_spent", 5)
    assert spoken.records(ToolRan)[0].output == ("begun\n",)


def test_resumed_sessions_replay_whole(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("1\n")
    model_server.reply(tool_call("read", {"path": "a.txt"}), text("one"), tool_call("read", {"path": "a.txt"}))
    model_server.reply(text("two"), text("three"))
    first = converse(model_server, workspace, "x", max_turns=7)
    second = converse(model_server, workspace, "y", "z", resume=first, check="true", temperature=0.5)
    assert [turn.text for turn in second.results] == ["one", "two", "three"]
    assert recorded_result(second.log) == second.result


def test_leaving_a_prompt_early_ends_it_in_good_order(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "echo begun; exec sleep 29.5"}))

    async def leave() -> Path:
        session = await Session.start(workspace, settings_for(model_server), approver=deny_all)
        async with aclosing(session.prompt("x")) as events:
            async for event in events:
                if isinstance(event, ToolCallUpdate) and event.output:
                    break
        assert session.record().outcome == "interrupted"
        await session.aclose()
        return session.tape._journal.path  # type: ignore[attr-defined]

    started = time.monotonic()
    log = anyio.run(leave)
    assert time.monotonic() - started < 15
    assert [type(record) for record in iterate_log(log)][-2:] == [Ended, Checkpointed]


def alter(spoken: Conversation, change: Callable[[object], object]) -> Path:
    """The log with every record passed through `change`; None leaves one out."""
    path = spoken.log.parent / "altered.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for record in iterate_log(spoken.log):
        changed = change(record)
        if changed is not None:
            journal.append(changed)  # type: ignore[arg-type]
    journal.close()
    return path


def require_diverged(path: Path, events: list[Event], words: str) -> None:
    """The replay gives the events up to the divergence, then says what differs."""
    seen: list[Event] = []

    async def collect() -> None:
        async for event in replay(path):
            seen.append(event)

    with pytest.raises(Diverged, match=words) as caught:
        anyio.run(collect)
    assert caught.value.exit_code == 2
    assert lines(events).startswith(lines(seen))


def test_divergence_is_named(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("list", {"path": "."}), text("Done."))
    spoken = converse(model_server, workspace, "x")

    def other_answer(record: object) -> object:
        if isinstance(record, Replied) and any(type(d).__name__ == "ToolCallDelta" for d in record.deltas):
            deltas = tuple(d for d in record.deltas if type(d).__name__ != "ToolCallDelta")
            return msgspec.structs.replace(record, stored=deltas)
        return record

    require_diverged(alter(spoken, other_answer), spoken.events, "the replay made Said, the log has Said")
    without_tool = alter(spoken, lambda record: None if isinstance(record, ToolRan) else record)
    require_diverged(without_tool, spoken.events, "needs a ToolRan record, but the log goes on with Said")
    require_diverged(
        alter(spoken, lambda r: msgspec.structs.replace(r, request="0") if isinstance(r, Replied) else r),
        spoken.events,
        "asks the model something else",
    )

    def other_end(record: object) -> object:
        if isinstance(record, Ended):
            return msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, turns=9))
        return record

    require_diverged(alter(spoken, other_end), spoken.events, "turns 2, the recorded run with 9")
    older = alter(
        spoken, lambda r: msgspec.structs.replace(r, program="laguna-agent 0.0.1") if hasattr(r, "program") else r
    )
    assert lines(replayed(older)) == lines(spoken.events)


def test_recordings_that_are_none(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    for data in (b"", b"not json\n", b'{"record":"said","message":{"role":"user"}}\n', b'{"record":"nonsense"}\n'):
        bad.write_bytes(data)
        with pytest.raises(UsageError):
            replayed(bad)
    for name in ("20990101", str(tmp_path), "./missing.jsonl"):
        with pytest.raises(UsageError):
            find_recording(name)


# -- the real program ----------------------------------------------------------------------------------------------


def test_run_replay_gives_the_same_standard_output(
    run_cli: RunCli, model_server: ModelServer, workspace: Path, tmp_path: Path
) -> None:
    model_server.reply([tool_call("write", {"path": "a.txt", "content": "a\n"})], text("Done."))
    live = run_cli(
        "run", "x", "--approve", "edits", "--check", "cat a.txt", "--output", "stream-json", "--patch-out",
        tmp_path / "p.patch", env=model_server.env,
    )  # fmt: skip
    assert live.returncode == 0, live.stderr
    record = json.loads(live.stdout.splitlines()[-1])
    model_server.close()
    (workspace / "a.txt").unlink()
    again = run_cli("run", "--replay", record["session_id"], "--output", "stream-json")
    assert (again.returncode, again.stdout) == (0, live.stdout)
    assert not (workspace / "a.txt").exists()
    log = find_session(record["session_id"]).rename(tmp_path / "copy.jsonl")
    assert run_cli("run", "--replay", log).stdout == "Done.\n"


def test_run_replay_of_a_run_that_sigterm_ended(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("shell", {"command": "echo begun > begun; echo begun; sleep 60"}))
    process = start_cli("run", "x", "--approve", "all", "--output", "stream-json", env=model_server.env)
    while not (workspace / "begun").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    live, errors = process.communicate(timeout=20)
    assert process.returncode == 143, errors
    again = run_cli("run", "--replay", json.loads(live.splitlines()[-1])["session_id"], "--output", "stream-json")
    assert (again.returncode, again.stdout) == (143, live)


def test_run_replay_of_a_run_that_was_killed(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply([text("Well."), delay(0.1), tool_call("shell", {"command": "echo begun > begun; sleep 3"})])
    process = start_cli("run", "x", "--approve", "all", "--output", "stream-json", env=model_server.env)
    while not (workspace / "begun").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    live = process.communicate(timeout=20)[0]
    session = json.loads(live.splitlines()[0])["session_id"]
    again = run_cli("run", "--replay", session, "--output", "stream-json")
    *events, record = again.stdout.splitlines(keepends=True)
    # What the killed process had not written yet is in the log all the same.
    assert live
    assert "".join(events).startswith(live)
    assert (again.returncode, json.loads(record)["outcome"]) == (130, "interrupted")
    assert "was killed" in json.loads(record)["message"]


def test_run_replay_that_diverges_and_bad_use(run_cli: RunCli, model_server: ModelServer, tmp_path: Path) -> None:
    model_server.always(http(401, {"error": {"message": "bad key"}}))
    live = run_cli("run", "x", "--output", "json", env=model_server.env)
    assert live.returncode == 3
    session = json.loads(live.stdout)["session_id"]
    altered = tmp_path / "altered.jsonl"
    altered.write_text(find_session(session).read_text().replace("You are laguna-agent", "You were laguna-agent"))
    diverged = run_cli("run", "--replay", altered, "--output", "json")
    assert (diverged.returncode, json.loads(diverged.stdout)["outcome"]) == (2, "diverged")
    assert diverged.stderr.count("\n") == 1
    refused = run_cli("run", "prompt", "--replay", session, "--output", "json")
    assert (refused.returncode, json.loads(refused.stdout)["outcome"]) == (2, "usage")
