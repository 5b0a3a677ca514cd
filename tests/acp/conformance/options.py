"""Modes and configuration options: https://agentclientprotocol.com/protocol/v1/session-config-options"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.acp.conformance.connection import Keeper, update_of
from tests.acp.conformance.recording import Message, dig


@dataclass
class Known:
    """What the client knows of a session."""

    modes: list[str] = field(default_factory=list)
    mode: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    mode_option: str | None = None


class Options(Keeper):
    """The lists are always whole and true."""

    RULES: ClassVar = {
        "options/value": "a select has distinct values and its current value is one of them",
        "options/whole": "each list of options is complete: all that the session had, and no id twice",
        "options/applied": "the answer to set_config_option shows the value that was set",
        "modes/known": "the current mode is one of the available modes, and no other can be set",
        "modes/in-step": "the session mode and the option of the category mode say the same in the end",
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known: dict[str, Known] = {}
        self._last: Message | None = None

    def see(self, message: Message) -> None:
        update = update_of(message)
        if message.sender != "agent":
            return
        self._last = message
        if update is not None:
            self._updated(message, *update)
        elif message.kind == "result" and message.method in {"session/new", "session/load", "session/resume"}:
            name = str(message.get("sessionId") or message.asked("sessionId"))
            known = self._known[name] = Known()
            known.modes = [str(dig(mode, "id")) for mode in message.get("modes", "availableModes") or []]
            self._mode(message, known, message.get("modes", "currentModeId"))
            self._list(message, known, message.get("configOptions"))
        elif message.is_("result", "session/set_config_option"):
            known = self._known.setdefault(str(message.asked("sessionId")), Known())
            self._list(message, known, message.get("configOptions"))
            if known.options.get(str(message.asked("configId"))) != message.asked("value"):
                self.fault("options/applied", message, f"{message.asked('configId')} is {known.options}")
        elif message.is_("result", "session/set_mode"):
            self._mode(
                message, self._known.setdefault(str(message.asked("sessionId")), Known()), message.asked("modeId")
            )

    def _updated(self, message: Message, variant: str, update: dict[str, Any]) -> None:
        known = self._known.setdefault(str(message.get("sessionId")), Known())
        if variant == "current_mode_update":
            self._mode(message, known, update.get("currentModeId"))
        elif variant == "config_option_update":
            self._list(message, known, update.get("configOptions"))

    def _mode(self, message: Message, known: Known, mode: Any) -> None:
        if mode is None and not known.modes:
            return
        if mode not in known.modes:
            self.fault("modes/known", message, f"{mode!r} is none of {known.modes}")
        known.mode = mode

    def _list(self, message: Message, known: Known, options: Any) -> None:
        listed: dict[str, Any] = {}
        for option in options or []:
            id = str(option.get("id"))
            if id in listed:
                self.fault("options/whole", message, f"{id} is there twice")
            listed[id] = option.get("currentValue")
            if option.get("category") == "mode":
                known.mode_option = option.get("currentValue")
            if option.get("type") == "select":
                values = list(values_of(option))
                if option.get("currentValue") not in values or len(set(values)) < len(values):
                    self.fault("options/value", message, f"{id}: {option.get('currentValue')!r} of {values}")
        if known.options.keys() - listed.keys():
            self.fault("options/whole", message, f"left out: {known.options.keys() - listed.keys()}")
        known.options = listed

    def end(self) -> None:
        for name, known in self._known.items():
            if self._last and None not in {known.mode, known.mode_option} and known.mode != known.mode_option:
                text = f"{name}: the mode is {known.mode}, the option says {known.mode_option}"
                self.fault("modes/in-step", self._last, text)


def values_of(option: dict[str, Any]) -> Iterator[str]:
    """The values of a select, flat or grouped."""
    for item in option.get("options") or []:
        if "group" in item:
            yield from (str(inner.get("value")) for inner in item.get("options") or [])
        else:
            yield str(item.get("value"))
