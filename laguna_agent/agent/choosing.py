"""The choices that a small model makes before it writes: which files, and whether to change them at all.

Such choices are structured, so they are constrained to a JSON Schema where the server can do that, and left out where
it cannot: a small model asked freely for JSON often gives none. What the words of the prompt decide is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

Action = Literal["change", "answer"]

CHOOSE = "choose"
"""The `strategy` of a Said record that asks for a choice."""
CANDIDATES = 40
"""Files that are offered for choice at most."""
CHOSEN = 3
"""Files that may be chosen at most."""
_CHANGES = re.compile(
    r"\b(fix|add|implement|write|change|rename|refactor|remove|delete|make|create|update|replace|correct|extend|convert)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"^\s*(what|why|how|explain|where|which|who|when|is|are|does|do|can|could|should|describe|summari[sz]e|tell)\b",
    re.IGNORECASE,
)


class Choice(msgspec.Struct, frozen=True):
    """What the model chose."""

    action: Action = "change"
    files: tuple[str, ...] = ()


def evident_action(prompt: str) -> Action | None:
    """What the prompt's own words say is wanted; None where they leave it open."""
    asks, changes = bool(_ASKS.match(prompt)) or prompt.rstrip().endswith("?"), bool(_CHANGES.search(prompt))
    if asks == changes:
        return None
    return "answer" if asks else "change"


def question(prompt: str, files: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The message that asks; `files` are paths with the symbols that they define."""
    lines = [f"- {path}: {', '.join(symbols[:12])}".rstrip(": ") for path, symbols in files]
    listing = "\n".join(lines)
    return f"{prompt}\n\nThe files:\n{listing}\n\nChoose the files to look at (at most {CHOSEN}), and what is wanted."


def schema(paths: Sequence[str]) -> dict[str, Any]:
    """What the answer must look like."""
    return {
        "type": "object",
        "properties": {
            "action": {"type": "string", "enum": ["change", "answer"]},
            "files": {"type": "array", "items": {"type": "string", "enum": list(paths)}, "maxItems": CHOSEN},
        },
        "required": ["action", "files"],
        "additionalProperties": False,
    }


def read_choice(answer: str, paths: Sequence[str]) -> Choice | None:
    """The choice in an answer; None where there is none, for a server may ignore the schema."""
    try:
        choice = msgspec.json.decode(answer, type=Choice)
    except msgspec.MsgspecError:
        return None
    return Choice(choice.action, tuple(dict.fromkeys(path for path in choice.files if path in paths)))
