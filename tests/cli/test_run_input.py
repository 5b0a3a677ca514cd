"""What `run` is given: prompts, files, standard input, and every way in which they can be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from laguna_agent.headless import prompt
from laguna_agent.trust import look, trust
from tests.conftest import RunCli, StartCli
from tests.model_server import ModelServer, text


def record_of(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """The only object on stdout; it must agree with the exit code."""
    record = json.loads(done.stdout)
    assert record["type"] == "result"
    assert record["exit_code"] == done.returncode
    return record


def last_prompt(server: ModelServer) -> str:
    return json.dumps(server.chats[-1]["messages"][-1])


@pytest.fixture
def answering(model_server: ModelServer) -> ModelServer:
    return model_server.always(text("All done."))


def test_prompt_as_argument(run_cli: RunCli, answering: ModelServer) -> None:
    done = run_cli("run", "say hello", env=answering.env)
    assert (done.returncode, done.stdout) == (0, "All done.\n")
    assert "say hello" in last_prompt(answering)


def test_prompt_from_a_file(run_cli: RunCli, answering: ModelServer, tmp_path: Path) -> None:
    file = tmp_path / "task.md"
    file.write_text("\ufeffgrüße the world")
    assert run_cli("run", "-f", file, env=answering.env).returncode == 0
    assert answering.chats[-1]["messages"][-1]["role"] == "user"
    assert "grüße the world" in json.dumps(answering.chats[-1], ensure_ascii=False)


@pytest.mark.parametrize("arguments", [["run"], ["run", "-"]])
def test_prompt_from_standard_input(run_cli: RunCli, answering: ModelServer, arguments: list[str]) -> None:
    assert run_cli(*arguments, stdin="from the pipe", env=answering.env).returncode == 0
    assert "from the pipe" in last_prompt(answering)


def test_open_standard_input_does_not_block_a_run_that_has_a_prompt(
    start_cli: StartCli, answering: ModelServer
) -> None:
    process = start_cli("run", "hello", env=answering.env)  # its stdin is a pipe that nobody closes
    assert process.wait(30) == 0


def test_silent_standard_input_ends_in_a_usage_error(monkeypatch: pytest.MonkeyPatch, start_cli: StartCli) -> None:
    started = time.monotonic()
    process = start_cli("run", "--output", "json")
    assert process.wait(prompt.STDIN_PATIENCE + 20) == 2
    assert time.monotonic() - started >= prompt.STDIN_PATIENCE
    assert process.stdout is not None
    assert "silent" in json.loads(process.stdout.read())["message"]


def test_closed_standard_input(run_cli: RunCli, answering: ModelServer, workspace: Path) -> None:
    script = f"exec {os.environ.get('PYTHON', 'python3')} -m laguna_agent run"
    for arguments, code in (("hello", 0), ("", 2)):
        done = subprocess.run(
            ["sh", "-c", f"{script} {arguments} <&-"],
            env={**os.environ, **answering.env},
            cwd=workspace,
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize(("window", "code"), [("1000000", 0), ("8000", 3)])
def test_a_megabyte_of_prompt_reaches_the_model_or_fails_in_one_line(
    run_cli: RunCli, answering: ModelServer, window: str, code: int
) -> None:
    long = "word " * 200_000
    env = answering.env | {"LAGUNA_CONTEXT_LENGTH": window}
    done = run_cli("run", "--output", "json", stdin=long, env=env)
    assert done.returncode == code, done.stderr
    if code == 0:
        assert long.strip() in last_prompt(answering)
    else:
        assert record_of(done)["outcome"] == "provider_error"
        assert done.stderr.count("\n") == 1
        assert len(done.stderr) < 500
        assert not answering.chats, "what does not fit is not sent"


BAD = [
    (["run", ""], "", "the prompt is empty"),
    (["run"], "", "the prompt is empty"),
    (["run", "-"], "  \n", "the prompt is empty"),
    (["run", "x", "-f", "y"], "", "given twice"),
    (["run", "-f", "missing.txt"], "", "cannot read the prompt file missing.txt"),
    (["run", "-f", "."], "", "cannot read the prompt file"),
    (["run", "x", "--cwd", "missing"], "", "the working directory missing cannot be used"),
    (["run", "x", "--cwd", "bytes.bin"], "", "is not a directory"),
    (["run", "-f", "bytes.bin"], "", "not UTF-8"),
    (["run", "x", "--output-schema", "missing.json"], "", "cannot read the schema"),
    (["run", "x", "--output-schema", "bytes.bin"], "", "not valid JSON"),
    (["run", "x", "--output-schema", "list.json"], "", "must be a JSON object"),
    (["run", "x", "--patch-out", "no/such/dir.patch"], "", "no directory"),
    (["run", "x", "--trajectory", "."], "", "is a directory"),
    (["run", "x", "--resume", "20990101"], "", "no session"),
    (["run", "x", "--resume", "../etc"], "", "not a session id"),
    (["run", "x", "--continue"], "", "no session of"),
    (["run", "x", "--continue", "--resume", "a"], "", "exclude each other"),
    (["run", "x", "--approve", "never"], "", "plan, ask, edits, all"),
    (["run", "x", "--max-turns", "0"], "", "at least 1"),
    (["run", "x", "--max-turns", "many"], "", "--max-turns"),
    (["run", "x", "--max-cost", "nan"], "", "--max-cost"),
    (["run", "x", "--frobnicate"], "", "--frobnicate"),
]


@pytest.mark.parametrize(("arguments", "stdin", "message"), BAD, ids=[" ".join(case[0]) for case in BAD])
def test_bad_input_is_one_line_exit_2_and_a_final_record(
    run_cli: RunCli, workspace: Path, arguments: list[str], stdin: str, message: str
) -> None:
    (workspace / "bytes.bin").write_bytes(b"\xff\xfe\x00\x01")
    (workspace / "list.json").write_text("[1]")
    done = run_cli(*arguments, "--output", "json", stdin=stdin, env={"LAGUNA_MODEL": "x/y"})
    record = record_of(done)
    assert done.returncode == 2
    assert record["outcome"] == "usage"
    assert message in str(record["message"])
    assert done.stderr.startswith("laguna-agent: ")
    assert done.stderr.count("\n") == 1


def test_unknown_output_mode(run_cli: RunCli) -> None:
    done = run_cli("run", "x", "--output", "xml")
    assert (done.returncode, done.stdout) == (2, "")
    assert "text, json, stream-json" in done.stderr


def test_unreadable_configuration(run_cli: RunCli, workspace: Path) -> None:
    (workspace / ".laguna").mkdir()
    (workspace / ".laguna" / "config.toml").write_text('base_url = "http://evil.example"\n')
    trust(look(workspace))
    done = run_cli("run", "x", "--output", "stream-json")
    assert record_of(done)["outcome"] == "usage"
    assert "not allowed in a project file" in done.stderr
