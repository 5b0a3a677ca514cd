"""Golden data that lies beside the repository, in LAGUNA_SHARED (default: ../shared); without it a test is skipped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("LAGUNA_SHARED", Path(__file__).parents[2].parent / "shared"))


def chat_renders() -> list[dict[str, Any]]:
    """Every entry of chat/chat_renders.json."""
    path = SHARED / "golden" / "chat" / "chat_renders.json"
    if not path.is_file():
        pytest.skip(f"there is no {path}; set LAGUNA_SHARED to the folder that holds golden/")
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found
