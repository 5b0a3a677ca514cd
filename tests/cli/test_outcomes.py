"""The outcome contract: every exit code, produced by the real program against a scripted model server."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from laguna_agent.sandbox.tiers import prove
from tests.cli.test_front_door import break_module
from tests.cli.test_run_input import record_of
from tests.conftest import RunCli
from tests.model_server import ModelServer, Part, http, stream, text, tool_call

RECORD_KEYS = {
    "type", "outcome", "stop_reason", "exit_code", "message", "text", "turns", "input_tokens", "output_tokens",
    "cached_tokens", "reasoning_tokens", "cost", "seconds", "files_changed", "checks", "denied", "sandbox",
    "session_id", "model", "evidence", "evidence_note",
}  # fmt: skip


def shell(command: str) -> Part:
    return tool_call("shell", {"command": command})


def test_0_completed(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("write", {"path": "a.txt", "content": "hello\n"}), text("Wrote a.txt."))
    done = run_cli(
        "run", "x", "--output", "json", "--approve", "edits", "--check", "test -f a.txt", env=model_server.env
    )
    record = record_of(done)
    assert done.returncode == 0, done.stderr
    assert set(record) == RECORD_KEYS
    assert record["outcome"] == "completed"
    assert record["text"] == "Wrote a.txt."
    assert record["files_changed"] == ["a.txt"]
    assert [(check["when"], check["exit_code"]) for check in record["checks"]] == [("before", 1), ("after", 0)]  # type: ignore[attr-defined]
    assert record["turns"] == 2
    assert record["sandbox"] == prove("auto").tier
    assert done.stderr == ""


def test_1_internal_error(run_cli: RunCli, model_server: ModelServer, tmp_path: Path) -> None:
    done = run_cli("run", "x", "--output", "json", env=model_server.env | break_module(tmp_path / "broken", "httpx"))
    record = record_of(done)
    assert (done.returncode, record["outcome"]) == (1, "internal_error")
    assert done.stderr.count("\n") == 1
    (report,) = (Path(os.environ["XDG_STATE_HOME"]) / "laguna-agent" / "crashes").iterdir()
    assert str(report) in done.stderr
    assert "RuntimeError: a damaged file" in report.read_text()
    assert f"session {record['session_id']}" in report.read_text()


def test_1_internal_error_before_there_is_a_session(run_cli: RunCli, tmp_path: Path) -> None:
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "laguna-agent" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("seed = 1\n")
    done = run_cli("run", "x", "--output", "json", env=break_module(tmp_path / "broken", "tomllib"))
    assert record_of(done)["outcome"] == "internal_error"
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [(401, {"error": {"message": "bad key"}}), (402, {"error": {"message": "no credit"}}), (404, "no such model")],
)
def test_3_provider_refuses(run_cli: RunCli, model_server: ModelServer, status: int, body: object) -> None:
    model_server.always(http(status, body))
    done = run_cli("run", "x", "--output", "json", env=model_server.env)
    assert record_of(done)["outcome"] == "provider_error"
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_3_no_network(run_cli: RunCli) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        env = {"LAGUNA_BASE_URL": url, "LAGUNA_MODEL": "m", "LAGUNA_RETRY_BUDGET": "0.2"}
        done = run_cli("run", "x", "--output", "json", env=env)
    assert record_of(done)["outcome"] == "provider_error"
    assert done.returncode == 3
    assert url.partition("//")[2].partition("/")[0] in done.stderr


def test_2_no_model_at_all(run_cli: RunCli) -> None:
    done = run_cli("run", "x", "--output", "json")
    assert done.returncode == 2
    assert record_of(done)["outcome"] == "usage"
    assert "models pull" in done.stderr
    assert done.stderr.count("\n") == 1
    for_people = run_cli("run", "x").stderr.splitlines()
    assert len(for_people) == 3
    assert "models pull" in for_people[0]


@pytest.mark.parametrize("reply", [stream(text("")), stream(text("I"), finish="content_filter")])
def test_4_model_stopped(run_cli: RunCli, model_server: ModelServer, reply: object) -> None:
    model_server.always(reply)  # type: ignore[arg-type]
    done = run_cli("run", "x", "--output", "json", env=model_server.env)
    assert record_of(done)["outcome"] == "model_stopped"
    assert done.returncode == 4


def test_4_answer_does_not_fit_the_schema(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}
    (workspace / "schema.json").write_text(json.dumps(schema))
    arguments = ("run", "x", "--output", "json", "--output-schema", "schema.json")
    model_server.always(text("forty-two"))
    done = run_cli(*arguments, env=model_server.env)
    assert record_of(done)["outcome"] == "model_stopped"
    assert done.returncode == 4
    model_server.always(text('{"answer": "42"}'))
    assert run_cli(*arguments, env=model_server.env).returncode == 4
    model_server.always(text('{"answer": 42}'))
    done = run_cli(*arguments, env=model_server.env)
    assert json.loads(str(record_of(done)["text"])) == {"answer": 42}


@pytest.mark.parametrize(
    "limit", [["--max-turns", "2"], ["--max-tokens", "20"], ["--max-time", "1"], ["--max-cost", "0.01"]]
)
def test_5_budget_spent(run_cli: RunCli, model_server: ModelServer, limit: list[str]) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 0.006}
    count = iter(range(1000))
    model_server.always(lambda _: stream(shell(f"sleep 0.3; echo {next(count)}"), usage=usage))
    done = run_cli("run", "x", "--output", "json", "--approve", "all", *limit, env=model_server.env)
    record = record_of(done)
    assert (done.returncode, record["outcome"]) == (5, "budget_spent"), done.stderr
    assert limit[0] in done.stderr


def test_6_loop(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("a\n")
    model_server.always(tool_call("read", {"path": "a.txt"}))
    done = run_cli("run", "x", "--output", "json", env=model_server.env)
    assert (done.returncode, record_of(done)["outcome"]) == (6, "loop")


def test_7_denied_at_once_where_nobody_can_be_asked(
    run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    model_server.reply(shell("touch made"), text("I may not run commands."))
    done = run_cli("run", "x", "--output", "json", env=model_server.env)
    record = record_of(done)
    assert (done.returncode, record["outcome"]) == (7, "denied")
    assert record["denied"]
    assert not (workspace / "made").exists()
    assert "--approve" in json.dumps(model_server.chats[-1]["messages"])


def test_8_check_failed(run_cli: RunCli, model_server: ModelServer) -> None:
    model_server.always(text("It works now."))
    done = run_cli("run", "x", "--output", "json", "--check", "echo nope; false", env=model_server.env)
    record = record_of(done)
    assert (done.returncode, record["outcome"]) == (8, "check_failed")
    assert "nope" in json.dumps(record["checks"])


def test_every_final_record_is_in_the_session_log_too(run_cli: RunCli, model_server: ModelServer) -> None:
    model_server.always(http(401, {"error": {"message": "bad key"}}))
    record = record_of(run_cli("run", "x", "--output", "json", env=model_server.env))
    shown = run_cli("sessions", "show", str(record["session_id"]), "--json").stdout.splitlines()
    assert json.loads(shown[-1])["result"] == record
