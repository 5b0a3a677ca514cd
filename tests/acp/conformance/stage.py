"""Where a scenario plays: a home, a workspace and a model server of its own, and the agent behind the recorder.

A scenario runs once in a test session, whoever asks first, also among xdist workers; what it recorded is shared.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.acp.conformance import recorder
from tests.acp.conformance.recording import Entry, load
from tests.acp.node import ACPX, FOLDER, NODE, NODE_FOLDER, install
from tests.model_server import ModelServer

PATIENCE = 90.0


@dataclass(frozen=True)
class Stage:
    """One scenario's world, in `folder`."""

    folder: Path
    model: ModelServer

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def recordings(self) -> Path:
        return self.folder / "recordings"

    @property
    def environment(self) -> dict[str, str]:
        """The isolated environment of the test that runs, with a home that outlives it."""
        home = self.folder / "home"
        moved = {f"XDG_{name.upper()}_HOME": str(home / name) for name in ("config", "cache", "data", "state")}
        path = f"{NODE_FOLDER}{os.pathsep}{os.environ['PATH']}"
        return os.environ | moved | {"HOME": str(home), "PATH": path} | self.model.env

    @property
    def agent(self) -> list[str]:
        """The agent's command, as clients are told it."""
        command = [sys.executable, recorder.__file__, str(self.recordings)]
        return [*command, sys.executable, "-m", "laguna_agent", "acp"]

    def typescript(self, script: str, **environment: str) -> str:
        """Run a script of tests/acp/ts that drives the agent with the TypeScript SDK; what it printed."""
        install()
        return self._run(
            [str(NODE), str(FOLDER / "conformance.mjs"), script, str(self.workspace), *self.agent], environment
        )

    def acpx(self, *args: str) -> str:
        """Run acpx with the agent; what it printed."""
        install()
        command = [str(NODE), str(ACPX), "--agent", shlex.join(self.agent), "--cwd", str(self.workspace), *args]
        return self._run(command, {})

    def _run(self, command: list[str], environment: dict[str, str]) -> str:
        done = subprocess.run(
            command,
            cwd=self.workspace,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout


Scenario = Callable[[Stage], None]


def play(scenario: Scenario, shared: Path) -> list[list[Entry]]:
    """What the scenario recorded, in the order in which the agents were started."""
    folder = shared / "conformance" / f"{scenario.__module__.rsplit('.', 1)[-1]}-{scenario.__name__}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            for name in ("workspace", "home", "recordings"):
                shutil.rmtree(folder / name, ignore_errors=True)
                (folder / name).mkdir()
            model = ModelServer()
            try:
                scenario(Stage(folder, model))
            finally:
                model.close()
            (folder / "done").touch()
    return [load(path) for path in sorted((folder / "recordings").iterdir())]
