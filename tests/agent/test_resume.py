"""Sessions outlive the process: kill -9 in mid-call, a torn log, a damaged one, two processes at once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.agent.archive import summarize
from laguna_agent.agent.conversation import orphan_results, rebuild
from laguna_agent.agent.journal import Journal
from laguna_agent.agent.log_file import is_whole
from laguna_agent.agent.store import AnyRecord, Ended, Opened, Prompted, Said, ToolRan, read_log
from laguna_agent.errors import UsageError
from laguna_agent.messages import Message, TextBlock, ToolCall, text_message
from laguna_agent.tools.base import text_result
from tests.agent.driving import converse, posted, require_valid_conversation, roles, text_of
from tests.conftest import RunCli, StartCli
from tests.model_server import ModelServer, text, tool_call
from tests.processes import commands_in


def kill_in_mid_call(start_cli: StartCli, model_server: ModelServer, workspace: Path) -> str:
    """A session that was killed while its second call of three ran; the first had written a file."""
    model_server.reply(
        [
            tool_call("write", {"path": "first.txt", "content": "1\n"}),
            tool_call("shell", {"command": "echo $$ > pid; sleep 30"}),
            tool_call("write", {"path": "third.txt", "content": "3\n"}),
        ]
    )
    process = start_cli("run", "Do three things.", "--approve", "all", env=model_server.env)
    while not (workspace / "pid").exists() or not (workspace / "pid").read_text().strip():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=10)
    # Without a sandbox nobody ends what it had started.
    for pid in commands_in(workspace):
        os.kill(pid, signal.SIGKILL)
    (log,) = Path(os.environ["XDG_STATE_HOME"]).rglob("log.jsonl")
    return log.parent.name


def test_resume_after_kill_in_the_middle_of_a_call(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    session = kill_in_mid_call(start_cli, model_server, workspace)
    model_server.reply(text("Going on."))
    done = run_cli("run", "Go on.", "--continue", "--output", "json", env=model_server.env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["session_id"] == session
    require_valid_conversation(posted(model_server))
    assert roles(model_server) == ["system", "user", "assistant", "tool", "tool", "tool", "user"]
    first, second, third = (text_of(message) for message in posted(model_server)[3:6])
    # What did happen must not be called undone.
    assert "Interrupted" not in first
    assert "first.txt" in first
    assert second == third == "Interrupted before it ended."
    assert "Go on." in text_of(posted(model_server)[-1])
    assert not (workspace / "third.txt").exists()


def test_a_torn_last_line_is_cut(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(text("Done."))
    first = converse(model_server, workspace, "x")
    whole = first.log.read_bytes()
    first.log.write_bytes(whole + b'{"record":"said","message":{"ro')
    assert len(read_log(first.log)) == whole.count(b"\n")
    assert converse(model_server, workspace, "y", resume=first).result.exit_code == 0
    assert first.log.read_bytes().startswith(whole + b'{"record":"opened"')


def test_a_damaged_log_is_named_with_its_line(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.always(text("Done."))
    spoken = converse(model_server, workspace, "x")
    lines = spoken.log.read_bytes().splitlines(keepends=True)
    spoken.log.write_bytes(b"".join([*lines[:2], b"\0\0\0\n", *lines[3:]]))
    done = run_cli("run", "y", "--resume", spoken.id, env=model_server.env)
    assert done.returncode == 2
    assert f"{spoken.log}:3:" in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_processes_on_one_session(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(tool_call("shell", {"command": "echo > begun; sleep 20"}))
    process = start_cli("run", "x", "--approve", "all", "--output", "json", env=model_server.env)
    while not (workspace / "begun").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    refused = run_cli("run", "y", "--continue", env=model_server.env)
    assert refused.returncode == 2
    assert "open in another process" in refused.stderr
    deleted = run_cli("sessions", "delete", next(iter(workspace.parent.rglob("log.jsonl"))).parent.name)
    assert (deleted.returncode, "open in another process" in deleted.stderr) == (2, True)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


def test_the_conversation_of_a_killed_and_a_cancelled_run_is_the_same(
    model_server: ModelServer, workspace: Path
) -> None:
    from laguna_agent.agent.events import ToolCallUpdate
    from tests.agent.test_replay import cancel_at

    calls = [tool_call("shell", {"command": "echo quick"}), tool_call("shell", {"command": "echo slow; sleep 30"})]
    model_server.reply(calls).always(text("Done."))
    first = converse(model_server, workspace, "x", "in process", watch=cancel_at(ToolCallUpdate, 5))
    in_process = [text_of(message) for message in posted(model_server) if message["role"] == "tool"]
    assert "quick" in in_process[0]
    assert in_process[1] == "Interrupted before it ended."
    records = read_log(first.log)
    cut = next(at for at, record in enumerate(records) if isinstance(record, Ended))
    past = rebuild(records[:cut])
    resumed = orphan_results(past.history, past.unanswered)
    assert [message.text for message in resumed] == in_process
    assert past.prompts == ["x"]


CALL = ToolCall("call_1", "read", {"path": "é\u2028\n"})
RECORDS: list[AnyRecord] = [
    Opened("20260101-000000-abcdef", "/tmp", "m", "2026-01-01T00:00:00Z", "laguna-agent 0"),
    Prompted((TextBlock("grüße\n"),)),
    Said(text_message("system", "s")),
    Said(text_message("user", "u")),
    Said(Message("assistant", tool_calls=(CALL,))),
    ToolRan(CALL, text_result("x" * 50), ("live\n",), 0.1),
    Said(Message("tool", (TextBlock("x" * 50),), tool_call_id="call_1", name="read")),
    Said(text_message("assistant", "done")),
]


@settings(max_examples=60)
@given(cut=st.integers(min_value=0, max_value=2_000), junk=st.binary(max_size=20))
def test_any_prefix_of_a_log_is_readable_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    """kill -9 at any byte: whole records are kept, the torn one is cut, the conversation can go on."""
    path = tmp_path_factory.mktemp("store") / "log.jsonl"
    journal = Journal(path)
    for record in RECORDS:
        journal.append(record)
    journal.close()
    data = path.read_bytes()[:cut] + junk.replace(b"\n", b"")
    path.write_bytes(data)
    # A record that lacks nothing but its line end is one.
    kept = data.count(b"\n") + is_whole(data[data.rfind(b"\n") + 1 :])
    assert read_log(path) == RECORDS[:kept]
    summary = summarize(path)
    assert (summary is None) == (kept == 0)
    journal = Journal(path)
    journal.append(RECORDS[1])
    journal.close()
    records = read_log(path)
    assert records == [*RECORDS[:kept], RECORDS[1]]
    past = rebuild(records)
    history = past.history + orphan_results(past.history, past.unanswered)
    calls = [call.id for message in history for call in message.tool_calls]
    assert calls == [message.tool_call_id for message in history if message.role == "tool"]


def test_a_journal_that_is_held_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    with pytest.raises(UsageError, match="open in another process"):
        Journal(tmp_path / "log.jsonl")
    journal.close()
    Journal(tmp_path / "log.jsonl").close()
