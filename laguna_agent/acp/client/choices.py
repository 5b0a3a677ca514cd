"""What a foreign agent lets the person choose: https://agentclientprotocol.com/protocol/v1/session-config-options

An agent offers modes, options, or modes as an option of that category; older ones offer their models apart. Here they
are one thing. Every option is read by itself, so one that this program cannot show hides no other.
"""

from __future__ import annotations

from typing import Any

import msgspec

from laguna_agent.acp import schema
from laguna_agent.acp.decoding import decode


class Choice(msgspec.Struct, frozen=True):
    """One value that can be chosen."""

    id: str
    name: str
    description: str = ""


class Option(msgspec.Struct, frozen=True):
    """One thing to choose. `category` is mode, model, thought_level or another word of the agent's; `current` the id of
    the value in force. One of no `values` is on or off, and `current` is a boolean."""

    id: str
    name: str
    current: str | bool
    values: tuple[Choice, ...] = ()
    category: str = ""
    description: str = ""


class OlderModel(schema.Wire, frozen=True):
    """A model as agents told of it before there were options."""

    model_id: str
    name: str = ""


class OlderModels(schema.Wire, frozen=True):
    """The models, and the one in force."""

    current_model_id: str
    available_models: list[OlderModel]


class Offered(schema.Wire, frozen=True):
    """What the answers that open a session, and those to a choice, have in common. `config_options` are read one by
    one, see `options_of`."""

    session_id: str = ""
    modes: schema.SessionModeState | None = None
    config_options: list[Any] | None = None
    models: OlderModels | None = None


class OptionsTold(schema.Wire, frozen=True, tag_field="sessionUpdate", tag="config_option_update"):
    """The update of that name, with options that are read one by one."""

    config_options: list[Any]


class Choices:
    """The modes and options as the agent told of them last."""

    def __init__(self) -> None:
        self.options: tuple[Option, ...] = ()
        self._modes: tuple[Choice, ...] = ()
        self._mode = ""
        self._model = ""

    def take(self, offered: Offered) -> None:
        """Take over what an answer tells; what it does not mention stays."""
        if offered.modes is not None:
            self._mode = offered.modes.current_mode_id
            self._modes = tuple(
                Choice(each.id, each.name, each.description or "") for each in offered.modes.available_modes
            )
        if offered.config_options is not None:
            self.options = options_of(offered.config_options)
        if offered.models is not None:
            current = offered.models.current_model_id
            names = {each.model_id: each.name for each in offered.models.available_models}
            self._model = names.get(current) or current

    def take_mode(self, mode: str) -> None:
        """The agent is in another mode."""
        self._mode = mode

    def option(self, category: str) -> Option | None:
        """The first option of a category."""
        return next((each for each in self.options if each.category == category), None)

    @property
    def own_modes(self) -> bool:
        """Whether there are modes apart from the options."""
        return bool(self._modes)

    @property
    def modes(self) -> tuple[Choice, ...]:
        """The modes that can be chosen."""
        option = self.option("mode")
        return self._modes or (option.values if option else ())

    @property
    def mode(self) -> str:
        """The id of the mode in force; "" where there are none."""
        option = self.option("mode")
        return self._mode or (str(option.current) if option else "")

    @property
    def model(self) -> str:
        """The name of the model in force; "" where the agent does not tell."""
        option = self.option("model")
        if option is None:
            return self._model
        return next((each.name for each in option.values if each.id == option.current), str(option.current))


def options_of(told: list[Any]) -> tuple[Option, ...]:
    """The options that can be shown."""
    return tuple(option for each in told if (option := _option(each)) is not None)


def _option(told: Any) -> Option | None:
    if not isinstance(told, dict):
        return None
    try:
        if told.get("type") == "boolean":
            switch = decode(told, schema.SessionConfigBoolean)
            return Option(switch.id, switch.name, switch.current_value, (), *_about(switch))
        select = decode({**told, "options": _flat(told.get("options"))}, schema.SessionConfigSelect)
    except msgspec.ValidationError:
        return None
    values = tuple(Choice(each.value, each.name, each.description or "") for each in select.options)
    return Option(select.id, select.name, select.current_value, values, *_about(select))


def _about(told: schema.SessionConfigBoolean | schema.SessionConfigSelect) -> tuple[str, str]:
    return told.category or "", told.description or ""


def _flat(options: Any) -> Any:
    """The values of an option, those in groups among the others."""
    if not isinstance(options, list):
        return options
    flat: list[Any] = []
    for each in options:
        group = each.get("options") if isinstance(each, dict) else None
        flat += group if isinstance(group, list) else [each]
    return flat
