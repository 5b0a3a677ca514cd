"""`acp setup`: shows what goes where, writes it only when told, and leaves alone what it does not understand."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import json5
import pexpect
import pytest

from laguna_agent.credentials import store_key
from tests.conftest import RunCli, Terminal

ZED = """\
// mine
{
  "theme": "One Dark", // dark
  "agent_servers": {
    "Other": {"type": "registry"},
  },
}
"""


def settings_of(editor: str) -> Path:
    if editor == "zed":
        path = Path(os.environ["XDG_CONFIG_HOME"]) / "zed" / "settings.json"
    else:
        path = Path.home() / ".jetbrains" / "acp.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def others(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir() if each != path)


@pytest.fixture
def in_terminal(terminal: Terminal) -> pexpect.spawn[str]:
    return terminal("acp", "setup", "zed")


@pytest.mark.parametrize("editor", ["zed", "jetbrains"])
def test_written_into_what_is_there(run_cli: RunCli, editor: str) -> None:
    path = settings_of(editor)
    path.write_text(ZED)
    path.chmod(0o600)
    done = run_cli("acp", "setup", editor, "--write", "--model", "ollama/q")
    assert (done.returncode, done.stderr) == (0, "")
    assert str(path) in done.stdout
    entry = json5.loads(path.read_text())["agent_servers"]["Laguna"]
    assert os.path.isabs(entry["command"]) and entry["args"][-1] == "acp"
    assert entry["env"] == {"LAGUNA_MODEL": "ollama/q"}
    assert (entry.get("type") == "custom") is (editor == "zed")
    kept = [line for line in ZED.splitlines() if line not in path.read_text().splitlines()]
    assert kept == []
    assert others(path) == [f"{path.name}.before-laguna-agent"]
    assert path.with_name(others(path)[0]).read_text() == ZED
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    before = path.read_text()
    again = run_cli("acp", "setup", editor, "--write", "--model", "ollama/q")
    assert "there already" in again.stdout
    assert (path.read_text(), len(others(path))) == (before, 1)


def test_a_new_file_and_then_another_model(run_cli: RunCli) -> None:
    path = settings_of("jetbrains")
    assert run_cli("acp", "--model", "ollama/one", "setup", "jetbrains", "--write").returncode == 0
    assert others(path) == []
    first = json.loads(path.read_text())
    first["agent_servers"]["Laguna"]["args"] += ["--approve", "edits"]
    first["agent_servers"]["Laguna"]["env"]["MINE"] = "1"
    path.write_text(json.dumps(first))
    for model in ("ollama/two", "ollama/three"):
        assert run_cli("acp", "setup", "jetbrains", "--write", "--model", model).returncode == 0
    entry = json.loads(path.read_text())["agent_servers"]["Laguna"]
    assert entry["args"] == first["agent_servers"]["Laguna"]["args"]
    assert entry["env"] == {"LAGUNA_MODEL": "ollama/three", "MINE": "1"}
    assert others(path) == ["acp.json.before-laguna-agent", "acp.json.before-laguna-agent.2"]


@pytest.mark.parametrize("arguments", [[], ["--print"]])
def test_without_a_person_nothing_is_written(run_cli: RunCli, arguments: list[str]) -> None:
    path = settings_of("zed")
    path.write_text("{ broken")
    done = run_cli("acp", "setup", "zed", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"type": "custom"' in done.stdout and str(path) in done.stdout
    assert (path.read_text(), others(path)) == ("{ broken", [])


@pytest.mark.parametrize("text", ["{ broken", "[]", '{"agent_servers": 1}', '{"a": 1, "a": 2}', "\xff"])
def test_a_file_that_is_not_understood_stays(run_cli: RunCli, text: str) -> None:
    path = settings_of("zed")
    path.write_bytes(text.encode("latin-1"))
    done = run_cli("acp", "setup", "zed", "--write")
    assert done.returncode == 2
    assert f"{path} is left as it is" in done.stderr and done.stderr.count("\n") == 1
    assert '"type": "custom"' in done.stdout
    assert (path.read_bytes(), others(path)) == (text.encode("latin-1"), [])


@pytest.mark.parametrize(("answer", "written"), [("", False), ("n", False), ("y", True)])
def test_the_person_is_asked(in_terminal: pexpect.spawn[str], answer: str, written: bool) -> None:
    in_terminal.expect("this goes into .*settings.json")
    in_terminal.expect(r"Write it\?.*\[y/N\] ")
    assert not settings_of("zed").exists()
    in_terminal.sendline(answer)
    in_terminal.expect("Written" if written else "Nothing is written")
    in_terminal.expect(pexpect.EOF)
    in_terminal.close()
    assert in_terminal.exitstatus == 0
    assert settings_of("zed").exists() is written


def test_what_the_editor_wrote_meanwhile_stays(in_terminal: pexpect.spawn[str]) -> None:
    in_terminal.expect(r"\[y/N\] ")
    settings_of("zed").write_text('{"theme": "new"}')
    in_terminal.sendline("y")
    in_terminal.expect("Written")
    in_terminal.expect(pexpect.EOF)
    found = json5.loads(settings_of("zed").read_text())
    assert found["theme"] == "new" and "Laguna" in found["agent_servers"]


@pytest.mark.parametrize(
    ("editor", "words"),
    [
        ("neovim", ['adapter = "laguna"', "acp_providers = {", 'env = { LAGUNA_MODEL = "ollama/q" }']),
        ("emacs", ["agent-shell-make-agent-config", '\'("LAGUNA_MODEL=ollama/q")', ":command-params '("]),
    ],
)
def test_a_configuration_that_is_a_program_is_only_shown(run_cli: RunCli, editor: str, words: list[str]) -> None:
    done = run_cli("acp", "setup", editor, "--model", "ollama/q")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in words)
    for opening, closing in ("()", "{}"):
        assert done.stdout.count(opening) == done.stdout.count(closing)
    refused = run_cli("acp", "setup", editor, "--write")
    assert refused.returncode == 2
    assert "yours to change" in refused.stderr
    assert [path.name for path in Path.home().rglob("init.*")] == []


def test_what_the_editor_will_miss_is_said(run_cli: RunCli) -> None:
    def note(**env: str) -> str:
        return run_cli("acp", "setup", "zed", "--print", env=env).stdout.partition("\nnote: ")[2]

    assert "laguna-agent login" in note()
    assert "run `laguna-agent login openrouter`" in note(LAGUNA_MODEL="openrouter/x").splitlines()[-1]
    assert "env LAGUNA_MODEL may not reach" in note(LAGUNA_MODEL="ollama/q")
    assert "`laguna-agent login poolside` stores" in note(POOLSIDE_API_KEY="secret")
    store_key("openrouter", "secret")
    assert note() == ""


def test_a_program_that_may_vanish_is_said(tmp_path: Path) -> None:
    script = tmp_path / "uv" / "archive-v0" / "x" / "bin" / "laguna-agent"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!{sys.executable}\nfrom laguna_agent.cli import main\n\nmain()\n")
    script.chmod(0o755)
    shown = subprocess.run([script, "acp", "setup", "zed", "--print"], capture_output=True, text=True, check=True)
    assert f'"command": "{script}"' in shown.stdout
    assert "uv tool install" in shown.stdout


def test_wrong_uses(run_cli: RunCli) -> None:
    assert "zed, jetbrains, neovim, emacs" in run_cli("acp", "setup", "nano").stderr
    assert "exclude each other" in run_cli("acp", "setup", "zed", "--write", "--print").stderr
    assert run_cli("acp", "setup").returncode == 2
    assert run_cli("acp", "frobnicate").returncode == 2
