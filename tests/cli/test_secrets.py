"""The real program with a canary for a key, wherever it came from: nobody but the provider ever sees it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunCli, StartCli
from tests.model_server import ModelServer, text, tool_call

CANARY = "sk-canary-0123456789abcdef"
OTHER = "ghx-canary-fedcba9876543210"
LOOK = "env; cat /proc/self/environ; tr '\\0' '\\n' < /proc/$PPID/environ; cat .env; base64 -w0 .env"


def shown_by(*answers: subprocess.CompletedProcess[str]) -> str:
    return "".join(each.stdout + each.stderr for each in answers)


def kept() -> Iterator[tuple[Path, bytes]]:
    """What lies on disk below the home directory but where the key was put by the person."""
    for file in Path(os.environ["HOME"]).rglob("*"):
        if file.is_file() and file.name not in {"credentials.json", "secrets.json"}:
            yield file, file.read_bytes()


def run_once(run_cli: RunCli, server: ModelServer, workspace: Path, env: dict[str, str]) -> str:
    """A run whose model looks for the key everywhere; all that came of it."""
    (workspace / ".env").write_text(f"KEY={CANARY}\n")
    server.reply(
        tool_call("shell", {"command": LOOK}),
        tool_call("shell", {"command": "sleep 0.1; env", "background": True}),
        tool_call("read", {"path": ".env"}),
        text("done"),
    )
    trajectory, patch = workspace.with_name("trajectory.json"), workspace.with_name("patch")
    done = run_cli(
        "run", "--approve", "all", "--output", "stream-json", "--check", "env", "--trajectory", trajectory,
        "--patch-out", patch, f"My key is {CANARY}.", env={"LAGUNA_SANDBOX": "none", **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(trajectory.stat().st_mode) == 0o600
    session = json.loads(done.stdout.splitlines()[-1])["session_id"]
    shown = run_cli("sessions", "show", session, env=env)
    as_json = run_cli("sessions", "show", session, "--json", env=env)
    replayed = run_cli("run", "--replay", session, "--output", "stream-json", env=env)
    assert replayed.stdout == done.stdout, replayed.stderr
    return shown_by(done, shown, as_json, replayed) + trajectory.read_text()


def require_hidden(server: ModelServer, shown: str) -> None:
    for request in server.requests:
        assert CANARY not in json.dumps(request.body)
    assert any(CANARY in str(request.headers) for request in server.requests), "the provider was told the key"
    for file, data in kept():
        assert CANARY.encode() not in data, file
        assert OTHER.encode() not in data, file
    assert CANARY not in shown
    assert OTHER not in shown


def test_a_key_of_the_environment(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    env = {"LAGUNA_MODEL": "test-model", "LAGUNA_BASE_URL": model_server.url, "LAGUNA_API_KEY_ENV": "MY_WORD"}
    shown = run_once(run_cli, model_server, workspace, env | {"MY_WORD": CANARY, "GITHUB_TOKEN": OTHER})
    require_hidden(model_server, shown)


def test_a_stored_key(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    env = {"LAGUNA_MODEL": "openrouter/test-model", "OPENROUTER_BASE_URL": model_server.url}
    stored = run_cli("login", "openrouter", "--no-check", stdin=CANARY + "\n", env=env)
    shown = run_once(run_cli, model_server, workspace, env)
    shown += shown_by(stored, run_cli("doctor", env=env), run_cli("config", "show", env=env))
    require_hidden(model_server, shown)


def test_a_key_of_the_keyring(run_cli: RunCli, model_server: ModelServer, workspace: Path, tmp_path: Path) -> None:
    ring = tmp_path / "home" / "ring"
    ring.mkdir()
    env = {
        "LAGUNA_MODEL": "openrouter/test-model",
        "OPENROUTER_BASE_URL": model_server.url,
        "PYTHON_KEYRING_BACKEND": "tests.keyring_backend.FileKeyring",
        "TEST_KEYRING": str(ring),
    }
    stored = run_cli("login", "openrouter", "--no-check", "--keyring", stdin=CANARY + "\n", env=env)
    assert stored.returncode == 0, stored.stderr
    require_hidden(model_server, shown_by(stored) + run_once(run_cli, model_server, workspace, env))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
def test_proc_shows_no_key_of_a_running_agent(start_cli: StartCli, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "touch begun; sleep 30"}), text("done"))
    env = {
        "LAGUNA_MODEL": "test-model", "LAGUNA_BASE_URL": model_server.url, "LAGUNA_API_KEY_ENV": "MY_WORD",
        "MY_WORD": CANARY, "GITHUB_TOKEN": OTHER, "LAGUNA_SANDBOX": "none",
    }  # fmt: skip
    agent = start_cli("run", "--approve", "all", "Go.", env=env)
    deadline = time.monotonic() + 60
    while not (workspace / "begun").exists():
        assert time.monotonic() < deadline
        assert agent.poll() is None
        time.sleep(0.05)
    looked_at = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # The agent's whole session: itself, and whatever it started.
            if os.getsid(int(entry.name)) == agent.pid or f"({agent.pid})" in entry.name or _child_of(entry, agent.pid):
                shown = (entry / "environ").read_bytes()
                looked_at += 1
                assert CANARY.encode() not in shown, (entry / "cmdline").read_bytes()
                assert OTHER.encode() not in shown
        except (OSError, ProcessLookupError):
            continue
    assert looked_at >= 2


def _child_of(entry: Path, pid: int) -> bool:
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid


def test_a_provider_that_says_the_key(run_cli: RunCli, model_server: ModelServer) -> None:
    from tests.model_server import http

    model_server.reply(http(401, {"error": {"message": f"Incorrect API key provided: {CANARY}"}}))
    env = {"LAGUNA_MODEL": "test-model", "LAGUNA_BASE_URL": model_server.url, "LAGUNA_API_KEY_ENV": "K", "K": CANARY}
    done = run_cli("run", "--output", "json", "Go.", env=env)
    assert done.returncode == 3
    require_hidden(model_server, shown_by(done))


def test_whatever_is_kept_is_its_owners_alone(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    """With a umask of 0, and where an older version was laxer."""
    state = Path(os.environ["XDG_STATE_HOME"]) / "laguna-agent"
    old = state / "sessions" / "20200101-000000-aaaaaa"
    old.mkdir(parents=True)
    for folder in (state, old.parent, old):
        folder.chmod(0o755)
    model_server.always(text("done"))
    model_server.reply(tool_call("shell", {"command": "seq 1 20000"}))
    env = {"LAGUNA_MODEL": "test-model", "LAGUNA_BASE_URL": model_server.url, "LAGUNA_SANDBOX": "none"}
    before = os.umask(0)
    try:
        done = run_cli("run", "--approve", "all", "--output", "json", "Go.", env=env)
        assert done.returncode == 0, done.stderr
        (session,) = (each for each in state.glob("sessions/*") if each != old)
        (session / "log.jsonl").chmod(0o644)
        session.chmod(0o777)
        assert run_cli("run", "--resume", session.name, "More.", env=env).returncode == 0
        assert run_cli("sessions", "fork", session.name).returncode == 0
        crash = "from laguna_agent.crash import describe_crash; print(describe_crash(ValueError('x')))"
        subprocess.run([sys.executable, "-c", crash], check=True, capture_output=True)
    finally:
        os.umask(before)
    found = [path for path in state.rglob("*") if old not in path.parents and path != old]
    assert {"log.jsonl"} <= {path.name for path in found}
    assert any(path.parent.name == "crashes" for path in found)
    assert any(path.parent.name == "output" for path in found)
    for path in (state, *found):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_the_person_lets_commands_see_more(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    env = {
        "LAGUNA_MODEL": "test-model", "LAGUNA_BASE_URL": model_server.url, "LAGUNA_API_KEY_ENV": "MY_WORD",
        "MY_WORD": CANARY, "GITHUB_TOKEN": OTHER, "MYAPP_ENV": "testing", "MYAPP_TOKEN": "another-0123456789",
    }  # fmt: skip
    config = Path(os.environ["XDG_CONFIG_HOME"]) / "laguna-agent" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('environment = ["MYAPP_*", "GITHUB_TOKEN", "MY_WORD"]\n')
    look = 'echo "$MYAPP_ENV,${#GITHUB_TOKEN},$GITHUB_TOKEN,$MYAPP_TOKEN,$MY_WORD."'
    model_server.reply(tool_call("shell", {"command": look}), text("done"))
    done = run_cli("run", "--approve", "all", "--output", "stream-json", "Go.", env=env)
    assert done.returncode == 0, done.stderr
    assert f"testing,{len(OTHER)},\u27e6redacted: GITHUB_TOKEN\u27e7,,." in done.stdout
    require_hidden(model_server, shown_by(done))
    refused = run_cli("run", "Go.", env=env | {"LAGUNA_ENVIRONMENT": '["*"]'})
    assert refused.returncode == 2
    assert "is not read from the environment" in refused.stderr
