"""The agents that `acp.py` measures: how each is found or installed, and how it is pointed at the instant model.

- laguna-agent: this checkout.
- vibe-acp (PyPI mistral-vibe 3.0.2, Python 3.12 or newer): a generic OpenAI-compatible provider; telemetry and the
  check for updates off.
- claude-agent-acp (npm, 0.100.0, Node 22): ANTHROPIC_BASE_URL and a key that is none; its own switch for what is not
  essential traffic on.
- codex-acp (npm, 2.6.0): a custom provider that speaks the responses interface and wants no login; analytics and the
  check for updates off.

`LAGUNA_BENCH_VIBE_ACP`, `LAGUNA_BENCH_CLAUDE_AGENT_ACP` and `LAGUNA_BENCH_CODEX_ACP` name executables; else they are
installed with pip and npm into the cache directory (`peers.py`), Node 22 with the npm package `node`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arms import REPOSITORY
from instant_model import CONTEXT, MODEL
from peers import PeerError, cache_directory
from startup import laguna_agent

VIBE = "mistral-vibe==3.0.2"
CLAUDE = "@agentclientprotocol/claude-agent-acp@0.100.0"
CODEX = "@agentclientprotocol/codex-acp@2.6.0"
NODE = "node@22"

Environment = dict[str, str]


@dataclass(frozen=True)
class Agent:
    """One agent: `configure` writes what it needs below a home directory, for the model at a URL, and returns what
    its environment has besides PATH and HOME."""

    name: str
    argv: list[str]
    configure: Callable[[Path, str], Environment]


def ours() -> Agent:
    """laguna-agent, installed or from this checkout."""
    return Agent("laguna-agent", [*laguna_agent(), "acp"], configure_ours)


def configure_ours(home: Path, url: str) -> Environment:
    """The provider as settings in the environment."""
    return {"LAGUNA_BASE_URL": f"{url}/v1", "LAGUNA_MODEL": MODEL, "PYTHONPATH": str(REPOSITORY)}


def vibe() -> Agent:
    """vibe-acp; installs it where it is missing, raises PeerError where it cannot be."""
    configured = os.environ.get("LAGUNA_BENCH_VIBE_ACP")
    executable = Path(configured) if configured else cache_directory() / "vibe" / "bin" / "vibe-acp"
    if not executable.exists():
        install_with_pip(VIBE, cache_directory() / "vibe", minor=12)
    return Agent("vibe-acp", [str(executable)], configure_vibe)


def configure_vibe(home: Path, url: str) -> Environment:
    """`VIBE_HOME/config.toml`; a JSON string is a TOML string too."""
    folder = home / ".vibe"
    folder.mkdir()
    lines = [
        'active_model = "instant"',
        "enable_telemetry = false",
        "enable_update_checks = false",
        "[[providers]]",
        'name = "bench"',
        f"api_base = {json.dumps(url + '/v1')}",
        'backend = "generic"',
        "[[models]]",
        f"name = {json.dumps(MODEL)}",
        'provider = "bench"',
        'alias = "instant"',
        f"max_context_length = {CONTEXT}",
    ]
    (folder / "config.toml").write_text("\n".join(lines) + "\n")
    return {"VIBE_HOME": str(folder)}


def claude() -> Agent:
    """claude-agent-acp; installs it where it is missing, raises PeerError where it cannot be."""
    return Agent("claude-agent-acp", npm_command("claude-agent-acp", CLAUDE), configure_claude)


def configure_claude(home: Path, url: str) -> Environment:
    """Everything by the environment."""
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": "sk-none",
        "ANTHROPIC_MODEL": MODEL,
        "CLAUDE_CONFIG_DIR": str(home / ".claude"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    }


def codex() -> Agent:
    """codex-acp; installs it where it is missing, raises PeerError where it cannot be."""
    return Agent("codex-acp", npm_command("codex-acp", CODEX), configure_codex)


def configure_codex(home: Path, url: str) -> Environment:
    """`CODEX_HOME/config.toml`."""
    folder = home / ".codex"
    folder.mkdir()
    lines = [
        f"model = {json.dumps(MODEL)}",
        'model_provider = "bench"',
        f"model_context_window = {CONTEXT}",
        "check_for_update_on_startup = false",
        "[analytics]",
        "enabled = false",
        "[model_providers.bench]",
        'name = "bench"',
        f"base_url = {json.dumps(url + '/v1')}",
        'wire_api = "responses"',
        "requires_openai_auth = false",
    ]
    (folder / "config.toml").write_text("\n".join(lines) + "\n")
    return {"CODEX_HOME": str(folder), "MODEL_PROVIDER": "bench"}


AGENTS: dict[str, Callable[[], Agent]] = {
    "laguna-agent": ours,
    "vibe-acp": vibe,
    "claude-agent-acp": claude,
    "codex-acp": codex,
}


def npm_command(name: str, package: str) -> list[str]:
    """The command of an npm package, under the Node 22 that is installed beside it."""
    if configured := os.environ.get(f"LAGUNA_BENCH_{name.upper().replace('-', '_')}"):
        return [configured]
    folder = cache_directory() / name
    script, node = (folder / "node_modules" / ".bin" / each for each in (name, "node"))
    if not (script.exists() and node.exists()):
        npm = shutil.which("npm")
        if npm is None:
            raise PeerError(f"{name} needs npm (Node.js 20 or newer) on the PATH to be installed")
        folder.mkdir(parents=True, exist_ok=True)
        installed([npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), package, NODE])
    return [str(node), str(script)]


def install_with_pip(package: str, folder: Path, minor: int) -> None:
    """A virtual environment of its own in `folder`, made with a Python 3 of at least that minor version."""
    names = [sys.executable, *(f"python3.{number}" for number in range(minor, minor + 4))]
    asked = f"import sys, venv; sys.exit(sys.version_info < (3, {minor}))"
    found = [name for name in names if shutil.which(name)]
    fitting = (n for n in found if subprocess.run([n, "-c", asked], capture_output=True, check=False).returncode == 0)
    python = next(fitting, None)
    if python is None:
        raise PeerError(f"{package} needs Python 3.{minor} or newer on the PATH")
    installed([python, "-m", "venv", str(folder)])
    installed([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", package])


def installed(command: list[str]) -> None:
    """Run a command that installs something; raises PeerError with the end of what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise PeerError(f"{' '.join(command[:4])} ... failed: {said[-1] if said else done.returncode}")
