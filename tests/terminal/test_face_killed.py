"""The interactive face, killed at random moments: the terminal can be used, and the session goes on.

The moments are drawn from a fixed seed. SIGKILL leaves the program no time to do anything: then its guardian does.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.model_server import ModelServer, Reply, delay, reasoning, stream, text, tool_call
from tests.processes import commands_in
from tests.terminal.conftest import StartChat, StartTty
from tests.terminal.driving import Chat

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
LONGEST = 2.5
"""Seconds from the first word to after the end of the turn."""


def moments(count: int, seed: int) -> list[tuple[float, int]]:
    drawn = random.Random(seed)
    return [(drawn.uniform(0, LONGEST), drawn.choice(SIGNALS)) for _ in range(count)]


def turn() -> list[Reply]:
    """An answer that thinks, talks, writes a file, runs a command, and talks again, in about two seconds."""
    talk = [part for number in range(6) for part in (text(f"Sentence {number} of it. ", pieces=2), delay(0.08))]
    write = tool_call("write", {"path": "a.txt", "content": "x\n"})
    command = tool_call("shell", {"command": "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done"})
    return [
        stream(text("Begun.\n\n"), reasoning("hm " * 40, pieces=8), *talk, write),
        stream(text("Now a command.\n\n"), delay(0.1), command),
        stream(*talk, text("\n\nAll is done.")),
    ]


def killed(chat: StartChat, server: ModelServer, after: float, number: int) -> Chat:
    server.reply(*turn())
    dying = chat("--approve", "all")
    dying.send("the prompt that was cut off")
    dying.tty.wait_for("Begun.")
    time.sleep(after)
    dying.tty.signal(number)
    assert dying.tty.wait_exit() == (-number if number == signal.SIGKILL else 143)
    dying.tty.wait_for(lambda _: not dying.tty.left_over(), 10, in_frames=True)
    if number != signal.SIGKILL:
        # The guardian takes back more than this face ever sets.
        dying.proper()
    return dying


def goes_on(chat: StartChat, server: ModelServer) -> None:
    server.forget()
    server.reply(text("On we go."))
    again = chat("--continue", "--approve", "all")
    again.tty.wait_for("the prompt that was cut off", where="history")
    again.ask("go on", "On we go.")
    again.leave()


TWENTY = [pytest.param(*moment, marks=pytest.mark.slow) for moment in moments(20, seed=7)]


@pytest.mark.parametrize(("after", "number"), [(0.4, signal.SIGKILL), *TWENTY])
def test_killed_in_a_turn(
    chat: StartChat, model_server: ModelServer, workspace: Path, after: float, number: int
) -> None:
    killed(chat, model_server, after, number)
    goes_on(chat, model_server)
    assert not commands_in(workspace)


@pytest.mark.slow
def test_killed_while_it_starts(tty: StartTty, model_server: ModelServer) -> None:
    drawn = random.Random(11)
    for _ in range(20):
        starting = tty(**model_server.env)
        time.sleep(drawn.uniform(0.05, 1.2))
        starting.signal(signal.SIGKILL)
        assert starting.wait_exit() == -signal.SIGKILL
        starting.wait_for(lambda _, starting=starting: not starting.left_over(), 10, in_frames=True)


def test_killed_at_a_question(chat: StartChat, model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(tool_call("shell", {"command": "touch made"}))
    dying = chat()
    dying.send("the prompt that was cut off")
    dying.asked()
    dying.tty.signal(signal.SIGKILL)
    dying.tty.wait_exit()
    dying.tty.wait_for(lambda _: not dying.tty.left_over(), 10, in_frames=True)
    assert not (workspace / "made").exists()
    goes_on(chat, model_server)
