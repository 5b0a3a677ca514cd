"""Writing the model into the person's own configuration, without touching anything else that they wrote there."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from laguna_agent.atomic import replace_file
from laguna_agent.config import user_file
from laguna_agent.errors import ConfigError


def add_model(model: str) -> Path:
    """Add the line that sets the model; the file it went to. Raises ConfigError, which names the line, wherever the
    file would not say exactly the same and one thing more."""
    path, line = user_file(), f"model = {json.dumps(model, ensure_ascii=False)}"
    try:
        old = path.read_bytes().decode() if path.exists() else ""
        new = _with_line(old, line)
        if tomllib.loads(new) != {"model": model, **_without_bom(old)} or "model" in _without_bom(old):
            raise ValueError("the line would change what it says")
        replace_file(path, new.encode())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{path} is left as it is ({reason}); add this line to it: {line}") from error
    return path


def _with_line(text: str, line: str) -> str:
    """`text` with a line at its end, or before its first table: a key behind a table's head belongs to the table."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    at = next((number for number, each in enumerate(lines) if each.lstrip().startswith("[")), len(lines))
    if at and not lines[at - 1].endswith("\n"):
        lines[at - 1] += end
    return "".join([*lines[:at], line + end, *lines[at:]])


def _without_bom(text: str) -> dict[str, object]:
    return tomllib.loads(text.removeprefix("\ufeff"))
