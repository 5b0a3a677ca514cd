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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.acp.conformance import recorder
from tests.acp.conformance.recording import Entry, load
from tests.acp.node import ACPX, FOLDER, NODE, NODE_FOLDER, install
from tests.model_server import MODEL, ModelServer

PATIENCE = 90.0
# A server that names the window and the price: only then is there something to say of usage.
MODEL_WITH_PRICE = {
    "id": MODEL,
    "object": "model",
    "context_length": 32768,
    "pricing": {"prompt": "0.000001", "completion": "0.000002"},
}


@dataclass(frozen=True)
class Stage:
    """One scenario's world, in `folder`."""

    folder: Path
    model: ModelServer
    extra: Mapping[str, str] = field(default_factory=dict)

    def having(self, **variables: str) -> Stage:
        """The same stage with more in the environment."""
        return replace(self, extra={**self.extra, **variables})

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
        # Only without a sandbox commands run in the client's terminals.
        moved["LAGUNA_SANDBOX"] = "none"
        return os.environ | moved | {"HOME": str(home), "PATH": path} | self.model.env | dict(self.extra)

    @property
    def agent(self) -> list[str]:
        """The agent's command, as clients are told it."""
        command = [sys.executable, recorder.__file__, str(self.recordings)]
        return [*command, sys.executable, "-m", "laguna_agent", "acp"]

    def typescript(self, script: str) -> None:
        """Play a scenario of tests/acp/ts/conformance.mjs, where the TypeScript SDK drives the agent."""
        install()
        self.run([NODE, FOLDER / "conformance.mjs", script, self.workspace, *self.agent])

    def acpx_command(self, *args: str) -> list[str | Path]:
        """acpx with the agent."""
        install()
        return [NODE, ACPX, "--agent", shlex.join(self.agent), "--cwd", self.workspace, *args]

    def run(self, command: Sequence[str | Path]) -> str:
        """Run a client to its end, which must be good; what it printed."""
        done = subprocess.run(
            command,
            cwd=self.workspace,
            env=self.environment,
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
            model.models = [MODEL_WITH_PRICE]
            try:
                scenario(Stage(folder, model))
                wait_for_agents(folder / "recordings")
            finally:
                model.close()
            (folder / "done").touch()
    return [load(path) for path in sorted((folder / "recordings").iterdir())]


def wait_for_agents(recordings: Path) -> None:
    """Wait until each agent has ended: a client may leave before its agent does."""
    deadline = time.monotonic() + PATIENCE
    while not all("exit" in path.read_text().splitlines()[-1] for path in recordings.iterdir()):
        assert time.monotonic() < deadline, f"an agent outlives its client: {list(recordings.iterdir())}"
        time.sleep(0.05)
