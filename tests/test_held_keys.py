"""Secrets leave the environment: no child inherits them, and /proc shows nothing of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from laguna_agent import held_keys
from laguna_agent.backend.providers import PROVIDERS
from laguna_agent.config import Settings, load
from laguna_agent.credentials import find_key, key_in_environment
from laguna_agent.redaction import without_keys

CANARY = "sk-canary-0123456789abcdef"
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")


@pytest.mark.parametrize("name", [*(row.key_env for row in PROVIDERS.values()), "LAGUNA_SERVE_TOKEN"])
def test_our_own_keys_are_secrets_by_name(name: str) -> None:
    assert held_keys.is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "npm_config__authToken", "DB_PASSWORD", "HF_TOKEN"]
)
def test_secrets_of_others_are_too(name: str) -> None:
    assert held_keys.is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["LAGUNA_MAX_TOKENS", "LAGUNA_API_KEY_ENV", "TOKENIZERS_PARALLELISM", "DBUS_SESSION_BUS_ADDRESS", "PATH",
     "XDG_SESSION_ID", "KEYBOARD", "SSH_AUTH_SOCK", "GIT_AUTHOR_NAME", "XAUTHORITY"],
)  # fmt: skip
def test_settings_and_addresses_are_not(name: str) -> None:
    assert not held_keys.is_secret_name(name)


def test_a_key_is_found_after_it_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", f" {CANARY}\n")
    held_keys.take_secrets()
    assert "OPENROUTER_API_KEY" not in os.environ
    key = key_in_environment("OPENROUTER_API_KEY")
    assert key is not None
    assert (key.secret, key.source) == (CANARY, "OPENROUTER_API_KEY")
    assert find_key("openrouter", "OPENROUTER_API_KEY") == key
    assert CANARY not in without_keys(f"it is {CANARY}")
    monkeypatch.setenv("OPENROUTER_API_KEY", "")
    assert key_in_environment("OPENROUTER_API_KEY") is None


def test_the_settings_own_variable_is_taken_when_they_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAGUNA_API_KEY_ENV", "MY_SERVERS_WORD")
    monkeypatch.setenv("MY_SERVERS_WORD", CANARY)
    assert load(tmp_path, {}) == Settings(api_key_env="MY_SERVERS_WORD")
    assert "MY_SERVERS_WORD" not in os.environ
    assert key_in_environment("MY_SERVERS_WORD") is not None


LOOK = """
import os, subprocess, sys
before = {variables!r}
from laguna_agent import held_keys
held_keys.take_secrets()
print(held_keys.held("OPENROUTER_API_KEY"), held_keys.shown_in_proc(["OPENROUTER_API_KEY", "PATH"]))
print(os.environ.get("LAGUNA_MODEL"), os.getenv("EMPTY_TOKEN"), held_keys.held("ODD_TOKEN") == "a=b=\\xfc")
subprocess.run([sys.executable, "-c", "import os; print(sorted(os.environ))"])
print(os.environ["HTTPS_PROXY"])
print("ready", flush=True)
sys.stdin.read()
"""


@linux
def test_another_process_finds_nothing_in_proc() -> None:
    variables = {
        "OPENROUTER_API_KEY": CANARY,
        "LAGUNA_MODEL": "m/n",
        "EMPTY_TOKEN": "",
        "ODD_TOKEN": "a=b=\xfc",
        "HTTPS_PROXY": "http://me:proxy-canary-01234@p:1",
        "A": "1",
    }
    child = subprocess.Popen(
        [sys.executable, "-c", LOOK.format(variables=variables)],
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    lines = [child.stdout.readline().strip() for _ in range(5)]
    shown = Path(f"/proc/{child.pid}/environ").read_bytes()
    child.stdin.close()
    assert child.wait(20) == 0
    assert lines[0] == f"{CANARY} ['PATH']"
    assert lines[1] == "m/n None True"
    assert "OPENROUTER_API_KEY" not in lines[2]
    assert lines[3] == "http://me:proxy-canary-01234@p:1"
    assert lines[4] == "ready"
    assert b"proxy-canary" not in shown
    assert CANARY.encode() not in shown
    assert b"a=b=" not in shown
    assert b"LAGUNA_MODEL=m/n\0" in shown
    assert b"\0A=1\0" in b"\0" + shown


@linux
@pytest.mark.parametrize("face", [("acp",), ("chat",)])
def test_every_face_hides_its_keys_from_proc(face: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**os.environ, "OPENROUTER_API_KEY": CANARY, "GITHUB_TOKEN": CANARY + "2"}
    face_process = subprocess.Popen(
        [sys.executable, "-m", "laguna_agent", *face],
        env=environment, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        proc = Path(f"/proc/{face_process.pid}/environ")
        deadline = time.monotonic() + 30
        while CANARY.encode() in proc.read_bytes():
            assert time.monotonic() < deadline, "the key is still there"
            time.sleep(0.02)
        assert face_process.poll() is None
    finally:
        face_process.kill()
        face_process.communicate()


def test_taking_costs_little() -> None:
    code = "import sys; from laguna_agent import held_keys; held_keys.take_secrets(); print(sorted(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENROUTER_API_KEY": CANARY},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"ctypes", "json", "base64", "urllib.parse", "msgspec", "pathlib"} & set(shown.stdout.split("'"))
