"""What must be true after every fault of a process, in one place, so that no scenario can forget a part of it.

A scenario ends by saying how the program left, what the log calls that, and which files there are. `Aftermath` holds
the machine against it, looks for processes, and goes on with the session. `conftest.py` fails a scenario of
`test_process_*.py` that never came to this. Knows nothing of the single faults.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pexpect

from laguna_agent.agent.store import AnyRecord, Checkpointed, Ended, read_log, sessions_directory
from tests.agent.driving import posted, require_valid_conversation, text_of
from tests.faults.process_runs import PATIENCE, leftovers
from tests.faults.provider_runs import Forker, Ran
from tests.model_server import ModelServer, text

GO_ON = "Go on."
"""What the session is asked when it is taken up again."""
GOING_ON = "Going on."
"""And what the model answers."""

AT_ONCE = 3.0
"""Seconds in which nothing is left of a program that ended by itself, on a machine that is busy; it leaves nothing.
After a kill its wardens have to notice."""

Over: TypeAlias = "subprocess.Popen[Any] | subprocess.CompletedProcess[str] | pexpect.spawn[str]"
Contents = Mapping[str, str | bytes | None]
"""Every file below a directory by its relative path; None where nobody knows its content beforehand, as of a process
id. An empty directory is a name with a slash behind it."""
Messages = list[dict[str, Any]]


class Aftermath:
    """Looks at what a scenario left; `looked` says how often it did."""

    def __init__(self, server: ModelServer, workspace: Path, forker: Forker) -> None:
        self._server, self._workspace, self._forker = server, workspace, forker
        self.looked = 0

    def __call__(
        self,
        over: Over,
        code: int,
        outcome: str | None,
        files: Contents,
        *,
        workspace: Path | None = None,
        log: Path | None = None,
        told: Messages | None = None,
        env: Mapping[str, str] | None = None,
        go_on: Callable[[], None] | None = None,
    ) -> Messages:
        """Require that it ended with `code`, that its log says `outcome` and the workspace holds `files` and no more,
        that nothing runs, and that the session goes on. The messages that the server is then told.

        `outcome` is "" where the program could not say it any more, and None where the log was damaged. `log` is that
        of the only session unless given; `told` what the server was told last of this session, which it must be told
        again. `go_on` takes the session up with the prompt `GO_ON`, where `run` in the usual environment, with `env`
        on top of it, would not meet the fault's circumstances.
        """
        assert exit_code(over) == code
        where, path = workspace or self._workspace, log or the_log()
        self._require_nothing_runs(PATIENCE if code < 0 else AT_ONCE)
        require_files(where, files, killed=code < 0)
        whole = path.read_bytes()
        if outcome is not None:
            require_outcome(outcome, path)
        sessions, asked = logs_beside(path), len(self._server.chats)
        before = told if told is not None else posted(self._server) if asked else []
        self._server.forget()
        self._server.reply(text(GOING_ON))
        if go_on is None:
            how = ("--continue",) if log is None else ("--resume", log.parent.name)
            require_going_on(self._run(where, GO_ON, *how, env=env))
        else:
            go_on()
        (body,) = self._server.chats[asked:]
        messages: Messages = body["messages"]
        require_valid_conversation(messages)
        assert messages[: len(before)] == before, "what was said before is told again as it was"
        assert GO_ON in text_of(messages[-1])
        assert logs_beside(path) == sessions, "it went on, and did not begin anew"
        assert outcome is None or path.read_bytes().startswith(whole), "a log only grows"
        require_outcome("completed", path)
        self._require_nothing_runs(AT_ONCE)
        require_files(where, files)
        self.looked += 1
        return messages

    def none_began(self, over: Over, code: int, files: Contents, *, workspace: Path | None = None) -> None:
        """As above, where the fault came before there was a session: nothing of one is left, `--continue` says so, and
        the next run begins one, which goes on."""
        assert exit_code(over) == code
        where = workspace or self._workspace
        self._require_nothing_runs(AT_ONCE)
        require_files(where, files)
        assert not list(sessions_directory().glob("*"))
        assert not self._server.chats
        refused = self._run(where, GO_ON, "--continue")
        assert (refused.exit_code, refused.result["outcome"]) == (2, "usage"), refused.stderr
        for more in ((), ("--continue",)):
            self._server.reply(text(GOING_ON))
            require_going_on(self._run(where, GO_ON, *more))
            require_outcome("completed")
        assert [message["role"] for message in posted(self._server)] == ["system", "user", "assistant", "user"]
        self._require_nothing_runs(AT_ONCE)
        require_files(where, files)
        self.looked += 1

    def _run(self, where: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Ran:
        settings = {**self._server.env, **(env or {})}
        return self._forker.run(
            self._workspace.parent, "run", *arguments, "--output", "json", env=settings, workspace=where
        )

    def _require_nothing_runs(self, within: float) -> None:
        deadline = time.monotonic() + within
        while left := running_in(self._workspace.parent):
            assert time.monotonic() < deadline, left
            time.sleep(0.02)


def require_going_on(ran: Ran) -> None:
    """The session was taken up and came to its end."""
    assert ran.exit_code == 0, ran.stderr
    result = ran.result
    assert (result["outcome"], result["exit_code"], result["text"]) == ("completed", 0, GOING_ON)
    assert "Traceback" not in ran.stderr


def exit_code(over: Over) -> int:
    """Of a process that was waited for; -N for a signal."""
    if not isinstance(over, pexpect.spawn):
        assert over.returncode is not None, "nobody waited for it"
        return over.returncode
    if over.signalstatus is not None:
        return -over.signalstatus
    assert over.exitstatus is not None, "nobody waited for it"
    return over.exitstatus


def running_in(folder: Path) -> dict[int, str]:
    """The living processes that work in a directory or below it, or have it in their environment, as all have whose
    home it is; with their command lines. Not the process that asks."""
    name, found = os.fsencode(folder), {}
    for process in Path("/proc").glob("[0-9]*"):
        # Ended meanwhile, or a zombie.
        with contextlib.suppress(OSError):
            place = os.fsencode((process / "cwd").readlink())
            ours = place == name or place.startswith(name + b"/") or name in (process / "environ").read_bytes()
            if ours and int(process.name) != os.getpid():
                found[int(process.name)] = (process / "cmdline").read_text(errors="replace")
    return found


def require_files(root: Path, files: Contents, *, killed: bool = False) -> None:
    """These are all files below a directory, with these contents. Whoever was `killed` may have left what a session
    that goes on removes: empty directories by which a sandbox keeps names from being taken, and one second name of a
    file that was being replaced."""
    found: dict[str, bytes] = {}
    for folder, folders, names in os.walk(root):
        place = Path(folder)
        if place != root and not folders and not names and not killed:
            found[f"{place.relative_to(root)}/"] = b""
        found |= {str((place / name).relative_to(root)): (place / name).read_bytes() for name in names}
    if killed and len(second := leftovers(root)) == 1:
        found = {name: content for name, content in found.items() if Path(name).name not in second}
    assert sorted(found) == sorted(files), f"{sorted(found)} and not {sorted(files)}"
    for name, content in files.items():
        if content is not None:
            assert found[name] == (content.encode() if isinstance(content, str) else content), name


def the_log() -> Path:
    """The log of the only session."""
    (log,) = sessions_directory().glob("*/log.jsonl")
    return log


def logs_beside(log: Path) -> list[Path]:
    """The logs of all sessions that are kept where this one is, in order."""
    return sorted(log.parent.parent.glob("*/log.jsonl"))


def records(log: Path | None = None) -> list[AnyRecord]:
    """What is in a log, which has no unfinished line."""
    path = log or the_log()
    assert path.read_bytes().endswith(b"\n")
    return read_log(path)


def require_outcome(outcome: str, log: Path | None = None) -> None:
    """The log says how the run ended; "" for one that could not say it any more. Behind it stands at most how the run
    left the files."""
    last = next(record for record in reversed(records(log)) if not isinstance(record, Checkpointed))
    assert (last.result.outcome if isinstance(last, Ended) else "") == outcome


def results(messages: Messages) -> list[str]:
    """What the calls gave, in order."""
    return [text_of(message) for message in messages if message["role"] == "tool"]
