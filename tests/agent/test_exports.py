"""What an export leaves out because it may be a secret, and what it leaves."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.agent.exports import _NAMED, for_export, text_for_export
from laguna_agent.agent.trajectory import atif
from laguna_agent.redaction import MARK, know
from tests.agent.driving import converse
from tests.conftest import RunCli
from tests.model_server import ModelServer, text, tool_call

SECRETS = [
    ('password = "hunter2hunter2"', "hunter2hunter2"),
    ("password: correcthorse1", "correcthorse1"),
    ("export DB_PASSWORD=s3cr3tpassw0rd", "s3cr3tpassw0rd"),
    ("url=https://me:hunter22@host/x", "hunter22"),
    ('x = "c2VjcmV0IHZhbHVlIHRoYXQgaXMgbG9uZw8fK/1x"', "c2VjcmV0IHZhbHVlIHRoYXQgaXMgbG9uZw8fK/1x"),
    ('{"api_key": "3f9a8b7c6d5e4f3a2b1c"}', "3f9a8b7c6d5e4f3a2b1c"),
    ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    ("token ghp_" + "a1B2" * 9, "ghp_" + "a1B2" * 9),
]
NONE = [
    '"integrity": "sha512-v2kDEe57lecTulaDIuNTPy3Ry4gLGJ6Z1O3vE1krgXZNrsQ+LFTGHVxVjcXPs17LhbZVGedAJv8XZ1tvj5Fvg=="',
    '    {file = "x.whl", hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},',
    "example.com/mod v1.2.3 h1:5wmYGnJv9dQzr1yF4X8TqYvhX2kVq0Yz8o4Vn5bQ1cE=",
    "commit 46780ebf0cae12161ef51383cf46156ffe42884e",
    'rev = "46780ebf0cae12161ef51383cf46156ffe42884e"',
    'uuid = "123e4567-e89b-12d3-a456-426614174000"',
    "token = get_token()",
    "api_key=os.environ['KEY']",
    "def test_password_is_hidden(password: str, key=lambda x: x.name):",
    "primary_key=True",
    "MAX_TOKENS = 4096",
    "the password: the one that you chose",
    "PASSWORD=$PASSWORD",
    "from laguna_agent.credentials import find_key, key_in_environment, stored_key",
]


@pytest.mark.parametrize(("line", "secret"), SECRETS)
def test_what_may_be_a_secret(line: str, secret: str) -> None:
    clean = text_for_export(f"before\n{line}\nafter\n")
    assert secret not in clean
    assert MARK in clean
    assert clean.startswith("before\n")
    assert clean.endswith("\nafter\n")


@pytest.mark.parametrize("line", NONE)
def test_what_is_none(line: str) -> None:
    assert text_for_export(line) == line


def test_data_of_every_shape() -> None:
    know("sk-canary-0123456789abcdef", "K")
    data = {"a": ["sk-canary-0123456789abcdef", 1, None, {"x": 'password = "hunter2hunter2"'}], "b": True}
    clean = for_export(data)
    assert "canary" not in json.dumps(clean)
    assert "hunter2" not in json.dumps(clean)
    assert clean["a"][1:3] == [1, None]


def test_the_exports_of_a_session(model_server: ModelServer, workspace: Path, run_cli: RunCli, tmp_path: Path) -> None:
    (workspace / "settings.py").write_text('password = "hunter2hunter2"\n')
    model_server.reply(tool_call("read", {"path": "settings.py"}))
    model_server.reply(text("The password is hunter2hunter2."))
    came = converse(model_server, workspace, "What is it?")
    assert "hunter2" not in json.dumps(atif(came.log)["steps"][:-1])
    to = tmp_path / "out.json"
    assert run_cli("sessions", "export", came.id, "--to", to).returncode == 0
    assert stat.S_IMODE(to.stat().st_mode) == 0o600
    shown = run_cli("sessions", "show", came.id).stdout
    assert 'password = "hunter2' not in shown
    assert "settings.py" in shown
    # The log itself replays: it keeps what only may be a secret.
    exported = tmp_path / "out.jsonl"
    assert run_cli("sessions", "export", came.id, "--format", "log", "--to", exported).returncode == 0
    replayed = run_cli("run", "--replay", exported, "--output", "stream-json")
    assert replayed.returncode == 0, replayed.stderr


def test_nothing_of_it_is_loaded_but_by_exports() -> None:
    code = "import sys, laguna_agent.agent.session, laguna_agent.cli.app; print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"detect_secrets", "requests", "yaml", "keyring"} & set(shown.split("'"))


def test_every_name_that_the_detector_knows_is_looked_for() -> None:
    from detect_secrets.plugins.keyword import DENYLIST

    assert DENYLIST
    assert all(_NAMED.search(name) for name in DENYLIST)
