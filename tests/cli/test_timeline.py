"""`sessions show --timeline`."""

from __future__ import annotations

import json
from pathlib import Path

from laguna_agent.agent.store import sessions_directory
from laguna_agent.event_lines import printable
from tests.conftest import RunCli, Terminal
from tests.model_server import ModelServer, delay, http, stream, text, tool_call


def session_of(server: ModelServer, run_cli: RunCli, workspace: Path) -> str:
    """A session of two prompts, the second of which fails."""
    usage = {"prompt_tokens": 1_200, "completion_tokens": 40, "prompt_tokens_details": {"cached_tokens": 900}}
    (workspace / "a").write_text("x")
    busy = http(503, {"error": {"message": "busy"}}, {"retry-after-ms": "1"})
    server.reply(
        busy,
        [delay(0.2), tool_call("shell", {"command": "sleep 0.3"}), tool_call("read", {"path": "none"})],
        stream(text("Done."), usage=usage),
        http(400, {"error": {"message": "no"}}),
    )
    done = run_cli("run", "--approve=all", "--output=json", "Wait a little", env=server.env)
    assert done.returncode == 0, done.stderr
    id = str(json.loads(done.stdout)["session_id"])
    assert run_cli("run", f"--resume={id}", "And\u001b[31m then", env=server.env).returncode == 3
    return id


def test_a_picture_that_people_can_read(model_server: ModelServer, run_cli: RunCli, workspace: Path) -> None:
    id = session_of(model_server, run_cli, workspace)
    shown = run_cli("sessions", "show", id, "--timeline", env={"PYTHONIOENCODING": "utf-8"})
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in shown.stdout
    assert id in lines[0]
    first, second = (next(line for line in lines if line.startswith(start)) for start in ("1. ", "2. "))
    assert "Wait a little" in first
    assert "completed" in first
    assert "provider_error" in second
    asked, answered, refused = (line for line in lines if line[:4].strip().isdigit())
    assert asked.rstrip().endswith("shell read! 2 \u2026")
    assert "\u2591" in asked
    assert "\u2593" in asked
    assert " 75 % " in answered
    assert "BadRequest" in refused
    assert "3 requests" in lines[-1]


def test_in_plain_letters(model_server: ModelServer, run_cli: RunCli, workspace: Path) -> None:
    id = session_of(model_server, run_cli, workspace)
    shown = run_cli("sessions", "show", id, "--timeline", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert shown.returncode == 0, shown.stderr
    picture = [line[4:28] for line in shown.stdout.splitlines() if line[:4].strip().isdigit()]
    assert ".." in picture[0]
    assert "==" in picture[0]
    # One axis for all of them: the later begins where the earlier ends.
    assert len(picture[1]) - len(picture[1].lstrip()) >= len(picture[0].rstrip()) - 1


def test_as_data(model_server: ModelServer, run_cli: RunCli, workspace: Path) -> None:
    id = session_of(model_server, run_cli, workspace)
    told = json.loads(run_cli("sessions", "show", id, "--timeline", "--json").stdout)
    first, second = told["prompts"]
    assert (told["id"], first["outcome"], second["outcome"]) == (id, "completed", "provider_error")
    asked, answered = first["requests"]
    assert (asked["attempts"], [call["name"] for call in asked["calls"]]) == (2, ["shell", "read"])
    assert asked["seconds"] >= asked["first"] >= 0.15
    assert asked["calls"][0]["seconds"] >= 0.3
    assert asked["calls"][1]["failed"] is True
    assert answered["usage"]["cached_tokens"] == 900
    assert second["requests"][0]["error"] == "BadRequest"


def test_an_old_log_without_times(model_server: ModelServer, run_cli: RunCli, workspace: Path) -> None:
    id = session_of(model_server, run_cli, workspace)
    log = sessions_directory() / id / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        if record["record"] in {"replied", "tool"}:
            record.pop("seconds", None)
            record.pop("first", None)
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    shown = run_cli("sessions", "show", id, "--timeline")
    assert (shown.returncode, "3 requests: model 0.0s" in shown.stdout) == (0, True)


def test_in_colours_on_a_terminal(
    model_server: ModelServer, run_cli: RunCli, terminal: Terminal, workspace: Path
) -> None:
    id = session_of(model_server, run_cli, workspace)
    for env, coloured in (({"TERM": "xterm-256color"}, True), ({"TERM": "xterm-256color", "NO_COLOR": "1"}, False)):
        child = terminal("sessions", "show", id, "--timeline", **env)
        child.expect("3 requests.*out")
        assert ("\x1b[" in (child.before or "")) is coloured, printable(child.before or "")
