"""What a person can choose for a session: https://agentclientprotocol.com/protocol/v1/session-config-options

Modes are the approval modes of the terminal, offered twice as the protocol wants it: as session modes, which it
supersedes, and as the config option of category `mode`. Pure functions over settings; knows no session.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from laguna_agent.acp import schema
from laguna_agent.acp.peer import INVALID_PARAMS, RpcError
from laguna_agent.config import MODES, Approve, Settings

DEFAULT = "default"
MODEL_CAP = 200
"""Models that are offered at most: editors show them in one menu."""
MODE_WORDS: dict[Approve, tuple[str, str]] = {
    "plan": ("Plan", "Only read, then say what should be done"),
    "ask": ("Ask", "Ask before every change and every command"),
    "edits": ("Accept edits", "Change files of the workspace unasked, ask before commands"),
    "all": ("Full auto", "Change files and run commands without asking"),
}
THOUGHT_WORDS = {DEFAULT: "Model's default", "off": "Off", "low": "Low", "medium": "Medium", "high": "High"}


def mode_state(settings: Settings) -> schema.SessionModeState:
    """The session modes, and the one in force."""
    modes = [schema.SessionMode(id=mode, name=MODE_WORDS[mode][0], description=MODE_WORDS[mode][1]) for mode in MODES]
    return schema.SessionModeState(current_mode_id=settings.approve, available_modes=modes)


def config_options(settings: Settings, models: Sequence[str]) -> list[schema.SessionConfigOption]:
    """The complete list of options; `models` are those known to be there, beside the one in force."""
    modes = [option(mode, *MODE_WORDS[mode]) for mode in MODES]
    offered = dict.fromkeys([*([settings.model] if settings.model else []), *models[:MODEL_CAP]])
    default = option(DEFAULT, "Default", "The one that the configuration leads to")
    named = [option(name, name) for name in offered]
    thought = [option(level, name) for level, name in THOUGHT_WORDS.items()]
    return [
        select("mode", "Mode", "mode", settings.approve, modes),
        select("model", "Model", "model", settings.model or DEFAULT, [default, *named]),
        select("thought_level", "Thought", "thought_level", settings.reasoning or DEFAULT, thought),
    ]


def with_mode(settings: Settings, mode: str) -> Settings:
    """The settings in that mode; raises RpcError for an unknown one."""
    if mode not in MODES:
        raise RpcError(INVALID_PARAMS, f"Unknown mode: {mode}; there are {', '.join(MODES)}")
    return msgspec.structs.replace(settings, approve=mode)


def with_option(settings: Settings, config_id: str, value: object) -> Settings:
    """The settings with one option changed; raises RpcError for an unknown option or value."""
    if not isinstance(value, str):
        raise RpcError(INVALID_PARAMS, f"The option {config_id} takes the id of one of its values, not a boolean")
    match config_id:
        case "mode":
            return with_mode(settings, value)
        case "model" if value.strip():
            # Not only what is in the list: a person may know a model that the server does not tell of.
            return msgspec.structs.replace(settings, model=None if value == DEFAULT else value)
        case "thought_level" if value in THOUGHT_WORDS:
            return msgspec.structs.replace(settings, reasoning=None if value == DEFAULT else value)
        case "model" | "thought_level":
            raise RpcError(INVALID_PARAMS, f"The option {config_id} has no value {value!r}")
    raise RpcError(INVALID_PARAMS, f"Unknown option: {config_id}; there are mode, model and thought_level")


def select(
    id: str, name: str, category: str, current: str, options: list[schema.SessionConfigSelectOption]
) -> schema.SessionConfigSelect:
    """A selector."""
    return schema.SessionConfigSelect(id=id, name=name, category=category, current_value=current, options=options)


def option(value: str, name: str, description: str | None = None) -> schema.SessionConfigSelectOption:
    """One value of a selector."""
    return schema.SessionConfigSelectOption(value=value, name=name, description=description)
