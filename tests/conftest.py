"""What every test stands on: an environment of its own, a scripted model server, and the real program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pexpect
import pytest
from hypothesis import HealthCheck, settings

from laguna_agent import credentials, held_keys, redaction
from laguna_agent.sandbox.tiers import prove
from tests.model_server import ModelServer

ROOT = Path(__file__).resolve().parent.parent

# The machine may be busy and the runs must repeat: no deadlines, no random examples.
settings.register_profile(
    "laguna",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("laguna")

FOREIGN = (
    "LAGUNA_",
    "OPENROUTER",
    "POOLSIDE",
    "OLLAMA",
    "OPENAI",
    "LLAMA_",
    "VLLM_",
    "HF_",
    "HUGGING_FACE",
    "GIT_",
    "XDG_",
)
FOREIGN_NAMES = {
    "PYTHONDONTWRITEBYTECODE",
    "FORCE_COLOR",
    "NO_COLOR",
    "PY_COLORS",
    "GITHUB_ACTIONS",
    "COLUMNS",
    "LINES",
    "SSL_CERT_FILE",
    "PAGER",
    "EDITOR",
}


# A shell starts background jobs with SIGINT ignored, nohup does so with SIGHUP; children inherit that, and the program
# rightly keeps it so.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the developer's home, keys, proxies or git configuration, nor what another one's keys were."""
    held_keys.let_go()
    redaction.forget_all()
    credentials.forget_all()
    for name in list(os.environ):
        if name.upper().startswith(FOREIGN) or name.upper().endswith("_PROXY") or name in FOREIGN_NAMES:
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    (home / "gitconfig").write_text("[init]\n\tdefaultBranch = main\n[commit]\n\tgpgsign = false\n")
    monkeypatch.setenv("HOME", str(home))
    for name, folder in (("CONFIG", "config"), ("CACHE", "cache"), ("DATA", "data"), ("STATE", "state")):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.invalid")
    if _without_a_sandbox(home / "state" / "laguna-agent" / "sandbox"):
        monkeypatch.setenv("LAGUNA_SANDBOX", "none")


_proof: dict[str, bytes] = {}


def _without_a_sandbox(folder: Path) -> bool:
    """Whether nothing confines commands on this machine, which `tests/sandbox` says. What the sandbox proved once in
    this process is put into `folder`, for each test has a home of its own, and would try it again."""
    if not _proof:
        tier = prove("auto").tier
        _proof.update({path.name: path.read_bytes() for path in folder.glob("proof-*.json")} or {tier: b""})
    elif "none" not in _proof:
        folder.mkdir(parents=True, mode=0o700)
        for name, verdict in _proof.items():
            (folder / name).write_bytes(verdict)
            (folder / name).chmod(0o600)
    return "none" in _proof


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """A scripted model server on loopback."""
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty folder, where `run_cli` and `start_cli` start unless told otherwise."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


class RunCli(Protocol):
    """`laguna-agent ARGS`, run to its end; `env` comes on top of the isolated environment."""

    def __call__(
        self,
        *args: str | Path,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]: ...


class StartCli(Protocol):
    """`laguna-agent ARGS`, left running in a process group of its own with pipes for all three streams."""

    def __call__(
        self, *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, **popen: Any
    ) -> subprocess.Popen[str]: ...


class Terminal(Protocol):
    """`laguna-agent ARGS` on a pseudo-terminal; `env` comes on top of the isolated environment."""

    def __call__(self, *arguments: str, **env: str) -> pexpect.spawn[str]: ...


def _command(args: tuple[str | Path, ...]) -> list[str]:
    return [sys.executable, "-m", "laguna_agent", *map(str, args)]


@pytest.fixture
def run_cli(workspace: Path) -> RunCli:
    """Runs the real program as a subprocess. With `stdin` None its standard input is empty."""

    def run(
        *args: str | Path,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            _command(args),
            input=stdin or "",
            env={**os.environ, **(env or {})},
            cwd=cwd or workspace,
            timeout=timeout,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )

    return run


@pytest.fixture
def start_cli(workspace: Path) -> Iterator[StartCli]:
    """Starts the real program; whatever of it still runs at the end of the test is killed with its group."""
    started: list[subprocess.Popen[str]] = []

    def start(
        *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None, **popen: Any
    ) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            _command(args),
            env={**os.environ, **(env or {})},
            cwd=cwd or workspace,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
            **(pipes | popen),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


@pytest.fixture
def terminal(workspace: Path) -> Iterator[Terminal]:
    """Starts the program on a pseudo-terminal of 40 lines and 160 columns; at the end of the test it is killed. Chats
    are plain: what an interactive one shows is seen through the emulator of `tests/terminal`."""
    started: list[pexpect.spawn[str]] = []

    def start(*arguments: str, **env: str) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "laguna_agent", *arguments],
            cwd=str(workspace),
            env={**os.environ, "TERM": "xterm", "LAGUNA_PLAIN": "true", **env},  # type: ignore[arg-type]
            encoding="utf-8",
            timeout=30,
            dimensions=(40, 160),
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)
