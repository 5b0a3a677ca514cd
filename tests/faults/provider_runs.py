"""One fault of a model server, put to the real program in the middle of a session, and everything that must hold then.

A scenario is data: `hold_against` scripts the server, runs `laguna-agent run`, looks at the exit code, the requests,
the events, the files, the log and the processes, replays the log, and goes on with the session once the server is well.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laguna_agent.agent.store import Checkpointed, Ended, find_session, read_log
from tests.agent.driving import lines, replayed, require_valid_conversation
from tests.model_server import MODEL, ModelServer, Scripted, text, tool_call

ROOT = Path(__file__).resolve().parent.parent.parent
ONE, TWO = (tool_call("write", {"path": f"{name}.txt", "content": f"{name}\n"}) for name in ("one", "two"))
HALF = '{"path": "half.txt", "content": "ha'
"""The arguments of a call that never closes; a file of that name means that somebody guessed the rest."""
BIG = tool_call("read", {"path": "big.txt"})
DONE, RESUMED = text("Done."), text("Resumed.")


@dataclass(frozen=True)
class Fault:
    """What the server does to the second request of a session, and what must come of it.

    The session's first request is answered with `first`; then come `answers`, and what follows a recovery is `then`.
    `retries` counts the attempts that are void, `void` whether anything had been shown of one of them, `waits` is
    between which seconds the first wait must lie. A run that ends
    has an `exit_code`, and `words` in its message. `requests` are those after the first, where they are not the number
    of answers; `settings` are LAGUNA_ variables. `same` says that asking again is the same request, byte by byte.
    """

    name: str
    answers: tuple[Scripted, ...]
    retries: int = 0
    exit_code: int = 0
    words: str = ""
    then: tuple[Scripted, ...] = (TWO, DONE)
    first: Scripted = ONE
    always: Scripted | None = None
    requests: int | None = None
    void: bool = False
    waits: tuple[float, float] = (0.0, 0.7)
    same: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ("one", "two")
    whole: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


@dataclass
class Ran:
    """One run that is over; `lines` are those of stdout, decoded."""

    pid: int
    exit_code: int
    lines: list[dict[str, Any]]
    stdout: bytes
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        return self.lines[-1]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind."""
        return [line for line in self.lines if line["type"] == kind]


class Forker:
    """Runs the real program as forks of a process that has imported it."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "tests.faults.forker"]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, folder: Path, *arguments: str, env: Mapping[str, str], workspace: Path | None = None) -> Ran:
        """`laguna-agent ARGUMENTS` in `folder`/workspace, or in another place; its streams are kept in `folder`."""
        out, err, cwd = folder / "stdout", folder / "stderr", workspace or folder / "workspace"
        job = {"arguments": arguments, "environment": {**os.environ, **env}, "cwd": str(cwd)}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job | {"stdout": str(out), "stderr": str(err)}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return _ran(answer["pid"], answer["exit_code"], out.read_bytes(), err.read_text())

    def close(self) -> None:
        """End the process; its runs are over."""
        self._process.communicate(timeout=20)


def run_whole(folder: Path, *arguments: str, env: Mapping[str, str]) -> Ran:
    """As `Forker.run`, by a start from nothing."""
    command = [sys.executable, "-m", "laguna_agent", *arguments]
    with subprocess.Popen(
        command,
        env={**os.environ, **env},
        cwd=folder / "workspace",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        stdout, stderr = process.communicate(timeout=60)
    return _ran(process.pid, process.returncode, stdout, stderr.decode())


def _ran(pid: int, exit_code: int, stdout: bytes, stderr: str) -> Ran:
    return Ran(pid, exit_code, [json.loads(line) for line in stdout.splitlines()], stdout, stderr)


def environment(server: ModelServer, **settings: str) -> dict[str, str]:
    """What points the program at the server. Nothing here runs commands, so there is nothing to confine."""
    usual = {"LAGUNA_SANDBOX": "none", "LAGUNA_APPROVE": "edits", "LAGUNA_RETRY_BUDGET": "20"}
    return server.env | usual | settings


def left_running(folder: Path, session: int) -> list[str]:
    """The command lines of living processes of a run: of its session, or with its folder in their environment. What is
    older than the run, by its id, was not started by it."""
    found = []
    for process in (Path("/proc") / name for name in os.listdir("/proc") if name.isdigit() and int(name) >= session):
        with contextlib.suppress(OSError):
            state, _, _, leader = (process / "stat").read_text().rpartition(")")[2].split()[:4]
            ours = int(leader) == session or str(folder).encode() in (process / "environ").read_bytes()
            if ours and state != "Z" and int(process.name) != os.getpid():
                found.append((process / "cmdline").read_text())
    return found


def hold_against(fault: Fault, server: ModelServer, folder: Path, forker: Forker) -> None:
    """Run the scenario in `folder`; raises AssertionError."""
    workspace = folder / "workspace"
    (workspace / "big.txt").write_text("a line of a file\n" * 500)
    server.reply(fault.first, *fault.answers, *(fault.then if fault.exit_code == 0 else ()))
    if fault.always is not None:
        server.always(fault.always)
    run = run_whole if fault.whole else forker.run
    ran = run(folder, "run", "--output", "stream-json", "Do it.", env=environment(server, **fault.settings))
    _require_end(fault, ran)
    _require_requests(fault, server)
    assert _files(workspace) == {name: f"{name}\n" for name in (fault.files if fault.exit_code == 0 else _begun(fault))}
    assert not left_running(folder, ran.pid)
    _require_log(ran)
    _require_resumption(fault, server, folder, forker)


def _begun(fault: Fault) -> tuple[str, ...]:
    return ("one",) if fault.first is ONE else ()


def _require_end(fault: Fault, ran: Ran) -> None:
    result, said = ran.result, f"{ran.result['message']}\n{ran.stderr}"
    assert (ran.exit_code, result["exit_code"]) == (fault.exit_code, fault.exit_code), said
    assert "Traceback" not in ran.stderr, ran.stderr
    assert [line["type"] for line in ran.lines].count("result") == 1
    assert fault.words in f"{result['message']} {[event['reason'] for event in ran.of('retrying')]}", said
    if fault.exit_code == 0:
        assert (result["outcome"], result["text"], result["message"]) == ("completed", "Done.", "")
    else:
        assert result["outcome"] != "completed" and result["text"] != "Done." and result["message"]
        assert "\n" not in result["message"]
    retried = ran.of("retrying")
    assert [event["attempt"] for event in retried] == list(range(1, fault.retries + 1)), said
    assert all(event["reason"] for event in retried)
    assert all(fault.waits[0] <= event["delay"] <= fault.waits[1] for event in retried[:1]), retried
    assert any(event.get("void") for event in retried) == fault.void


def _require_requests(fault: Fault, server: ModelServer) -> None:
    expected = len(fault.answers) if fault.requests is None else fault.requests
    asked = server.chats[1 : 1 + expected]
    assert len(server.chats) == 1 + expected + (len(fault.then) if fault.exit_code == 0 else 0)
    if fault.same:
        assert all(body == asked[0] for body in asked[: fault.retries + 1])
    for body in server.chats:
        require_valid_conversation(body["messages"])
        ids = [call["id"] for message in body["messages"] for call in message.get("tool_calls") or ()]
        assert all(ids) and len(set(ids)) == len(ids), ids


def _require_log(ran: Ran) -> None:
    """The log is whole, says how the run ended, and gives the same bytes again."""
    log = find_session(ran.result["session_id"])
    # Behind it stands at most how the run left the files.
    last = next(record for record in reversed(read_log(log)) if not isinstance(record, Checkpointed))
    assert isinstance(last, Ended)
    assert (last.result.exit_code, last.result.outcome) == (ran.exit_code, ran.result["outcome"])
    assert lines(replayed(log)) == b"".join(line + b"\n" for line in ran.stdout.splitlines()[:-1])


def _require_resumption(fault: Fault, server: ModelServer, folder: Path, forker: Forker) -> None:
    before = len(server.chats)
    server.forget()
    server.reply(RESUMED)
    again = forker.run(folder, "run", "--continue", "--output", "json", "Go on.", env=environment(server))
    assert (again.exit_code, again.result["text"]) == (0, "Resumed."), again.stderr
    (posted,) = server.chats[before:]
    require_valid_conversation(posted["messages"])
    told = [message["role"] for message in posted["messages"]]
    assert told[:2] == ["system", "user"] and told[-1] == "user" and told.count("system") == 1
    assert [m for m in posted["messages"] if m["role"] == "tool"], "the resumed session lost what the tools gave"
    assert not left_running(folder, again.pid)


def _files(workspace: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in workspace.iterdir() if path.name != "big.txt"}


def every(*tables: tuple[Fault, ...]) -> Iterator[Fault]:
    """All scenarios; no two may have the same name, or one would hide the other in a report."""
    names: set[str] = set()
    for fault in (fault for table in tables for fault in table):
        assert fault.name not in names, fault.name
        names.add(fault.name)
        yield fault


__all__ = ["MODEL", "Fault", "Forker", "Ran", "environment", "every", "hold_against", "left_running", "run_whole"]
