"""What happens before any command runs: quick paths, imports, wrong command lines, bugs, vanished readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent import __version__
from tests.conftest import RunCli
from tests.model_server import ModelServer, text

HEAVY = ("httpx", "torch", "msgspec", "tree_sitter", "pydantic", "rich", "git", "anyio", "prompt_toolkit")
SHOW_IMPORTS = """
import sys
sys.argv[1:] = {arguments!r}
from laguna_agent.cli import main
try:
    main()
finally:
    print("IMPORTED", *sys.modules, file=sys.stderr)
"""


def imported_by(*arguments: str) -> set[str]:
    program = SHOW_IMPORTS.format(arguments=list(arguments))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.partition("IMPORTED")[2].split())


def break_module(folder: Path, name: str) -> dict[str, str]:
    """Environment of an installation in which `name` is damaged."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text("raise RuntimeError('a damaged file')\n")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}"}


def test_version_imports_nothing_that_python_has_not_imported_itself() -> None:
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    extra = imported_by("--version") - set(bare.stdout.split())
    assert extra == {"laguna_agent", "laguna_agent.cli"}


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("sessions", "--help"), ("models", "--help")])
def test_help_imports_no_heavy_library(arguments: tuple[str, ...]) -> None:
    roots = {name.partition(".")[0] for name in imported_by(*arguments)}
    assert roots.isdisjoint(HEAVY)


def test_version_is_one_line(run_cli: RunCli) -> None:
    for arguments in (["--version"], ["--version", "run"]):
        done = run_cli(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"laguna-agent {__version__}\n", "")


def test_acp_alone_does_not_import_typer(run_cli: RunCli) -> None:
    assert "typer" not in imported_by("acp")


def test_help_names_every_command(run_cli: RunCli) -> None:
    shown = run_cli("--help").stdout
    for command in ("run", "chat", "acp", "serve", "models", "sessions", "config", "doctor"):
        assert f"\n  {command} " in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run", "--no-such-option"],
        ["run", "--no-such-option=two words"],
        ["run", "a prompt", "another"],
        ["run", "--seed"],
        ["sessions", "nothing"],
        ["sessions", "show"],
        ["--no-such-option"],
    ],
)
def test_wrong_command_line_is_one_line_and_exit_2(run_cli: RunCli, arguments: list[str]) -> None:
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("laguna-agent: ")
    assert done.stderr.count("\n") == 1
    assert "--help" in done.stderr


def test_wrong_command_line_of_run_has_a_final_record_where_a_script_waits_for_one(run_cli: RunCli) -> None:
    done = run_cli("run", "--output", "json", "--no-such-option")
    record = json.loads(done.stdout)
    assert (done.returncode, record["exit_code"], record["outcome"]) == (2, 2, "usage")
    assert "--no-such-option" in record["message"]
    assert "`laguna-agent run --help`" in record["message"]
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        (["- a list\n- in Markdown"], "- a list\n- in Markdown"),
        (["--check=exit 0", "- a list"], "- a list"),
        (["--check", "true", "-1"], "-1"),
        (["-5 degrees", "--seed", "1"], "-5 degrees"),
        (["--verbose says nothing"], "--verbose says nothing"),
        (["--", "--no-such-option"], "--no-such-option"),
        (["--temperature", "1", "--", "-x"], "-x"),
    ],
)
def test_prompt_may_begin_with_a_dash(
    run_cli: RunCli, model_server: ModelServer, arguments: list[str], prompt: str
) -> None:
    model_server.always(text("All done."))
    assert run_cli("run", *arguments, env=model_server.env).returncode == 0
    assert prompt in model_server.chats[0]["messages"][-1]["content"]


@pytest.mark.parametrize(
    "arguments", [["run", "x", "--temperature", "-1"], ["run", "x", "--seed", "-1", "--max-turns", "-1"]]
)
def test_values_stay_text_until_the_configuration(run_cli: RunCli, arguments: list[str]) -> None:
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert f"{arguments[-2]} = '-1' is not valid; expected" in done.stderr


def test_missing_value_names_the_command_whose_help_says_more(run_cli: RunCli) -> None:
    assert "`laguna-agent run --help`" in run_cli("run", "x", "--seed").stderr


def test_acp_takes_settings(run_cli: RunCli) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}}
    done = run_cli("acp", "--model", "x/y", "--approve", "all", stdin=json.dumps(request) + "\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["result"]["protocolVersion"] == 1


def test_shell_completion(run_cli: RunCli) -> None:
    env = {"_LAGUNA_AGENT_COMPLETE": "complete_bash", "COMP_WORDS": "laguna-agent ses", "COMP_CWORD": "1"}
    done = run_cli(env=env)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["sessions"], "")


def test_a_bug_is_one_line_and_a_report(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("config", "show", env=break_module(tmp_path / "broken", "msgspec"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "RuntimeError: a damaged file" in done.stderr
    (report,) = (Path(os.environ["XDG_STATE_HOME"]) / "laguna-agent" / "crashes").iterdir()
    assert str(report) in done.stderr
    assert "Traceback (most recent call last)" in report.read_text()


def test_a_bug_without_a_state_directory_still_says_so(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "state" / "laguna-agent").mkdir(parents=True)
    (tmp_path / "state" / "laguna-agent" / "crashes").write_text("in the way")
    env = break_module(tmp_path / "broken", "msgspec") | {"XDG_STATE_HOME": str(tmp_path / "state")}
    done = run_cli("config", "show", env=env)
    assert done.returncode == 1
    assert "no report" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "laguna_agent", "config", "show"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 141


def test_chat_without_a_terminal_says_what_to_use(run_cli: RunCli) -> None:
    for arguments in ([], ["chat"], ["--model", "x/y"]):
        done = run_cli(*arguments)
        assert done.returncode == 2
        assert "laguna-agent run" in done.stderr
