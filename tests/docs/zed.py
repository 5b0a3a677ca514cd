"""A client that starts agents as Zed does: from `agent_servers` in its settings, JSON with comments.

Zed's shape of the settings: crates/settings_content/src/agent.rs (`CustomAgentServerSettings`), as of 2026-11.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import json5

from tests.acp.official import require_valid

Message = dict[str, Any]
PATIENCE = 60
CAPABILITIES = {
    "fs": {"readTextFile": True, "writeTextFile": True},
    "terminal": True,
    "_meta": {"terminal_output": True, "terminal-auth": True},
}


@dataclass
class AgentServer:
    """One custom agent of the settings; what Zed does not know in an entry makes it refuse the entry."""

    command: str
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    default_config_options: dict[str, Any] = field(default_factory=dict)


def read_settings(path: Path) -> dict[str, AgentServer]:
    """The custom agents in a settings file, by name."""
    settings = json5.loads(path.read_text())
    found = {}
    for name, entry in settings.get("agent_servers", {}).items():
        if entry.pop("type") == "custom":
            found[name] = AgentServer(**entry)
    return found


class Answer(Exception):
    """The agent answered with an error."""

    def __init__(self, error: Message) -> None:
        super().__init__(error["message"])
        self.code = error["code"]


class Zed:
    """A connection to one agent. `base_env` is what the editor itself was started with."""

    def __init__(self, server: AgentServer, project: Path, base_env: Mapping[str, str]) -> None:
        self.server, self.project = server, project
        self.updates: list[Message] = []
        self.asked: list[str] = []
        self._id = 0
        self.process = subprocess.Popen(
            [server.command, *server.args],
            env={**base_env, **server.env},
            cwd=project,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> Zed:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()

    def request(self, method: str, params: Message) -> Message:
        """Ask, and serve the agent until it has answered. Raises Answer for an error."""
        self._id += 1
        mine = self._id
        self._send({"id": mine, "method": method, "params": params})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "method" in message:
                self._serve(message)
            elif message["id"] == mine:
                if "error" in message:
                    raise Answer(message["error"])
                result: Message = message["result"]
                return result
        raise EOFError(f"the agent ended: {self.process.stderr.read() if self.process.stderr else ''}")

    def initialize(self) -> Message:
        client = {"name": "zed", "title": "Zed", "version": "1.0.0"}
        params = {"protocolVersion": 1, "clientCapabilities": CAPABILITIES, "clientInfo": client}
        answer = self.request("initialize", params)
        require_valid(answer, "InitializeResponse")
        return answer

    def new_session(self) -> str:
        """Open a session, and set what the settings say of its options."""
        answer = self.request("session/new", {"cwd": str(self.project), "mcpServers": []})
        require_valid(answer, "NewSessionResponse")
        session = str(answer["sessionId"])
        for option, value in self.server.default_config_options.items():
            self.request("session/set_config_option", {"sessionId": session, "configId": option, "value": value})
        return session

    def prompt(self, session: str, words: str) -> str:
        """The stop reason of a turn."""
        params = {"sessionId": session, "prompt": [{"type": "text", "text": words}]}
        answer = self.request("session/prompt", params)
        require_valid(answer, "PromptResponse")
        return str(answer["stopReason"])

    def _send(self, message: Message) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def _serve(self, message: Message) -> None:
        method, params = message["method"], message["params"]
        if "id" not in message:
            if method == "session/update":
                require_valid(params, "SessionNotification")
                self.updates.append(params["update"])
            return
        self.asked.append(method)
        answer: Message = {"error": {"code": -32601, "message": "Method not found"}}
        if method == "session/request_permission":
            allow = next(o["optionId"] for o in params["options"] if o["kind"] == "allow_once")
            answer = {"result": {"outcome": {"outcome": "selected", "optionId": allow}}}
        elif method == "fs/read_text_file":
            path = Path(params["path"])
            missing = {"error": {"code": -32002, "message": "Resource not found"}}
            answer = {"result": {"content": _lines(path, params)}} if path.is_file() else missing
        elif method == "fs/write_text_file":
            Path(params["path"]).write_text(params["content"])
            answer = {"result": {}}
        self._send({"id": message["id"], **answer})


def _lines(path: Path, params: Message) -> str:
    first, limit = (params.get("line") or 1) - 1, params.get("limit")
    lines = path.read_text().splitlines(keepends=True)[first:]
    return "".join(lines if limit is None else lines[:limit])
