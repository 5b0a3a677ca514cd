"""Where the program keeps its own files (XDG base directories); nothing of it ever lies in a workspace.

config  user configuration      $XDG_CONFIG_HOME/laguna-agent   (~/.config/laguna-agent)
state   session logs, crash log $XDG_STATE_HOME/laguna-agent    (~/.local/state/laguna-agent)
data    model weights           $XDG_DATA_HOME/laguna-agent     (~/.local/share/laguna-agent)
cache   whatever may be lost    $XDG_CACHE_HOME/laguna-agent    (~/.cache/laguna-agent)
"""

from __future__ import annotations

import os
from pathlib import Path


def _directory(variable: str, fallback: str) -> Path:
    base = os.environ.get(variable, "")
    # The XDG specification: a relative path in the variable is invalid and must be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / fallback
    return root / "laguna-agent"


def config_directory() -> Path:
    """User configuration; holds `config.toml`."""
    return _directory("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path:
    """Session logs and the crash log."""
    return _directory("XDG_STATE_HOME", ".local/state")


def data_directory() -> Path:
    """Model weights."""
    return _directory("XDG_DATA_HOME", ".local/share")


def cache_directory() -> Path:
    """Spooled command output, server logs, and packed models."""
    return _directory("XDG_CACHE_HOME", ".cache")
