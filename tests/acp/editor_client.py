"""An editor's files and terminals for a test: buffers over the real disk, commands as real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.acp.official import require_valid
from tests.acp.program import PATIENCE, Message, Program

EVERYTHING: Message = {"fs": {"readTextFile": True, "writeTextFile": True}, "terminal": True}
FILES: Message = {"fs": EVERYTHING["fs"]}
TERMINALS: Message = {"terminal": True}
RESULTS = {
    "fs/read_text_file": "ReadTextFileResponse",
    "fs/write_text_file": "WriteTextFileResponse",
    "terminal/create": "CreateTerminalResponse",
    "terminal/output": "TerminalOutputResponse",
    "terminal/wait_for_exit": "WaitForTerminalExitResponse",
    "terminal/kill": "KillTerminalResponse",
    "terminal/release": "ReleaseTerminalResponse",
}


class Command:
    """A command in a terminal; `output` grows as it writes, `ended` is set when it has ended and all is read."""

    def __init__(self, params: Message) -> None:
        environment = {each["name"]: each["value"] for each in params.get("env", [])}
        self.process = subprocess.Popen(
            [params["command"], *params.get("args", [])],
            cwd=params["cwd"],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.limit = params.get("outputByteLimit")
        self.output = b""
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        while data := self.process.stdout.read1():
            self.output += data
        self.process.wait()
        self.ended.set()

    def status(self) -> Message:
        code = self.process.returncode
        return {"exitCode": code} if code >= 0 else {"signal": signal.Signals(-code).name}

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Desk:
    """The client's side of fs/* and terminal/*.

    `buffers` holds text that is open and perhaps unsaved; `saves` says whether a write reaches the disk, `bare` whether
    the client speaks of every file with bare newlines and no mark, `formats` what it does to a text on saving.
    `refused` maps methods to error codes; `silent` methods are never answered; `held` ones only by `let_go`;
    `immortal` commands survive a kill.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.buffers: dict[Path, str] = {}
        self.saves, self.bare, self.immortal = True, False, False
        self.formats: dict[str, str] = {}
        self.refused: dict[str, int] = {}
        self.silent: set[str] = set()
        self.held: set[str] = set()
        self.waiting: list[Message] = []
        self.asked: list[Message] = []
        self.commands: dict[str, Command] = {}
        self.released: Counter[str] = Counter()
        program.serve = self.serve

    def serve(self, request: Message) -> None:
        """Answer, now or when a command has ended, or not at all."""
        method = request["method"]
        self.asked.append(request)
        if method in self.refused:
            self._send(request, error={"code": self.refused[method], "message": "refused by the test"})
        elif method in self.held:
            self.waiting.append(request)
        elif method == "terminal/wait_for_exit":
            threading.Thread(target=self._wait, args=(request,), daemon=True).start()
        elif method not in self.silent:
            self._do(request)

    def let_go(self) -> None:
        """Answer what was held back."""
        for request in self.waiting:
            self._do(request)
        self.waiting.clear()

    def methods(self) -> list[str]:
        return [request["method"] for request in self.asked]

    def of(self, method: str) -> list[Message]:
        """The params of every request of one method."""
        return [request["params"] for request in self.asked if request["method"] == method]

    def require_all_released(self) -> None:
        """Every terminal was released exactly once."""
        assert self.released == Counter(dict.fromkeys(self.commands, 1))

    def _do(self, request: Message) -> None:
        try:
            result = getattr(self, "_" + request["method"].partition("/")[2])(request["params"])
        except (OSError, KeyError, UnicodeDecodeError) as error:
            self._send(request, error={"code": -32002, "message": repr(error)})
        else:
            self._send(request, result=result)

    def _send(self, request: Message, **answer: Any) -> None:
        if "result" in answer:
            require_valid(answer["result"], RESULTS[request["method"]])
        # A program that has ended meanwhile needs no answer.
        with suppress(OSError, ValueError):
            self.program.raw(json.dumps({"jsonrpc": "2.0", "id": request["id"], **answer}) + "\n")

    def _wait(self, request: Message) -> None:
        command = self.commands[request["params"]["terminalId"]]
        command.ended.wait(PATIENCE * 2)
        self._send(request, result=command.status())

    def _read_text_file(self, params: Message) -> Message:
        path = Path(params["path"])
        text = self.buffers.get(path)
        if text is None:
            text = path.read_bytes().decode()
        return {"content": text.removeprefix("\ufeff").replace("\r\n", "\n") if self.bare else text}

    def _write_text_file(self, params: Message) -> Message:
        path, text = Path(params["path"]), params["content"]
        for old, new in self.formats.items():
            text = text.replace(old, new)
        self.buffers[path] = text
        if self.saves:
            old = path.read_bytes() if path.exists() else b""
            if self.bare and b"\r\n" in old:
                # As vi does it: what is a line end was settled on opening, and a "\r" is text like any other.
                text = ("\ufeff" if old.startswith(b"\xef\xbb\xbf") else "") + text.replace("\n", "\r\n")
            path.write_bytes(text.encode())
        return {}

    def _create(self, params: Message) -> Message:
        id = f"term-{len(self.commands) + 1}"
        self.commands[id] = Command(params)
        return {"terminalId": id}

    def _output(self, params: Message) -> Message:
        command = self._living(params)
        kept = command.output[-command.limit :] if command.limit else command.output
        status = {"exitStatus": command.status()} if command.ended.is_set() else {}
        return {"output": kept.decode(errors="ignore"), "truncated": len(kept) < len(command.output), **status}

    def _kill(self, params: Message) -> Message:
        command = self._living(params)
        if not self.immortal:
            command.kill()
            command.ended.wait(PATIENCE)
        return {}

    def _release(self, params: Message) -> Message:
        command = self._living(params)
        self.released[params["terminalId"]] += 1
        if not self.immortal:
            command.kill()
        return {}

    def _living(self, params: Message) -> Command:
        id = params["terminalId"]
        if self.released[id]:
            self.released[id] += 1
            raise KeyError(f"{id} was released before")
        return self.commands[id]
