"""The theme that a chat begins with: the setting, or what /theme was told last, kept in the program's own state."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from laguna_agent.atomic import replace_file
from laguna_agent.config import Settings
from laguna_agent.directories import private_directory, state_directory
from laguna_agent.errors import UsageError
from laguna_agent.terminal.theme import Theme, theme_named

AUTO = "auto"
LONGEST_NAME = 100


def first_theme(settings: Settings) -> Theme:
    """The theme to begin with."""
    if settings.theme == AUTO:
        # A name that is no theme any more, or a file that cannot be read, is as none.
        with suppress(OSError, UnicodeDecodeError, UsageError), _path().open(encoding="utf-8") as file:
            return theme_named(file.read(LONGEST_NAME).strip())
    return theme_named(settings.theme)


def keep(name: str) -> str | None:
    """Have later chats begin with it; what went wrong in a line, None where nothing did."""
    try:
        private_directory(_path().parent)
        replace_file(_path(), name.encode())
    except OSError as error:
        return f"the theme is not remembered: {error.strerror}"
    return None


def _path() -> Path:
    return state_directory() / "theme"
