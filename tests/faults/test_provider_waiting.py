"""The time between two attempts: the person sees it pass, and can end it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from laguna_agent.agent.events import Retrying
from laguna_agent.agent.store import Tried, find_session, read_log
from tests.agent.driving import replayed
from tests.conftest import StartCli, Terminal
from tests.faults.provider_runs import DONE, ONE, Forker, environment, left_running
from tests.model_server import MODEL, ModelServer, http, text

BUSY = http(429, "busy", {"Retry-After": "18"})


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_wait(
    number: int, code: int, model_server: ModelServer, workspace: Path, start_cli: StartCli, forker: Forker
) -> None:
    model_server.reply(ONE, BUSY)
    process = start_cli("run", "--output", "json", "Do it.", env=environment(model_server))
    wait_for(lambda: len(model_server.chats) == 2)
    time.sleep(0.2)
    assert left_running(workspace.parent, process.pid)
    process.send_signal(number)
    started = time.monotonic()
    assert process.wait(10) == code
    assert time.monotonic() - started < 5
    assert not left_running(workspace.parent, process.pid)
    model_server.reply(DONE)
    ran = forker.run(workspace.parent, "run", "--continue", "--output", "json", "On.", env=environment(model_server))
    assert ran.exit_code == 0, ran.stderr
    # The attempt is in the log, with what it would have waited, though the run was cut off in the middle of it.
    log = find_session(ran.result["session_id"])
    tried = [record for record in read_log(log) if isinstance(record, Tried)]
    assert [(record.attempt, record.delay, "busy" in record.reason) for record in tried] == [(1, 18.0, True)]
    assert [event.delay for event in replayed(log) if isinstance(event, Retrying)] == [18.0] * (code > 0)


def test_the_clock_ends_the_wait(model_server: ModelServer, workspace: Path, forker: Forker) -> None:
    model_server.reply(ONE, BUSY)
    env = environment(model_server)
    ran = forker.run(workspace.parent, "run", "--max-time", "2", "--output", "json", "Do it.", env=env)
    assert (ran.exit_code, ran.result["outcome"]) == (5, "budget_spent"), ran.stderr
    assert (workspace / "one.txt").exists()


def test_a_person_sees_it_pass(model_server: ModelServer, terminal: Terminal) -> None:
    model_server.reply(http(429, "busy", {"Retry-After": "3"}), text("Here I am."))
    child = terminal("run", "Do it.", **environment(model_server))
    child.expect(r"warning: [^\n]*busy[^\n]*attempt 2 in 3\.0 s")
    child.expect(rf"asking {MODEL} again in 2 s")
    child.expect(rf"asking {MODEL} again in 1 s")
    child.expect_exact("completed: 1 turn")
    child.expect("Here I am.")


def test_and_in_the_chat(model_server: ModelServer, terminal: Terminal) -> None:
    model_server.reply(http(503, "busy", {"Retry-After": "2"}), text("Here I am."))
    child = terminal("chat", **environment(model_server))
    child.expect("> ")
    child.sendline("Do it.")
    child.expect(r"busy; attempt 2 in 2\.0 s")
    child.expect(rf"asking {MODEL} again in 1 s")
    child.expect("Here I am.")


def test_a_script_reads_of_each_attempt_and_of_no_countdown(
    model_server: ModelServer, workspace: Path, forker: Forker
) -> None:
    model_server.reply(http(429, "busy", {"Retry-After": "2"}), text("Here I am."))
    ran = forker.run(workspace.parent, "run", "--output", "json", "Do it.", env=environment(model_server))
    assert (ran.exit_code, ran.stderr) == (0, "")
    model_server.reply(http(429, "busy", {"Retry-After": "2"}), text("Here I am."))
    ran = forker.run(workspace.parent, "run", "--output", "stream-json", "Do it.", env=environment(model_server))
    assert [(event["attempt"], event["delay"]) for event in ran.of("retrying")] == [(1, 2.0)]
    assert not ran.of("model_progress")
