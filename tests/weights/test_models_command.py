"""`laguna-agent models ...` as a program: exit codes, what is on stdout and what on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from laguna_agent.backend.weights.store import Store

ROOT = Path(__file__).parents[2]
GGUF = b"GGUF" + bytes(3_000_000)


@pytest.fixture
def environment(tmp_path, monkeypatch) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(tmp_path / "data"), "HOME": str(tmp_path)}


@pytest.fixture
def gguf(tmp_path) -> Path:
    file = tmp_path / "mine.gguf"
    file.write_bytes(GGUF)
    return file


def models(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "laguna_agent", "models", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def test_pull_list_show_and_remove(environment, gguf):
    pulled = models(environment, "pull", "mine", "--from", str(gguf))
    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout == "mine is in the store (0.00 GB); use it with --model local/mine\n"
    assert pulled.stderr.splitlines()[-1] == "mine: 3 of 3 MB"
    rows = json.loads(models(environment, "list", "--json").stdout)
    assert {row["name"]: row["stored"] for row in rows} == {
        "mine": True,
        "qwen2.5-coder-0.5b": False,
        "qwen2.5-coder-1.5b": False,
    }
    fields = json.loads(models(environment, "show", "mine", "--json").stdout)
    assert Path(fields["path"]).read_bytes() == GGUF
    assert models(environment, "rm", "mine").returncode == 0
    assert not Path(fields["path"]).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pull", "gpt-17"), "there are qwen2.5-coder-0.5b, qwen2.5-coder-1.5b"),
        (("show", "qwen2.5-coder-1.5b"), "laguna-agent models pull qwen2.5-coder-1.5b"),
        (("rm", "nothing"), "no model called 'nothing'"),
        (("pull", "mine", "--from", "/does/not/exist"), "No such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(environment, arguments, words):
    result = models(environment, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert words in line


def test_a_terminal_gets_a_bar(environment, gguf, tmp_path):
    command = f"{sys.executable} -m laguna_agent models pull mine --from {gguf}"
    child = pexpect.spawn(command, env={**environment, "TERM": "xterm-256color"}, dimensions=(24, 100), timeout=60)
    output = child.read().decode()
    child.close()
    assert child.exitstatus == 0
    assert "3.0/3.0 MB" in output
    assert Store(tmp_path / "data" / "laguna-agent" / "models").get("mine").size == len(GGUF)
