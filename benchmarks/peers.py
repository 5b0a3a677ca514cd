"""The peers pi and aider: how they are found or installed, and their best known setup for a small local model.

Both get what ours gets: the same report, the check command, a git repository, the same server, model, context (16k) and
temperature (0, the server's default). Each runs in two arms: under its own name it gets what ours gets and finds the
files itself; as `pi-files` and `aider-files` a person hands it every module to look at, in the two-file bugs too, which
ours has to find. (aider's users work like that.)

- pi 0.74.2: print mode, its default tools and prompt, a custom OpenAI-compatible provider that says what the server
  is (no developer role, no reasoning effort, 16k context), a compaction reserve that fits 16k. The check is named in
  the prompt. Files are handed over as `@FILE`.
- aider 0.86.2: the `whole` edit format (its own default for small models, the best measured here), `--test-cmd` with
  `--auto-test`, so that up to three failing checks go back to the model, every question answered yes (so files that
  the report or the model names join the chat). The repository map is on unless all files are in the chat anyway.

Where they come from: `LAGUNA_BENCH_PI` and `LAGUNA_BENCH_AIDER` name the executables; else they are installed with npm
and pip into the cache directory.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PI = "@earendil-works/pi-coding-agent@0.74.2"
AIDER = "aider-chat==0.86.2"


class PeerError(Exception):
    """A peer cannot be installed here; the text says what is missing."""


def cache_directory() -> Path:
    """Where the peers are installed: `$XDG_CACHE_HOME` or `~/.cache`, below `laguna-agent/benchmarks`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "laguna-agent" / "benchmarks"


def find_pi(install: bool = True) -> Path | None:
    """The `pi` executable; installs it where it is missing, or returns None without `install`."""
    if configured := os.environ.get("LAGUNA_BENCH_PI"):
        return Path(configured)
    folder = cache_directory() / "pi"
    executable = folder / "node_modules" / ".bin" / "pi"
    if not executable.exists():
        if not install:
            return None
        npm = shutil.which("npm")
        if npm is None:
            raise PeerError("pi needs npm (Node.js 20 or newer) on the PATH, or LAGUNA_BENCH_PI=/path/to/pi")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([npm, "install", "--no-audit", "--no-fund", "--prefix", folder, PI], check=True)
    return executable


def find_aider(install: bool = True) -> Path | None:
    """The `aider` executable; installs it where it is missing, or returns None without `install`."""
    if configured := os.environ.get("LAGUNA_BENCH_AIDER"):
        return Path(configured)
    folder = cache_directory() / "aider"
    executable = folder / "bin" / "aider"
    if not executable.exists():
        if not install:
            return None
        if sys.version_info >= (3, 13):
            raise PeerError("aider 0.86.2 needs Python 3.12 or older, or LAGUNA_BENCH_AIDER=/path/to/aider")
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", AIDER], check=True)
    return executable


def pi_command(executable: Path, home: Path, base_url: str, model: str, prompt: str, files: list[str]) -> list[str]:
    """Write pi's configuration below `home/pi` (its PI_CODING_AGENT_DIR) and return the command line."""
    settings = {
        "compaction": {"enabled": True, "reserveTokens": 2048, "keepRecentTokens": 4096},
        "enableInstallTelemetry": False,
        "quietStartup": True,
    }
    provider = {
        "baseUrl": base_url,
        "api": "openai-completions",
        "apiKey": "none",
        "compat": {
            "supportsDeveloperRole": False,
            "supportsReasoningEffort": False,
            "supportsStore": False,
            "maxTokensField": "max_tokens",
        },
        "models": [{"id": model, "reasoning": False, "input": ["text"], "contextWindow": 16384, "maxTokens": 1024}],
    }
    folder = home / "pi"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "models.json").write_text(json.dumps({"providers": {"bench": provider}}))
    options = ["--provider", "bench", "--model", model, "--no-session", "--offline", "--print"]
    return [str(executable), *options, *(f"@{file}" for file in files), prompt]


def aider_command(
    executable: Path, home: Path, base_url: str, model: str, prompt: str, files: list[str], check: str
) -> list[str]:
    """Write aider's model settings below `home` and return the command line."""
    name = f"openai/{model}"
    settings = [{"name": name, "edit_format": "whole", "use_repo_map": not files, "use_temperature": True}]
    limits = {
        "max_tokens": 1024,
        "max_output_tokens": 1024,
        "max_input_tokens": 15360,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    settings_file, limits_file = home / "aider-settings.yml", home / "aider-limits.json"
    settings_file.write_text(json.dumps(settings))
    limits_file.write_text(json.dumps({name: limits}))
    command = [str(executable), "--model", name, "--openai-api-base", base_url, "--openai-api-key", "none"]
    command += ["--model-settings-file", str(settings_file), "--model-metadata-file", str(limits_file)]
    command += ["--edit-format", "whole", "--map-tokens", "0" if files else "1024", "--yes-always"]
    command += ["--no-auto-commits", "--no-dirty-commits", "--no-gitignore"]
    command += ["--test-cmd", check, "--auto-test", "--no-show-model-warnings", "--no-check-update"]
    command += ["--analytics-disable", "--no-show-release-notes", "--no-pretty", "--no-fancy-input"]
    command += ["--no-suggest-shell-commands", "--no-detect-urls"]
    return [*command, "--message", prompt, *files]
