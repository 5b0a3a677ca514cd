"""`sessions list|show|export|delete`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_run_input import record_of
from tests.conftest import RunCli
from tests.model_server import ModelServer, text, tool_call


@pytest.fixture
def session(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> str:
    """The id of a session with one command in it."""
    model_server.reply(tool_call("shell", {"command": "echo \x1b[31mred"}), text("It is \x1b[31mred."))
    done = run_cli("run", "what colour?\nsay it", "--approve", "all", "--output", "json", env=model_server.env)
    return str(record_of(done)["session_id"])


def test_list(run_cli: RunCli, session: str, tmp_path: Path) -> None:
    listed = json.loads(run_cli("sessions", "list", "--json").stdout)
    assert [(each["id"], each["title"], each["outcome"]) for each in listed] == [(session, "what colour?", "completed")]
    assert session in run_cli("sessions").stdout
    assert session in run_cli("sessions", "list", "--here").stdout
    assert session not in run_cli("sessions", "list", "--here", cwd=tmp_path).stdout


def test_show_is_readable_and_harmless_to_the_terminal(run_cli: RunCli, session: str) -> None:
    shown = run_cli("sessions", "show", session[:-1]).stdout
    assert "> what colour?\nsay it" in shown
    assert "- shell(command=" in shown
    assert "It is" in shown
    assert "completed: 2 turns" in shown
    assert "\x1b" not in shown


def test_show_json_is_the_log(run_cli: RunCli, session: str) -> None:
    lines = run_cli("sessions", "show", session, "--json").stdout.splitlines()
    assert json.loads(lines[0])["record"] == "opened"
    assert run_cli("sessions", "export", session, "--format", "log").stdout.splitlines() == lines
    assert run_cli("sessions", "export", session, "--format", "md").stdout.startswith(f"# Session {session}")


def test_export_atif(run_cli: RunCli, session: str, tmp_path: Path) -> None:
    printed = run_cli("sessions", "export", session).stdout
    assert json.loads(printed)["schema_version"].startswith("ATIF-v1")
    assert run_cli("sessions", "export", session, "--to", tmp_path / "t.json").stdout == ""
    assert (tmp_path / "t.json").read_text() == printed


def test_delete(run_cli: RunCli, session: str) -> None:
    assert run_cli("sessions", "delete", session).stdout == f"deleted {session}\n"
    assert json.loads(run_cli("sessions", "list", "--json").stdout) == []


@pytest.mark.parametrize("command", ["show", "export", "delete"])
def test_unknown_session(run_cli: RunCli, command: str) -> None:
    done = run_cli("sessions", command, "20990101")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "sessions list" in done.stderr
