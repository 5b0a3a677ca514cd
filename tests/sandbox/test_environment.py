"""What of the person's environment reaches the commands that a model chose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from laguna_agent import held_keys
from laguna_agent.backend.providers import PROVIDERS
from laguna_agent.credentials import find_key
from laguna_agent.sandbox.environment import (
    OUR_KEYS,
    command_environment,
    confined_environment,
    terminal_environment,
)

CANARY = "sk-canary-0123456789abcdef"
WITHHELD = {
    "agents and sockets": {
        "SSH_AUTH_SOCK": "/tmp/ssh/agent.1",
        "SSH_AGENT_PID": "1",
        "GPG_AGENT_INFO": "/run/gpg",
        "XDG_RUNTIME_DIR": "/run/user/0",
        "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/0/bus",
        "DISPLAY": ":0",
        "WAYLAND_DISPLAY": "wayland-0",
        "DOCKER_HOST": "unix:///run/docker.sock",
        "XAUTHORITY": "/root/.Xauthority",
        "PODMAN_SOCK": "/x",
        "TMUX": "/tmp/tmux",
        "VSCODE_GIT_IPC_HANDLE": "/run/vscode.sock",
        "GNOME_KEYRING_CONTROL": "/run/k",
        "PIP_SOCKET": "/x",
        "LISTEN_FDS": "3",
    },
    "code in every command": {
        "LD_PRELOAD": "/tmp/x.so",
        "LD_AUDIT": "/tmp/x.so",
        "DYLD_INSERT_LIBRARIES": "/tmp/x",
        "BASH_ENV": "/tmp/x",
        "ENV": "/x",
        "PROMPT_COMMAND": "id",
        "PYTHONSTARTUP": "/tmp/x.py",
        "PYTHONINSPECT": "1",
        "PERL5OPT": "-Mx",
        "PERL5DB": "x",
        "RUBYOPT": "-rx",
        "NODE_OPTIONS": "--require /tmp/x.js",
        "JAVA_TOOL_OPTIONS": "-javaagent:x",
        "_JAVA_OPTIONS": "-x",
        "BASH_FUNC_ls%%": "() { id; }",
        "IFS": "x",
        "SHELLOPTS": "xtrace",
        "PS4": "$(id)",
        "LESSOPEN": "|x %s",
    },
    "git": {
        "GIT_DIR": "/x",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.fsmonitor",
        "GIT_CONFIG_VALUE_0": "x",
        "GIT_SSH": "x",
        "GIT_EXTERNAL_DIFF": "x",
        "GIT_CONFIG_GLOBAL": "/x",
        "GIT_ASKPASS": "x",
        "GIT_SSH_COMMAND": "x",
        "GIT_EXEC_PATH": "/x",
    },
    "secrets": {
        "npm_config__authToken": "x",
        "npm_config__auth": "x",
        "NPM_TOKEN": "x",
        "CARGO_REGISTRY_TOKEN": "x",
        "HF_TOKEN": "x",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_PROFILE": "x",
        "KUBECONFIG": "/x",
        "GOAUTH": "x",
        "GOOGLE_APPLICATION_CREDENTIALS": "/x",
        "GOOGLE_CLOUD_PROJECT": "x",
        "UV_INDEX_INTERNAL_PASSWORD": "x",
        "POETRY_PYPI_TOKEN_PYPI": "x",
        "MAVEN_PASSWORD": "x",
        "GRADLE_ENCRYPTION_KEY": "x",
        "TWINE_PASSWORD": "x",
        "PIP_INDEX_URL": "https://me:word@host/simple",
        "UV_INDEX_URL": "https://ghp_word@host/simple",
        "HTTPS_PROXY": "http://me:word@proxy:3128",
        "GOPROXY": "https://me:word@proxy",
        "BUNDLE_GEMS__EXAMPLE__COM": "me:word",
        "OPENROUTER_API_KEY": CANARY,
        "LAGUNA_SERVE_TOKEN": CANARY,
        "CFLAGS": f"-DKEY={CANARY}",
        "DATABASE_URL": "x",
    },
}
PASSED = {
    "HOME": "/home/me", "LC_ALL": "C", "XDG_CACHE_HOME": "/c", "VIRTUAL_ENV": "/v", "PYTHONPATH": "/p", "GOPATH": "/g",
    "GOFLAGS": "-mod=mod", "CARGO_HOME": "/c", "NODE_PATH": "/n", "npm_config_registry": "https://registry.example/",
    "JAVA_HOME": "/j", "MAVEN_OPTS": "-Xmx1g", "CFLAGS": "-O2", "LD_LIBRARY_PATH": "/opt/lib", "HTTPS_PROXY": "http://p:1",
    "PIP_INDEX_URL": "https://host/simple", "GIT_AUTHOR_NAME": "Me", "GIT_COMMITTER_EMAIL": "me@x", "BUNDLE_PATH": "v",
    "CUDA_HOME": "/cuda", "RUSTFLAGS": "-C x", "CI": "1", "SSL_CERT_FILE": "/x", "NVM_DIR": "/n",
}  # fmt: skip


@pytest.fixture(autouse=True)
def our_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", CANARY)
    held_keys.take_secrets()


@pytest.mark.parametrize("kind", WITHHELD)
def test_withheld(kind: str) -> None:
    assert not WITHHELD[kind].keys() & command_environment(WITHHELD[kind]).keys()


def test_passed_on() -> None:
    kept = command_environment(PASSED)
    assert {name: kept.get(name) for name in PASSED} == PASSED


def test_nobody_asks_a_person() -> None:
    kept = command_environment({"TERM": "xterm", "PAGER": "less", "GIT_EDITOR": "vi"})
    assert (kept["TERM"], kept["PAGER"], kept["GIT_EDITOR"], kept["GIT_TERMINAL_PROMPT"]) == (
        "dumb",
        "cat",
        "true",
        "0",
    )
    assert kept["PATH"]


def test_the_person_may_name_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_word")
    held_keys.take_secrets()
    outer = {"MYAPP_ENV": "test", "MYAPP_TOKEN": "hush", "DATABASE_URL": "postgres://localhost/x", "PAGER": "less"}
    assert not {"MYAPP_ENV", "DATABASE_URL", "GITHUB_TOKEN"} & command_environment(outer).keys()
    kept = command_environment(outer, ("MYAPP_*", "DATABASE_URL", "GITHUB_TOKEN", "PAGER"))
    assert kept["MYAPP_ENV"] == "test"
    assert kept["DATABASE_URL"] == "postgres://localhost/x"
    assert kept["PAGER"] == "less"
    # Its name was said, in the person's own file; a glob says nothing of secrets.
    assert kept["GITHUB_TOKEN"] == "ghp_word"
    assert "MYAPP_TOKEN" not in kept
    assert command_environment(outer, ("MYAPP_TOKEN",))["MYAPP_TOKEN"] == "hush"


def test_our_keys_reach_no_command_whatever_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {row.key_env for row in PROVIDERS.values()} == OUR_KEYS
    monkeypatch.setenv("MY_SERVERS_WORD", "word-of-mine-0123456789")
    assert find_key("mine", "MY_SERVERS_WORD") is not None
    named = ("*", "OPENROUTER_API_KEY", "POOLSIDE_API_KEY", "MY_SERVERS_WORD", "LAGUNA_SERVE_TOKEN", "COPY")
    outer = {"POOLSIDE_API_KEY": "x", "LAGUNA_SERVE_TOKEN": "y", "COPY": "word-of-mine-0123456789"}
    kept = command_environment(outer, named)
    assert not {*OUR_KEYS, "MY_SERVERS_WORD", "LAGUNA_SERVE_TOKEN", "COPY"} & kept.keys()
    assert CANARY not in str(kept)


def test_an_editors_terminal_gets_nothing_in_the_place_of_secrets() -> None:
    made = terminal_environment({"GITHUB_TOKEN": "x", "PIP_INDEX_URL": "https://me:word@host", "HOME": "/h"})
    assert made["GITHUB_TOKEN"] == made["PIP_INDEX_URL"] == made["OPENROUTER_API_KEY"] == ""
    assert "HOME" not in made


def test_caches_lie_where_a_confined_command_may_write() -> None:
    made = confined_environment({"HOME": "/home/me", "GOCACHE": "/big/go"}, Path("/tmp"))
    assert made["TMPDIR"] == "/tmp"
    assert made["PIP_CACHE_DIR"] == "/tmp/cache/pip_cache_dir"
    assert all(value == "/tmp" or value.startswith("/tmp/cache/") for value in made.values())
    # Modules and models that are there already are read from where they are.
    assert not {"XDG_CACHE_HOME", "GOMODCACHE", "CARGO_HOME", "HF_HOME", "HOME"} & made.keys()
    open_ = (Path("/home/me/.cache"), Path("/big"))
    kept = confined_environment({"HOME": "/home/me", "GOCACHE": "/big/go", "UV_CACHE_DIR": "/x"}, Path("/t"), open_)
    assert not {"GOCACHE", "PIP_CACHE_DIR"} & kept.keys()
    assert kept["UV_CACHE_DIR"] == "/t/cache/uv_cache_dir"


def test_the_program_s_own_environment_holds_no_key() -> None:
    assert CANARY not in str(dict(os.environ))
