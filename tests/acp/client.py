"""A client for fuzzing: the real face on a thread, or the real program, on a socket; and the books of what was said."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings

from laguna_agent.acp.face import Face
from laguna_agent.acp.streams import FdSink, FdSource
from tests.acp.books import Books, Message, key
from tests.acp.wire import PATIENCE, on_thread
from tests.model_server import MODEL, ModelServer, Scripted, http, reasoning, stall, stream, text, tool_call


def fuzz(cases: int) -> settings:
    """Settings of a fuzz run. Failures are not shrunk: where time matters, that misleads and takes long."""
    return settings(max_examples=cases, phases=[Phase.explicit, Phase.generate])


MARK = "laguna_fuzz_mark"
"""In the command line of every process that a scripted model starts."""


class Client:
    """One end of a connection to an agent; reading judges, and fails the test where the agent is wrong."""

    def __init__(self, end: socket.socket, workspace: Path) -> None:
        end.settimeout(PATIENCE)
        self.books = Books()
        self.workspace = workspace
        self._socket = end
        self._buffer = b""
        self._pending = b""
        self._ids = 0

    # -- sending ----------------------------------------------------------------------------------------------------

    def queue(self, message: Any, errors: set[int] | None = None) -> None:
        """Send a message, in one write with those before it, with the next `flush` or read."""
        self.books.sent(message, errors)
        self._pending += json.dumps(message).encode() + b"\n"

    def flush(self) -> None:
        data, self._pending = self._pending, b""
        if data:
            self._socket.sendall(data)

    def raw(self, data: bytes) -> None:
        """Bytes of which the books know already."""
        self.flush()
        self._socket.sendall(data)

    def request(self, method: str, params: Any, errors: set[int] | None = None) -> int:
        """Queue a request; its id."""
        self._ids += 1
        self.queue({"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}, errors)
        return self._ids

    def notify(self, method: str, params: Any) -> None:
        self.queue({"jsonrpc": "2.0", "method": method, "params": params})

    def answer(self, id: Any, **outcome: Any) -> None:
        self.queue({"jsonrpc": "2.0", "id": id, **outcome})

    # -- reading ----------------------------------------------------------------------------------------------------

    def read(self, timeout: float = PATIENCE) -> Message | None:
        """The next message; None at the end. TimeoutError where none comes."""
        self.flush()
        self._socket.settimeout(timeout)
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                assert not self._buffer, f"half a line at the end: {self._buffer!r}"
                return None
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return self.books.received(line)

    def answer_to(self, id: int, allowing: str | None = None) -> Message:
        """Read up to the answer to a request; meanwhile each question is answered with that option, if any."""
        while True:
            for question in list(self.books.questions.values()) if allowing else ():
                self.answer(question["id"], result={"outcome": {"outcome": "selected", "optionId": allowing}})
            message = self.read()
            assert message is not None, "the connection ended"
            if "method" not in message and message["id"] == id:
                return message

    def call(self, method: str, params: Any, errors: set[int] | None = None) -> Message:
        """A request and its answer."""
        return self.answer_to(self.request(method, params, errors))

    def ping(self) -> None:
        """Read up to the answer to an unknown method: the connection lives, and what came before was read."""
        assert self.call("_ping", {})["error"]["code"] == -32601
        assert not self.books.faults, f"no answer to what deserved {self.books.faults}"

    def new_session(self) -> str:
        """The id of a new session."""
        answer = self.call("session/new", {"cwd": str(self.workspace), "mcpServers": []})
        return str(answer["result"]["sessionId"])

    def rest(self, seconds: float) -> None:
        """Read what comes within a while; for races, where nobody can know what will."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                self.read(left)
            except TimeoutError:
                return

    def settle(self) -> None:
        """Cancel what runs and dismiss what is asked, until every request is answered and a ping too."""
        for session in sorted(self.books.sessions):
            self.notify("session/cancel", {"sessionId": session})
        while True:
            for question in list(self.books.questions.values()):
                self.answer(question["id"], error={"code": -32603, "message": "dismissed"})
            if not self.books.asked:
                break
            assert self.read() is not None, "the connection ended"
        self.ping()

    def hang_up(self) -> None:
        """Close the sending side and read to the end. Every request must still be answered."""
        self.flush()
        self._socket.shutdown(socket.SHUT_WR)
        while self.read() is not None:
            pass
        assert not self.books.asked, f"never answered: {self.books.asked}"
        assert key(None) not in self.books.asked


class Complaints(logging.Handler):
    """What a program would have written to stderr as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []
        self.setFormatter(logging.Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


def settings_for(server: ModelServer) -> dict[str, object]:
    """Settings for a scripted server that no failure delays."""
    return {"base_url": server.url, "model": MODEL, "retry_budget": 0.0}


@contextmanager
def face(workspace: Path, server: ModelServer) -> Iterator[Client]:
    """A face that is served on a thread of this process, which must end in good order when the client is gone."""
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)

    async def serve(end: socket.socket) -> None:
        fd = end.fileno()
        await Face(FdSource(fd), FdSink(fd), settings_for(server), unstable=True).serve()

    try:
        with on_thread(serve) as end:
            yield Client(end, workspace)
    finally:
        logging.getLogger().removeHandler(complaints)
    assert not complaints.said, complaints.said
    no_process_is_left()


@contextmanager
def program(workspace: Path, server: ModelServer) -> Iterator[Client]:
    """The real program, which must exit with 0 when the client is gone, and say nothing on stderr."""
    ours, theirs = socket.socketpair()
    environment = {**os.environ, **server.env, "LAGUNA_RETRY_BUDGET": "0"}
    command = [sys.executable, "-W", "default", "-m", "laguna_agent", "acp"]
    with ours, (workspace.parent / "stderr").open("w+") as errors:
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=errors, env=environment, cwd=workspace)
        theirs.close()
        try:
            yield Client(ours, workspace)
            ours.close()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read()
    assert not said, said
    no_process_is_left()


def no_process_is_left() -> None:
    """Nothing that a scripted model started runs any more."""
    deadline = time.monotonic() + PATIENCE
    while left := marked():
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)


def marked() -> list[str]:
    """The command lines of processes of a scripted model."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = place.read_bytes()
        except OSError:
            continue
        if f"{MARK}_{os.getpid()}".encode() in line:
            found.append(f"{place}: {line!r}")
    return found


def script(body: Mapping[str, Any]) -> Scripted:
    """What the model answers depends on the words of the last prompt; after a tool's result it ends the turn."""
    messages = body["messages"]
    said = next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
    if messages[-1]["role"] == "tool":
        return stream(text("Done."))
    for word, reply in REPLIES.items():
        if f"[{word}]" in said:
            return reply()
    return stream(reasoning("Hm."), text("Hello there."))


HOLD = f": {MARK}_{os.getpid()}; sleep 300; :"
REPLIES = {
    "hang": lambda: stream(text("And so "), stall()),
    "silence": lambda: stream(stall()),
    "shell": lambda: stream(tool_call("shell", {"command": HOLD})),
    "write": lambda: stream(tool_call("write", {"path": "made.txt", "content": "x\n"})),
    "two": lambda: stream(tool_call("write", {"path": "a", "content": "x"}), tool_call("shell", {"command": "true"})),
    "read": lambda: stream(tool_call("list", {"path": "."})),
    "denied": lambda: http(401, {"error": {"message": "no such key"}}),
}
