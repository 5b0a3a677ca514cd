"""What the shells offer behind `laguna-agent`, asked by a real shell where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.model_server import ModelServer, text
from tests.terminal.conftest import StartTty

ROOT = Path(__file__).resolve().parent.parent.parent


def offered(run_cli: RunCli, *words: str) -> list[str]:
    """What bash would be told for these words, the last of which is being typed."""
    env = {
        "_LAGUNA_AGENT_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(("laguna-agent", *words)),
        "COMP_CWORD": str(len(words)),
    }
    return run_cli(env=env).stdout.split()


def test_commands_and_their_options(run_cli: RunCli) -> None:
    assert offered(run_cli, "se") == ["serve", "selftest", "sessions"]
    assert offered(run_cli, "sessions", "sh") == ["show"]
    assert "--max-cost" in offered(run_cli, "run", "--max-")


def test_a_line_without_a_command_is_a_chat(run_cli: RunCli) -> None:
    assert offered(run_cli, "--app") == ["--approve"]
    assert offered(run_cli, "--resu") == ["--resume"]
    assert offered(run_cli, "--vers") == ["--version"]


def test_sessions_and_models_by_name(run_cli: RunCli, model_server: ModelServer, tmp_path: Path) -> None:
    model_server.reply(text("Hello."))
    run_cli("run", "say hello; `touch owned` $(touch owned)", env=model_server.env)
    (session,) = (path.name for path in (tmp_path / "home" / "state" / "laguna-agent" / "sessions").iterdir())
    assert offered(run_cli, "--resume", session[:4]) == [session]
    assert offered(run_cli, "run", "--model", "openr") == ["openrouter/poolside/laguna-xs-2.1:free"]
    env = {"_LAGUNA_AGENT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "laguna-agent --resume 2"}
    told = run_cli(env=env).stdout
    assert f'"{session}":"say hello touch owned touch owned"' in told


def test_a_broken_configuration_is_not_told_to_a_shell(run_cli: RunCli, tmp_path: Path) -> None:
    folder = tmp_path / "home" / "config" / "laguna-agent"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("model = [")
    assert "ollama/" in offered(run_cli, "--model", "oll")


@pytest.mark.parametrize(
    ("shell", "word"), [("bash", "complete -o"), ("zsh", "#compdef"), ("fish", "complete --command")]
)
def test_the_script_for_each_shell(run_cli: RunCli, shell: str, word: str) -> None:
    done = run_cli(env={"_LAGUNA_AGENT_COMPLETE": f"source_{shell}"})
    assert word in done.stdout
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)


def test_tab_in_a_real_bash(tty: StartTty, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "laguna-agent"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m laguna_agent "$@"\n')
    program.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    shown = tty(command=["bash", "--norc", "--noprofile", "-i"], PS1="ready$ ", PATH=path)
    shown.wait_for("ready$")
    shown.send('eval "$(laguna-agent --show-completion bash)"; clear\r')
    shown.wait_for(lambda _: shown.screen()[0] == "ready$")
    shown.send("laguna-agent sess\t")
    shown.wait_for("laguna-agent sessions")
    shown.send("tr\x7f\x7fde\t")
    shown.wait_for("laguna-agent sessions delete")
