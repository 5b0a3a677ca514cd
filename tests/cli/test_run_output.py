"""What `run` writes: stdout purity in each mode, patch and trajectory, sessions taken up again, replays."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.test_run_input import record_of
from tests.conftest import RunCli
from tests.model_server import ModelServer, text, tool_call


@pytest.fixture
def editing(model_server: ModelServer) -> ModelServer:
    """A model that prints from a command, writes a file and ends."""
    return model_server.reply(
        tool_call("shell", {"command": "echo noise; echo trouble >&2"}),
        tool_call("write", {"path": "new.txt", "content": "line\n"}),
        text("The file is written."),
    )


def test_text_has_the_answer_on_stdout_and_progress_on_stderr(run_cli: RunCli, editing: ModelServer) -> None:
    done = run_cli("run", "x", "--approve", "all", env=editing.env)
    assert (done.returncode, done.stdout) == (0, "The file is written.\n")
    assert "> $ echo noise" in done.stderr
    assert "completed: 3 turns" in done.stderr
    assert "1 file changed" in done.stderr


def test_json_is_exactly_one_object_and_nothing_else(run_cli: RunCli, editing: ModelServer) -> None:
    done = run_cli("run", "x", "--output", "json", "--approve", "all", env=editing.env)
    assert done.stdout.count("\n") == 1
    assert record_of(done)["text"] == "The file is written."
    assert done.stderr == ""


def test_stream_json_is_one_event_a_line_with_the_record_last(run_cli: RunCli, editing: ModelServer) -> None:
    done = run_cli("run", "x", "--output", "stream-json", "--approve", "all", env=editing.env)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "turn_started"
    assert kinds[-2:] == ["turn_ended", "result"]
    assert kinds.count("result") == 1
    assert "".join(event["text"] for event in events if event["type"] == "text_delta") == "The file is written."
    assert [event["name"] for event in events if event["type"] == "tool_call"] == ["shell", "write"]
    assert done.stderr == ""


def test_a_library_that_prints_cannot_spoil_the_result(
    run_cli: RunCli, model_server: ModelServer, tmp_path: Path
) -> None:
    chatty = tmp_path / "chatty"
    chatty.mkdir()
    (chatty / "sitecustomize.py").write_text(
        "import atexit, os\natexit.register(lambda: (print('bye'), os.system('echo from a child')))\n"
    )
    model_server.reply(text("ok"))
    path = f"{chatty}{os.pathsep}{os.environ['PYTHONPATH']}"
    done = run_cli("run", "x", "--output", "json", env=model_server.env | {"PYTHONPATH": path})
    assert record_of(done)["text"] == "ok"
    assert "bye" in done.stderr
    assert "from a child" in done.stderr


def test_patch_applies_to_the_start(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    (workspace / "old.bin").write_bytes(bytes(range(256)))
    (workspace / "dirty.txt").write_text("not committed\n")
    command = "printf '\\000\\001' > old.bin; rm dirty.txt; printf new > made.bin"
    model_server.reply(tool_call("shell", {"command": command}), text("done"))
    patch = workspace.parent / "out.patch"
    done = run_cli("run", "x", "--approve", "all", "--patch-out", patch, env=model_server.env)
    assert done.returncode == 0, done.stderr
    again = workspace.parent / "again"
    again.mkdir()
    (again / "old.bin").write_bytes(bytes(range(256)))
    (again / "dirty.txt").write_text("not committed\n")
    subprocess.run(["git", "apply", str(patch)], cwd=again, check=True)
    assert sorted(path.name for path in again.iterdir()) == ["made.bin", "old.bin"]
    assert (again / "old.bin").read_bytes() == b"\x00\x01"


def test_patch_is_written_when_the_run_fails_too(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("write", {"path": "a", "content": "a\n"}), text("done"))
    patch = workspace.parent / "out.patch"
    arguments = ("run", "x", "--approve", "all", "--check", "false", "--patch-out", patch)
    assert run_cli(*arguments, env=model_server.always(text("I cannot.")).env).returncode == 8
    assert b"+a" in patch.read_bytes()


def test_trajectory_is_atif(run_cli: RunCli, editing: ModelServer, workspace: Path) -> None:
    file = workspace.parent / "run.json"
    done = run_cli("run", "do it", "--approve", "all", "--trajectory", file, env=editing.env)
    assert done.returncode == 0, done.stderr
    trajectory = json.loads(file.read_text())
    assert trajectory["schema_version"].startswith("ATIF-v1")
    assert "do it" in json.dumps(trajectory)


def test_continue_and_resume_go_on_with_the_conversation(run_cli: RunCli, model_server: ModelServer) -> None:
    model_server.always(text("noted"))
    first = record_of(run_cli("run", "remember 17", "--output", "json", env=model_server.env))
    again = record_of(run_cli("run", "and now", "--continue", "--output", "json", env=model_server.env))
    assert again["session_id"] == first["session_id"]
    assert "remember 17" in json.dumps(model_server.chats[-1]["messages"])
    prefix = str(first["session_id"])[:-2]
    third = record_of(run_cli("run", "third", "--resume", prefix, "--output", "json", env=model_server.env))
    assert third["session_id"] == first["session_id"]


def test_a_recorded_run_replays_offline_to_the_same_events(
    run_cli: RunCli, editing: ModelServer, workspace: Path
) -> None:
    live = run_cli("run", "x", "--output", "stream-json", "--approve", "all", env=editing.env)
    record = json.loads(live.stdout.splitlines()[-1])
    (workspace / "new.txt").unlink()
    replayed = run_cli("run", "--replay", record["session_id"], "--output", "stream-json")
    assert replayed.stdout.splitlines()[:-1] == live.stdout.splitlines()[:-1]
    assert replayed.returncode == 0
    assert not (workspace / "new.txt").exists(), "a replay runs nothing"


def test_sampling_settings_reach_the_server(run_cli: RunCli, model_server: ModelServer) -> None:
    model_server.reply(text("ok"))
    run_cli("run", "x", "--temperature", "0.3", "--seed", "5", env=model_server.env)
    assert model_server.chats[0]["temperature"] == 0.3
    assert model_server.chats[0]["seed"] == 5


def test_cwd_is_where_the_agent_works(run_cli: RunCli, model_server: ModelServer, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    model_server.reply(tool_call("write", {"path": "here.txt", "content": ""}), text("ok"))
    run_cli("run", "x", "--approve", "edits", "--cwd", elsewhere, env=model_server.env)
    assert (elsewhere / "here.txt").exists()


EVIL = "\x1b]52;c;cm0=\x07Hi\u202e \u200bthere\x9b31m ![x](http://127.0.0.1:{port}/leak?d=1)"


def test_an_answer_that_hides_and_steers(run_cli: RunCli, model_server: ModelServer) -> None:
    """Text is visible, also in a pipe; JSON is exact; and nothing that the answer names is fetched."""
    answer = EVIL.replace("{port}", model_server.url.rpartition(":")[2].partition("/")[0])
    shown = answer.replace("\x1b", "\\u{1B}").replace("\x07", "\\u{7}").replace("\u202e", "\\u{202E}")
    shown = shown.replace("\u200b", "\\u{200B}").replace("\x9b", "\\u{9B}")
    model_server.reply(text(answer))
    done = run_cli("run", "x", env=model_server.env)
    assert done.stdout == shown + "\n"
    model_server.reply(text(answer))
    exact = run_cli("run", "x", "--output", "json", env=model_server.env)
    assert record_of(exact)["text"] == answer
    model_server.reply(text(answer))
    streamed = run_cli("run", "x", "--output", "stream-json", env=model_server.env)
    events = [json.loads(line) for line in streamed.stdout.splitlines()]
    assert "".join(event["text"] for event in events if event["type"] == "text_delta") == answer
    past = run_cli("sessions", "show", record_of(exact)["session_id"])
    assert shown in past.stdout
    assert not any(request.path.startswith("/leak") for request in model_server.requests)
