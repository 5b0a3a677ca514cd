"""Logging in and out through the real program: what is advertised, when -32000 comes, and what its words say."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.credentials import credentials_file, remove_key, store_key, stored_key, stored_providers
from tests.acp.program import RESULTS, Message, Program
from tests.conftest import StartCli
from tests.model_server import ModelServer, text

AUTH_REQUIRED = -32000
SECRET = "sk-a-very-secret-key"
NEEDS_KEY = {"LAGUNA_MODEL": "openrouter/some/model"}
RESULTS |= {"logout": "LogoutResponse"}
Start = Callable[..., Program]


@pytest.fixture
def start(start_cli: StartCli) -> Start:
    def begin(*arguments: str, **env: str) -> Program:
        return Program(start_cli("acp", *arguments, env=env))

    return begin


def methods(program: Program, **capabilities: Any) -> list[Message]:
    answer = program.call("initialize", {"protocolVersion": 1, "clientCapabilities": capabilities})
    found: list[Message] = answer["authMethods"]
    return found


def new(program: Program, cwd: Path) -> Message:
    return program.call("session/new", {"cwd": str(cwd), "mcpServers": []})


def test_the_cheap_method_comes_first_and_the_terminal_one_as_the_client_can_run_it(start: Start) -> None:
    program = start("--model", "openrouter/a/b")
    plain, standard = methods(program), methods(program, auth={"terminal": True})
    for advertised in (plain, standard):
        assert [method["id"] for method in advertised] == ["environment", "terminal-login"]
        assert "type" not in advertised[0]
    assert "type" not in plain[1] and "args" not in plain[1]
    assert (standard[1]["type"], standard[1]["args"]) == ("terminal", ["login"])
    for advertised in (plain, standard):
        shown = advertised[1]["_meta"]["terminal-auth"]
        assert shown["env"]["LAGUNA_MODEL"] == "openrouter/a/b"
        assert shown["label"]


def test_the_terminal_command_works_without_a_path(start: Start, tmp_path: Path) -> None:
    shown = methods(start())[1]["_meta"]["terminal-auth"]
    assert os.path.isabs(shown["command"])
    bare = {"HOME": str(tmp_path), "PYTHONPATH": os.environ["PYTHONPATH"], "PATH": "/nonexistent"}
    # What an editor opens may hold anything; nothing of it may be run by logging in.
    (tmp_path / "laguna_agent").mkdir()
    (tmp_path / "laguna_agent" / "__main__.py").write_text("raise SystemExit('the wrong program')")
    done = subprocess.run(
        [shown["command"], *shown["args"], "--help"], env=bare, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "login" in done.stdout


def test_what_needs_a_key_says_so_before_a_session_opens(start: Start, workspace: Path) -> None:
    program = start(**NEEDS_KEY)
    first = methods(program)[0]["id"]
    refused = [
        program.call("authenticate", {"methodId": first}),
        new(program, workspace),
        program.call("session/load", {"sessionId": "any", "cwd": str(workspace), "mcpServers": []}),
    ]
    for error in refused:
        assert error["code"] == AUTH_REQUIRED
        assert "laguna-agent login openrouter" in error["message"]
        assert "OPENROUTER_API_KEY" in error["message"]
    # The person logs in with the program still running; the client asks again and nothing else.
    store_key("openrouter", SECRET)
    assert "sessionId" in new(program, workspace)
    assert program.call("authenticate", {"methodId": first}) == {}
    assert program.close() == 0
    assert SECRET not in str(program.seen)


@pytest.mark.parametrize(
    "env",
    [
        NEEDS_KEY | {"OPENROUTER_API_KEY": SECRET},
        {"LAGUNA_MODEL": "local/anything"},
        {"LAGUNA_MODEL": "ollama/anything"},
        {"LAGUNA_BASE_URL": "http://127.0.0.1:1/v1"},
        {"LAGUNA_BASE_URL": "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY": SECRET},
        {"POOLSIDE_API_KEY": SECRET},
    ],
)
def test_a_key_that_is_there_or_not_needed_costs_one_request(
    start: Start, workspace: Path, env: dict[str, str]
) -> None:
    program = start(**env)
    for method in methods(program):
        assert program.call("authenticate", {"methodId": method["id"]}) == {}
    assert "sessionId" in new(program, workspace)
    assert program.close() == 0


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"LAGUNA_BASE_URL": "https://openrouter.ai/api/v1"}, "laguna-agent login openrouter"),
        ({"LAGUNA_BASE_URL": "http://127.0.0.1:1/v1", "LAGUNA_API_KEY_ENV": "MY_KEY"}, "set MY_KEY"),
        ({}, "laguna-agent login"),
        ({}, "laguna-agent models pull"),
        ({}, "--base-url"),
    ],
)
def test_what_is_missing_is_said(start: Start, workspace: Path, env: dict[str, str], words: str) -> None:
    program = start(**env)
    error = new(program, workspace)
    assert error["code"] == AUTH_REQUIRED
    assert words in error["message"]


def test_an_unknown_method_and_a_broken_configuration_are_no_question_of_login(start: Start, workspace: Path) -> None:
    program = start(**NEEDS_KEY, LAGUNA_MODLE="x")
    assert program.call("authenticate", {"methodId": "sso"})["code"] == -32602
    broken = program.call("authenticate", {"methodId": "environment"})
    assert broken["code"] == -32602
    assert "LAGUNA_MODEL" in broken["message"]


def test_logout_forgets_the_stored_key_and_ends_when_the_person_logs_in(start: Start, workspace: Path) -> None:
    store_key("openrouter", SECRET)
    store_key("poolside", "another")
    program = start(**NEEDS_KEY)
    assert "sessionId" in new(program, workspace)
    assert program.call("logout", {}) == {}
    assert stored_providers() == ["poolside"]
    assert new(program, workspace)["code"] == AUTH_REQUIRED
    assert program.call("authenticate", {"methodId": "environment"})["code"] == AUTH_REQUIRED
    store_key("openrouter", SECRET)
    assert "sessionId" in new(program, workspace)


def test_logout_where_no_key_is_ours_to_forget(start: Start, workspace: Path, model_server: ModelServer) -> None:
    model_server.always(text("Still here."))
    program = start(**model_server.env)
    session = new(program, workspace)["sessionId"]
    assert program.call("logout", {}) == {}
    refused = new(program, workspace)
    assert (refused["code"], "laguna-agent login" in refused["message"]) == (AUTH_REQUIRED, True)
    assert program.prompt(session)["stopReason"] == "end_turn", "the open sessions go on"
    assert program.call("authenticate", {"methodId": "environment"}) == {}
    assert "sessionId" in new(program, workspace)


def test_stored_keys_are_private_and_damage_is_said_without_them(start: Start, workspace: Path) -> None:
    store_key("openrouter", SECRET)
    path = credentials_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    store_key("poolside", "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = stored_key("openrouter")
    assert found is not None and found.secret == SECRET and SECRET not in repr(found)
    path.write_text(path.read_text()[:-3])
    error = new(start(**NEEDS_KEY), workspace)
    assert error["code"] == -32602
    assert str(path) in error["message"] and SECRET not in str(error)


def test_the_last_key_takes_the_file_with_it() -> None:
    store_key("openrouter", SECRET)
    assert remove_key("openrouter")
    assert not remove_key("openrouter")
    assert not credentials_file().exists()
    assert list(credentials_file().parent.iterdir()) == []
