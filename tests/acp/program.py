"""The real program on real pipes, spoken to line by line; every line it writes is held against the official schema."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.acp.official import require_valid

PATIENCE = 60.0
RESULTS = {
    "initialize": "InitializeResponse",
    "authenticate": "AuthenticateResponse",
    "session/new": "NewSessionResponse",
    "session/load": "LoadSessionResponse",
    "session/prompt": "PromptResponse",
    "session/resume": "ResumeSessionResponse",
    "session/list": "ListSessionsResponse",
    "session/close": "CloseSessionResponse",
    "session/delete": "DeleteSessionResponse",
    "session/set_mode": "SetSessionModeResponse",
    "session/set_config_option": "SetSessionConfigOptionResponse",
}
UNSTABLE = {"session/fork", "session/set_title"}
SENT = {
    "session/update": "SessionNotification",
    "session/request_permission": "RequestPermissionRequest",
    "elicitation/create": "CreateElicitationRequest",
    "elicitation/complete": "CompleteElicitationNotification",
    "$/cancel_request": "CancelRequestNotification",
    "fs/read_text_file": "ReadTextFileRequest",
    "fs/write_text_file": "WriteTextFileRequest",
    "terminal/create": "CreateTerminalRequest",
    "terminal/output": "TerminalOutputRequest",
    "terminal/wait_for_exit": "WaitForTerminalExitRequest",
    "terminal/kill": "KillTerminalRequest",
    "terminal/release": "ReleaseTerminalRequest",
}
Message = dict[str, Any]


def allow(request: Message) -> Message | None:
    """The person who allows everything once; None would leave the question open."""
    option = next(o for o in request["params"]["options"] if o["kind"] == "allow_once")
    return {"outcome": {"outcome": "selected", "optionId": option["optionId"]}}


class Program:
    """One running `laguna-agent acp`. `seen` holds every message that came, in order."""

    def __init__(self, process: subprocess.Popen[str], answer: Callable[[Message], Message | None] = allow) -> None:
        self.process = process
        self.answer = answer
        self.seen: list[Message] = []
        self.serve: Callable[[Message], None] | None = None
        """Takes the requests for files and terminals."""
        self._writing = threading.Lock()
        self._methods: dict[Any, str] = {}
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def raw(self, text: str) -> None:
        assert self.process.stdin is not None
        with self._writing:
            self.process.stdin.write(text)
            self.process.stdin.flush()

    def line(self, method: str, params: Message, id: Any = None) -> str:
        """A message as a line, sent with `raw`; a notification where there is no id."""
        if id is not None:
            self._methods[id] = method
        return json.dumps({"jsonrpc": "2.0", "method": method, "params": params} | ({"id": id} if id else {})) + "\n"

    def send(self, method: str, params: Message) -> int:
        """Send a request; its id."""
        id = len(self._methods) + 1
        self.raw(self.line(method, params, id))
        return id

    def notify(self, method: str, params: Message) -> None:
        self.raw(self.line(method, params))

    def next(self) -> Message | None:
        """The next message, judged and, where it is a question, answered; None at the end."""
        line = self._lines.get(timeout=PATIENCE)
        if line is None:
            return None
        message: Message = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        self.seen.append(message)
        if "method" in message:
            require_valid(message["params"], SENT[message["method"]])
            if message["method"] in {"session/request_permission", "elicitation/create"}:
                self.respond(message, self.answer(message))
            elif message["method"].startswith(("fs/", "terminal/")):
                assert self.serve is not None, f"{message['method']} was not offered"
                self.serve(message)
        elif "error" in message:
            require_valid(message["error"], "Error")
        else:
            method = self._methods[message["id"]]
            # What is unstable has no place in the stable schema.
            if method not in UNSTABLE:
                require_valid(message["result"], RESULTS[method])
        return message

    def respond(self, request: Message, answer: Message | None) -> None:
        """Answer a request of the program; None leaves it open."""
        if answer is not None:
            self.raw(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": answer}) + "\n")

    def until(self, wanted: Callable[[Message], bool]) -> Message:
        """Read on until a message is as wanted."""
        while (message := self.next()) is not None:
            if wanted(message):
                return message
        raise EOFError(f"the program ended; seen: {self.seen[-5:]}")

    def answer_to(self, id: Any) -> Message:
        return self.until(lambda message: message.get("id") == id and "method" not in message)

    def call(self, method: str, params: Message) -> Message:
        """Send a request and wait for the answer: its result, or its error."""
        answer = self.answer_to(self.send(method, params))
        outcome: Message = answer["result"] if "result" in answer else answer["error"]
        return outcome

    def begin(self, cwd: Path, capabilities: Message | None = None) -> str:
        """Initialize and open a session; its id."""
        self.call("initialize", {"protocolVersion": 1, "clientCapabilities": capabilities or {}})
        return str(self.call("session/new", {"cwd": str(cwd), "mcpServers": []})["sessionId"])

    def prompt(self, session_id: str, words: str = "Go on") -> Message:
        return self.call("session/prompt", prompt(session_id, words))

    def update(self, **fields: Any) -> Message:
        """Wait for an update with these fields."""
        return self.until(
            lambda m: m.get("method") == "session/update" and fields.items() <= m["params"]["update"].items()
        )

    def updates(self) -> list[Message]:
        return [m["params"]["update"] for m in self.seen if m.get("method") == "session/update"]

    def close(self) -> int:
        """Close its stdin and wait for its end; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.end()

    def end(self) -> int:
        """Read the rest and wait for the end; the exit code."""
        while self.next() is not None:
            pass
        return self.process.wait(PATIENCE)


def prompt(session_id: str, words: str) -> Message:
    """Params of session/prompt."""
    return {"sessionId": session_id, "prompt": [{"type": "text", "text": words}]}


def wait_for(path: Path) -> str:
    """The text of a file that somebody is about to write."""
    deadline = time.monotonic() + PATIENCE
    while not path.exists() or not path.read_text().strip():
        assert time.monotonic() < deadline, f"{path} was never written"
        time.sleep(0.02)
    return path.read_text().strip()


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def new(program: Program, cwd: Path, **more: Any) -> Message:
    return program.call("session/new", {"cwd": str(cwd), "mcpServers": [], **more})


def opened(session: str, cwd: Path) -> Message:
    return {"sessionId": session, "cwd": str(cwd), "mcpServers": []}


Start = Callable[..., Program]
"""Starts the program against the model server, with further arguments."""
