"""A session's own log, and what of it reaches a crash report."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from laguna_agent import crash
from laguna_agent.agent import telemetry
from laguna_agent.agent.store import session_directory
from laguna_agent.agent.telemetry import LOG_FILE, SessionLog
from laguna_agent.crash import KEPT, crash_reports, describe_crash
from laguna_agent.redaction import know
from tests.agent.driving import Conversation, converse
from tests.conftest import RunCli
from tests.model_server import ModelServer, http, text, tool_call

TOKEN = "ghp_" + "a1B2" * 9


def logged(folder: Path) -> list[dict[str, Any]]:
    path = folder / LOG_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    # What a person is told of a retry says nothing that the line of the retry does not.
    return [line for line in lines if line["event"] != "notice"]


def worked(server: ModelServer, workspace: Path, **settings: Any) -> Conversation:
    busy = http(503, {"error": {"message": "busy"}}, {"retry-after-ms": "1"})
    server.reply(busy, tool_call("shell", {"command": "echo 1; exit 3"}), text("Done."))
    return converse(server, workspace, "A private matter", retry_budget=5.0, check="true", **settings)


def test_at_info_a_line_for_each_piece_of_work(model_server: ModelServer, workspace: Path) -> None:
    spoken = worked(model_server, workspace, log_level="info")
    folder = session_directory(spoken.id)
    lines = logged(folder)
    assert [line["event"] for line in lines] == [
        "check", "retry", "request", "tool", "request", "check", "prompt",
    ]  # fmt: skip
    first, second = (line for line in lines if line["event"] == "request")
    assert (first["attempts"], second["attempts"], first["status"]) == (2, 1, 200)
    assert first["seconds"] >= first["first"] > 0
    assert (first["name"], first["finish"], second["finish"]) == ("test-model", "tool_calls", "stop")
    assert all(key in first for key in ("input_tokens", "output_tokens", "cached_tokens", "bytes"))
    tool, prompt = next(line for line in lines if line["event"] == "tool"), lines[-1]
    assert (tool["name"], tool["exit_code"], tool["is_error"], tool["seconds"] > 0) == ("shell", 3, False, True)
    assert (prompt["outcome"], prompt["turns"], prompt["level"]) == ("completed", 2, "info")
    assert stat.S_IMODE((folder / LOG_FILE).stat().st_mode) == 0o600
    whole = (folder / LOG_FILE).read_text()
    assert "private" not in whole
    assert "echo 1" not in whole


def test_by_default_only_what_went_wrong(model_server: ModelServer, workspace: Path) -> None:
    assert [line["event"] for line in logged(session_directory(worked(model_server, workspace).id))] == [
        "retry",
    ]  # fmt: skip
    model_server.reply(text("Done."))
    assert not (session_directory(converse(model_server, workspace, "x").id) / LOG_FILE).exists()
    failed = converse(model_server, workspace, "x")
    request, prompt = logged(session_directory(failed.id))
    assert (request["level"], request["error"], request["status"]) == ("warning", "BadRequest", 400)
    assert (prompt["event"], prompt["error"], prompt["outcome"]) == ("prompt", "BadRequest", "provider_error")


def test_off_is_off(model_server: ModelServer, workspace: Path) -> None:
    assert logged(session_directory(worked(model_server, workspace, log_level="off").id)) == []


def test_the_log_is_no_part_of_what_is_recorded(model_server: ModelServer, workspace: Path) -> None:
    quiet, loud = (worked(model_server, workspace, log_level=level) for level in ("off", "debug"))
    kinds = [[type(record).__name__ for record in spoken.records(object)] for spoken in (quiet, loud)]
    assert kinds[0] == kinds[1]


def test_on_stderr_only_when_asked(model_server: ModelServer, workspace: Path, run_cli: RunCli) -> None:
    model_server.always(text("Done."))
    env = model_server.env
    assert "{" not in run_cli("run", "x", "--log-level=debug", env=env).stderr
    asked = run_cli("run", "x", "--log-level=info", "--log-stderr", env=env)
    events = [json.loads(line)["event"] for line in asked.stderr.splitlines() if line.startswith("{")]
    assert events == ["request", "prompt"]
    wrong = run_cli("run", "x", "--log-level=loud", env=env)
    assert (wrong.returncode, "one of off, error, warning, info, debug" in wrong.stderr) == (2, True)


def test_secrets_are_not_in_it(tmp_path: Path) -> None:
    know("s3cr3t-of-the-test", "THE_KEY")
    log = SessionLog(tmp_path / LOG_FILE, "info")
    log.write("info", "x", {"reason": f"no s3cr3t-of-the-test, no {TOKEN}", "deep": [{"a": TOKEN}]})
    log.close()
    whole = (tmp_path / LOG_FILE).read_text() + str(log.recent)
    assert TOKEN not in whole
    assert "s3cr3t" not in whole
    assert json.loads((tmp_path / LOG_FILE).read_text())["event"] == "x"


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "LOG_BYTES", 2_000)
    folder = tmp_path / "session"
    folder.mkdir()
    log = SessionLog(folder / LOG_FILE, "info")
    for number in range(200):
        log.write("info", "x", {"number": number})
    log.close()
    files = {path.name: path.read_text().splitlines() for path in folder.iterdir()}
    assert set(files) == {LOG_FILE, "diagnostics.1.jsonl"}
    assert all(len("\n".join(lines)) <= 2_000 for lines in files.values())
    numbers = [json.loads(line)["number"] for name in sorted(files) for line in files[name]]
    assert numbers == list(range(numbers[0], 200))
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.iterdir())


def test_one_that_cannot_be_written_is_given_up(tmp_path: Path) -> None:
    log = SessionLog(tmp_path / "absent" / LOG_FILE, "info")
    log.write("info", "x", {})
    (tmp_path / "absent").mkdir()
    log.write("info", "x", {})
    assert not list((tmp_path / "absent").iterdir())
    assert len(log.recent) == 2


def test_a_crash_report_has_the_last_lines(
    model_server: ModelServer, workspace: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    """The bug is in the second request: what came before it is in the report, whatever the level."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import laguna_agent.tools.read as read\n"
        f"def run(*_): raise RuntimeError('a bug with {TOKEN}')\n"
        "read.Read.run = run\n"
    )
    (workspace / "a").write_text("x")
    model_server.reply(tool_call("list", {"path": "."}), tool_call("read", {"path": "a"}))
    env = model_server.env | {"PYTHONPATH": f"{broken}{os.pathsep}{os.environ['PYTHONPATH']}"}
    done = run_cli("run", "x", "--output=json", env=env)
    record = json.loads(done.stdout)
    (report,) = crash_reports()
    assert (done.returncode, record["outcome"], done.stderr.count("\n")) == (1, "internal_error", 1)
    assert str(report) in record["message"]
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    told = report.read_text()
    for part in ("RuntimeError: a bug", "Traceback", record["session_id"], "python 3.", "msgspec ", '"event":"tool"'):
        assert part in told
    assert TOKEN not in told + done.stderr
    shown = run_cli("doctor", env=model_server.env)
    assert str(report) in shown.stdout
    assert shown.returncode == 0


def test_reports_are_few_and_not_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash, "LONGEST", 3_000)
    lines = [describe_crash(ValueError(f"number {n}"), log=["x" * 10_000]) for n in range(KEPT + 5)]
    reports = crash_reports()
    assert len(reports) == KEPT
    assert str(reports[0]) in lines[-1]
    assert "number 14" in reports[0].read_text()
    assert all(len(report.read_text()) <= 3_000 for report in reports)
