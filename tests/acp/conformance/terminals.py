"""Terminals of the client: https://agentclientprotocol.com/protocol/v1/terminals"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.acp.conformance.connection import Keeper, update_of
from tests.acp.conformance.recording import Message, dig


class Terminals(Keeper):
    """From create to release."""

    RULES: ClassVar = {
        "terminal/released": "each terminal that was created is released",
        "terminal/live": "a terminal is used, and shown in a call, only between its creation and its release",
        "terminal/replay": "a replay names no terminal",
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._live: dict[str, tuple[str, Message]] = {}

    def see(self, message: Message) -> None:
        name = message.get("terminalId")
        if message.is_("result", "terminal/create") and isinstance(name, str):
            self._live[name] = (str(message.asked("sessionId")), message)
        elif message.kind == "request" and message.method.startswith("terminal/") and name is not None:
            self._must_live(message, name)
            if message.method == "terminal/release":
                self._live.pop(name, None)
        update = update_of(message)
        for part in (update[1].get("content") or []) if update and update[0].startswith("tool_call") else []:
            if dig(part, "type") == "terminal":
                session = self.connection.session_of(message)
                if session is not None and session.loading:
                    self.fault("terminal/replay", message, f"{part.get('terminalId')} in a replay")
                self._must_live(message, part.get("terminalId"))

    def _must_live(self, message: Message, name: Any) -> None:
        if name not in self._live or self._live[name][0] != message.get("sessionId"):
            self.fault("terminal/live", message, f"{name} is no terminal of this session, or was released")

    def end(self) -> None:
        for name, (_, created) in self._live.items() if self.connection.heard else ():
            request = created.request
            assert request is not None
            self.fault("terminal/released", request, f"{name} was never released")
