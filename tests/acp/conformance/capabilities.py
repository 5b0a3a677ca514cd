"""Nobody uses what the other side did not offer: https://agentclientprotocol.com/protocol/v1/initialization"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.acp.conformance.connection import Keeper, update_of
from tests.acp.conformance.recording import METHOD_NOT_FOUND, Message, dig, methods

CLIENT_METHODS = {
    "fs/read_text_file": ("fs", "readTextFile"),
    "fs/write_text_file": ("fs", "writeTextFile"),
    "terminal/create": ("terminal",),
    "terminal/output": ("terminal",),
    "terminal/wait_for_exit": ("terminal",),
    "terminal/kill": ("terminal",),
    "terminal/release": ("terminal",),
    "elicitation/create": ("elicitation",),
}
CLIENT_UPDATES = {
    "notice": ("session", "notices"),
    "compaction_update": ("session", "compaction"),
    "compaction_summary_chunk": ("session", "compaction"),
}
AGENT_METHODS = {
    "session/load": ("loadSession",),
    "session/list": ("sessionCapabilities", "list"),
    "session/resume": ("sessionCapabilities", "resume"),
    "session/close": ("sessionCapabilities", "close"),
    "session/delete": ("sessionCapabilities", "delete"),
    "logout": ("auth", "logout"),
}
ALWAYS = {"initialize", "authenticate", "session/new", "session/prompt"}
PROMPT_BLOCKS = {"image": "image", "audio": "audio", "resource": "embeddedContext"}
AUTH_REQUIRED = -32000


class Capabilities(Keeper):
    """Both sides against what the other one advertised."""

    RULES: ClassVar = {
        "capability/client": "the agent sends and calls only what the client advertised",
        "capability/agent": "the client sends only what the agent advertised",
        "capability/methods": "the agent answers each method that it advertised or must have, and no other",
        "capability/version": "protocol version 1 is answered with 1",
        "auth/logout": "after logout no session is opened until authenticate",
    }

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._logged_out = False

    def see(self, message: Message) -> None:
        if message.sender == "client":
            self._client_says(message)
        elif message.kind in {"result", "error"}:
            self._answered(message)
        else:
            self._agent_says(message)

    def _agent_says(self, message: Message) -> None:
        update = update_of(message)
        needed = CLIENT_METHODS.get(message.method) if update is None else CLIENT_UPDATES.get(update[0])
        if message.method == "elicitation/create":
            needed = ("elicitation", str(message.get("mode")))
        if needed is not None and not self.connection.client_can(*needed):
            what = message.method if update is None else update[0]
            self.fault("capability/client", message, f"{what}, but the client has no {'.'.join(needed)}")
        self._options(message, None if update is None else update[1].get("configOptions"))

    def _answered(self, message: Message) -> None:
        connection = self.connection
        if message.method in methods():
            needed = AGENT_METHODS.get(message.method)
            has = message.method in ALWAYS or needed is None or connection.agent_can(*needed)
            missing = message.kind == "error" and message.get("code") == METHOD_NOT_FOUND
            if has == missing:
                self.fault("capability/methods", message, f"{message.method}: {has=}, answered {message.body}")
        elif not message.method.startswith("_") and message.get("code") != METHOD_NOT_FOUND:
            self.fault("capability/methods", message, f"{message.method} is no method, answered {message.body}")
        if message.is_("result", "initialize"):
            self._greeted(message)
        self._options(message, message.get("configOptions") if message.kind == "result" else None)
        self._logins(message)

    def _greeted(self, message: Message) -> None:
        if message.asked("protocolVersion") == 1 != message.get("protocolVersion"):
            self.fault("capability/version", message, f"answered {message.get('protocolVersion')}")
        for method in message.get("authMethods") or []:
            if dig(method, "type") == "terminal" and not self.connection.client_can("auth", "terminal"):
                self.fault("capability/client", message, "a terminal login, but the client has no auth.terminal")

    def _options(self, message: Message, options: Any) -> None:
        for option in options or []:
            if option.get("type") == "boolean" and not self.connection.client_can(
                "session", "configOptions", "boolean"
            ):
                self.fault("capability/client", message, f"the option {option.get('id')} is boolean")

    def _logins(self, message: Message) -> None:
        if message.is_("result", "logout"):
            self._logged_out = True
        elif message.is_("result", "authenticate"):
            self._logged_out = False
        elif message.method == "session/new" and self._logged_out and message.get("code") != AUTH_REQUIRED:
            self.fault("auth/logout", message, f"logged out, yet session/new is answered {message.body}")

    def _client_says(self, message: Message) -> None:
        agent = self.connection.agent_can
        if message.is_("request", "session/prompt"):
            for block in message.get("prompt") or []:
                needed = PROMPT_BLOCKS.get(str(dig(block, "type")))
                if needed is not None and not agent("promptCapabilities", needed):
                    self.fault("capability/agent", message, f"a {needed} block")
        for server in message.get("mcpServers") or []:
            if dig(server, "type") in {"http", "sse"} and not agent("mcpCapabilities", server["type"]):
                self.fault("capability/agent", message, f"an MCP server over {server['type']}")
        if message.get("additionalDirectories") and not agent("sessionCapabilities", "additionalDirectories"):
            self.fault("capability/agent", message, "additional directories")
