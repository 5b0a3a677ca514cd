"""One agent on one bug: a fresh copy, a wall limit, the tests put back, the check that counts.

Knows how a run is isolated and judged. Knows no agent (an Arm gives the command) and no table.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from arms import REPOSITORY, Arm, Job
from counting_proxy import CountingProxy, write_exchanges
from model_server import ALIAS

CHECK_LIMIT = 60.0


@dataclass(frozen=True)
class Bug:
    """A folder of the corpus (`bugs/README.md`)."""

    folder: Path
    id: str
    prompt: str
    check: str
    kind: str
    split: str

    @classmethod
    def load(cls, folder: Path) -> Bug:
        """Read `folder/bug.json`."""
        record = json.loads((folder / "bug.json").read_text(encoding="utf-8"))
        return cls(folder, *(record[key] for key in ("id", "prompt", "check", "kind", "split")))

    @property
    def modules(self) -> list[str]:
        """The project's modules, tests apart."""
        return sorted(path.name for path in (self.folder / "reference").glob("*.py"))


@dataclass(frozen=True)
class Result:
    """What one run came to. Tokens are the server's counts; `seconds` is the agent's wall time, its start included."""

    arm: str
    bug: str
    kind: str
    split: str
    fixed: bool
    changed: bool
    exit_code: int | None
    timed_out: bool
    seconds: float
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


def load_bugs(corpus: Path) -> list[Bug]:
    """Every bug, single-file ones first."""
    bugs = [Bug.load(path.parent) for path in sorted(corpus.glob("*/*/bug.json"))]
    return sorted(bugs, key=lambda bug: (bug.kind, bug.split, bug.id))


def run_bug(arm: Arm, bug: Bug, proxy: CountingProxy, limit: float, logs: Path) -> Result:
    """Let the arm work on a fresh copy of the bug for at most `limit` seconds, then judge it.

    The agent's output, its whole traffic with the model and its own logs go to `logs/ARM/BUG.{out,jsonl,state}`.
    """
    log = logs / arm.name / bug.id
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="laguna-bench-") as name:
        root = Path(name).resolve()
        project, home = root / "project", root / "home"
        shutil.copytree(bug.folder / "project", project)
        home.mkdir()
        job = Job(home, f"{proxy.url}/v1", ALIAS, bug.prompt, bug.check, bug.modules)
        environment = _environment(root, home)
        _commit(project, environment)
        proxy.take()
        started = time.monotonic()
        exit_code = _run(arm.command(job), project, environment, limit, log.with_suffix(".out"))
        seconds = time.monotonic() - started
        exchanges = proxy.take()
        write_exchanges(exchanges, log.with_suffix(".jsonl"))
        if (state := home / ".local" / "state").is_dir():
            shutil.copytree(state, log.with_suffix(".state"), dirs_exist_ok=True)
        changed = any(
            not (project / module).exists()
            or (project / module).read_bytes() != (bug.folder / "project" / module).read_bytes()
            for module in bug.modules
        )
        return Result(
            arm=arm.name,
            bug=bug.id,
            kind=bug.kind,
            split=bug.split,
            fixed=judge(bug, project, environment),
            changed=changed,
            exit_code=exit_code,
            timed_out=exit_code is None,
            seconds=round(seconds, 1),
            requests=len(exchanges),
            prompt_tokens=sum(exchange.prompt_tokens for exchange in exchanges),
            cached_tokens=sum(exchange.cached_tokens for exchange in exchanges),
            completion_tokens=sum(exchange.completion_tokens for exchange in exchanges),
        )


def judge(bug: Bug, project: Path, environment: dict[str, str]) -> bool:
    """Whether the check passes on the agent's modules with the tests as they were.

    Only Python modules count, none that the agent named like a test or like the standard library: a run is judged by
    the fix, not by what it did to the check.
    """
    with tempfile.TemporaryDirectory(prefix="laguna-bench-judge-") as name:
        clean = Path(name)
        for path in project.glob("*.py"):
            if not path.name.startswith("test") and path.stem not in sys.stdlib_module_names and path.is_file():
                shutil.copy(path, clean / path.name)
        for path in (bug.folder / "project").glob("test_*.py"):
            shutil.copy(path, clean / path.name)
        try:
            check = subprocess.run(
                shlex.split(bug.check),
                cwd=clean,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=CHECK_LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return check.returncode == 0


def _environment(root: Path, home: Path) -> dict[str, str]:
    """A home of its own for every run, `python` on the PATH, and no bytecode that could outlive an edit."""
    binaries = root / "bin"
    binaries.mkdir()
    python = binaries / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LAGUNA_", "XDG_", "AIDER_", "PI_"))}
    return kept | {
        "HOME": str(home),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PI_CODING_AGENT_DIR": str(home / "pi"),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_COLOR": "1",
    }


def _commit(project: Path, environment: dict[str, str]) -> None:
    """Make the project a git repository with one commit, as a user's would be."""
    name, email = ["config", "user.name", "Bench"], ["config", "user.email", "bench@example.invalid"]
    for command in (["init", "-q"], name, email, ["add", "-A"], ["commit", "-q", "-m", "Start"]):
        subprocess.run(["git", *command], cwd=project, env=environment, check=True)


def _run(argv: list[str], cwd: Path, environment: dict[str, str], limit: float, log: Path) -> int | None:
    """Run to the end or to the limit; returns the exit code, or None after the limit. Leaves no process behind."""
    with log.open("w") as output:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
