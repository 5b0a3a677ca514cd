"""README's section on Zed, followed word by word by a person and an editor that know nothing else."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pexpect
import pytest

from tests.conftest import ROOT
from tests.docs.zed import Answer, Zed, read_settings
from tests.model_server import ModelServer, http, text, tool_call

SECRET = "sk-or-v1-typed-once"
ANSWERS = [
    (r"Provider \[.*\]: ", ""),
    ("not shown: ", SECRET),
    (r"Model to use from now on.*: ", ""),
    (r"Write it\?.*\[y/N\] ", "y"),
]


def section() -> str:
    found = re.search(r"^### Zed\n(.*?)^###? ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def commands() -> list[str]:
    return re.findall(r"^    (laguna-agent .*?)(?: +#.*)?$", section(), re.MULTILINE)


def snippet() -> str:
    """The JSON, whose lines are the indented ones from the first brace to the last."""
    found = re.search(r"^    \{\n(?:    .*\n)*?    \}\n", section(), re.MULTILINE)
    assert found is not None
    return re.sub(r"^    ", "", found[0], flags=re.MULTILINE)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_server: ModelServer) -> dict[str, str]:
    """The environment of a person's shell after `pip install`; openrouter.ai is the scripted server."""
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        monkeypatch.delenv(name)
    script = tmp_path / "installed" / "bin" / "laguna-agent"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!{sys.executable}\nfrom laguna_agent.cli import main\n\nmain()\n")
    script.chmod(0o755)
    model_server.routes["GET", "/v1/key"] = http(200, {})
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "TERM": "xterm", "OPENROUTER_BASE_URL": model_server.url}


def desktop(shell: dict[str, str]) -> dict[str, str]:
    """What an editor has that was started from a desktop: no PATH of the shell."""
    return shell | {"PATH": "/usr/bin:/bin"}


def follow(command: str, env: dict[str, str], cwd: Path) -> None:
    """Type a command and answer what it asks, as somebody does who agrees with everything."""
    arguments = ["-c", command]
    child = pexpect.spawn("/bin/sh", arguments, cwd=str(cwd), env=env, encoding="utf-8", timeout=60)  # type: ignore[arg-type]
    patterns = [pexpect.EOF, *(question for question, _ in ANSWERS)]
    while (at := child.expect(patterns)) != 0:
        child.sendline(ANSWERS[at - 1][1])
    child.close()
    assert child.exitstatus == 0, child.before


def edit_something(zed: Zed, model_server: ModelServer) -> None:
    """A prompt whose answer is an edit, which ends up in the project."""
    (zed.project / "shop.py").write_text("total = 1\n")
    model_server.reply(
        tool_call("read", {"path": "shop.py"}),
        tool_call("edit", {"path": "shop.py", "old": "total = 1", "new": "total = 2"}),
        text("The total is 2 now."),
    )
    session = zed.new_session()
    assert zed.prompt(session, "Make the total 2") == "end_turn"
    assert (zed.project / "shop.py").read_text() == "total = 2\n"
    assert "session/request_permission" in zed.asked
    diffs = [part for update in zed.updates for part in update.get("content") or [] if "newText" in part]
    assert diffs[-1]["newText"] == "total = 2\n"
    said = [u["content"]["text"] for u in zed.updates if u["sessionUpdate"] == "agent_message_chunk"]
    assert "".join(said) == "The total is 2 now."
    assert {r.headers.get("authorization") for r in model_server.requests} == {f"Bearer {SECRET}"}


def test_the_section_says_what_to_type() -> None:
    assert commands() == ["laguna-agent login", "laguna-agent acp setup zed"]


def test_the_commands(shell: dict[str, str], workspace: Path, model_server: ModelServer) -> None:
    settings = Path.home() / ".config" / "zed" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('// mine\n{\n  "theme": "One Dark", // dark\n}\n')
    for command in commands():
        follow(command, shell, workspace)
    assert settings.read_text().startswith('// mine\n{\n  "theme": "One Dark", // dark\n')
    server = read_settings(settings)["Laguna"]
    with Zed(server, workspace, desktop(shell)) as zed:
        zed.initialize()
        edit_something(zed, model_server)
    assert zed.process.returncode == 0


def test_the_settings_by_hand(shell: dict[str, str], workspace: Path, model_server: ModelServer) -> None:
    follow(commands()[0], shell, workspace)
    settings = Path.home() / ".config" / "zed" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(snippet())
    with Zed(read_settings(settings)["Laguna"], workspace, shell) as zed:
        zed.initialize()
        edit_something(zed, model_server)


def test_written_and_by_hand_are_the_same_but_for_the_path(shell: dict[str, str], workspace: Path) -> None:
    by_hand, written = workspace / "by_hand.json", Path.home() / ".config" / "zed" / "settings.json"
    by_hand.write_text(snippet())
    follow("laguna-agent acp setup zed --write", shell, workspace)
    (one,), (other,) = read_settings(by_hand).values(), read_settings(written).values()
    assert Path(other.command).name == one.command
    assert Path(other.command).is_absolute()
    other.command = one.command
    assert one == other


def test_without_a_login_zed_shows_one_and_goes_on(
    shell: dict[str, str], workspace: Path, model_server: ModelServer
) -> None:
    follow("laguna-agent acp setup zed --write", shell, workspace)
    server = read_settings(Path.home() / ".config" / "zed" / "settings.json")["Laguna"]
    with Zed(server, workspace, desktop(shell)) as zed:
        methods = zed.initialize()["authMethods"]
        with pytest.raises(Answer, match="laguna-agent login") as refused:
            zed.new_session()
        assert refused.value.code == -32000
        login = next(m["_meta"]["terminal-auth"] for m in methods if "terminal-auth" in (m.get("_meta") or {}))
        words = " ".join(f"'{word}'" for word in [login["command"], *login["args"]])
        follow(words, desktop(shell) | login["env"], workspace)
        edit_something(zed, model_server)
