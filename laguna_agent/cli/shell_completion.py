"""What bash, zsh and fish are told when Tab is pressed behind `laguna-agent`.

typer asks and answers them; this module adds what it cannot know: that a line without a command is a chat, and which
sessions and models there are. Only what is at hand is listed: no server is asked, no long log is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from laguna_agent.errors import LagunaError

SESSIONS = 20
"""How many sessions are offered, from the newest."""
_PLACES = {"COMP_WORDS": r"(?<=\S)(\s+)(?=-)", "_TYPER_COMPLETE_ARGS": r"(?<=\S)(\s+)(?=-)"}


def say_chat(chat_options: frozenset[str], program_options: tuple[str, ...]) -> None:
    """Write the command that is meant into the words that the shell gave, where they begin with an option of chat."""
    for variable, place in _PLACES.items():
        words = os.environ.get(variable, "")
        first = [*words.split(), "", ""][1]
        begins = first.partition("=")[0]
        if not first.startswith("-") or begins in program_options:
            continue
        if not any(option.startswith(begins) for option in chat_options):
            continue
        os.environ[variable] = re.sub(place, r"\1chat ", words, count=1)
        if variable == "COMP_WORDS" and os.environ.get("COMP_CWORD", "").isdecimal():
            os.environ["COMP_CWORD"] = str(int(os.environ["COMP_CWORD"]) + 1)


def session_ids(incomplete: str) -> list[tuple[str, str]]:
    """Sessions that begin with what was typed, the newest first, with their titles."""
    from laguna_agent.agent.archive import newest_first

    found = (summary for _, summary in newest_first() if summary.id.startswith(incomplete))
    return [(summary.id, _harmless(summary.title)) for summary in islice(found, SESSIONS)]


def model_names(incomplete: str) -> list[str]:
    """Models that the settings, the table of providers and the store know by name."""
    return sorted({name for name in _models() if name.startswith(incomplete)})


def _models() -> Iterator[str]:
    from laguna_agent.backend.providers import PROVIDERS
    from laguna_agent.backend.weights.store import Store
    from laguna_agent.config import load

    try:
        settings = load(Path.cwd(), {})
        yield from (name for name in (settings.model, *settings.fallback_models) if name)
        yield from (f"local/{model.name}" for model in Store().models())
    except (LagunaError, OSError):
        # A shell that completes has nowhere to say what is wrong with a file; the command itself will.
        return
    finally:
        yield from (f"{row.name}/{row.default_model or ''}" for row in PROVIDERS.values())


def _harmless(title: str) -> str:
    """A title that no shell takes for anything but words: zsh evaluates what it is given."""
    return re.sub(r"[^\w .,/+-]", "", title)[:60].strip()
