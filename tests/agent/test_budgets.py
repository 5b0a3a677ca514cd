"""Budgets: turns, tokens, dollars, seconds. A run that reaches one stops with exit 5 and leaves nothing running."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.agent.events import UsageUpdated
from tests.agent.driving import converse
from tests.model_server import ModelServer, stream, text, tool_call
from tests.processes import commands_in


def spending(cost: float | None = None) -> Any:
    """An answer that goes on for ever, each time with another call."""
    usage: dict[str, Any] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    if cost is not None:
        usage["cost"] = cost
    return lambda body: stream(tool_call("shell", {"command": f"echo {len(body['messages'])}"}), usage=usage)


@pytest.mark.parametrize(
    ("budget", "requests", "words"),
    [({"max_turns": 3}, 3, "--max-turns"), ({"max_tokens": 250}, 3, "--max-tokens"), ({"max_cost": 0.02}, 4, "0.02")],
)
def test_spent(model_server: ModelServer, workspace: Path, budget: dict[str, Any], requests: int, words: str) -> None:
    model_server.always(spending(cost=0.006))
    spoken = converse(model_server, workspace, "x", **budget)
    assert (spoken.result.outcome, spoken.result.exit_code) == ("budget_spent", 5)
    assert len(model_server.chats) == requests
    assert words in spoken.result.message
    assert spoken.result.turns == requests


def test_a_price_that_nobody_knows_cannot_be_kept(model_server: ModelServer, workspace: Path) -> None:
    model_server.always(spending())
    spoken = converse(model_server, workspace, "x", max_cost=1.0)
    assert (spoken.result.exit_code, len(model_server.chats)) == (5, 1)
    assert "price of test-model is unknown" in spoken.result.message
    assert spoken.result.cost is None


def test_prices_come_from_the_servers_list(model_server: ModelServer, workspace: Path) -> None:
    model_server.models = [{"id": "test-model", "pricing": {"prompt": "0.0001", "completion": "0.001"}}]
    model_server.always(spending())
    spoken = converse(model_server, workspace, "x", max_cost=0.05)
    assert (spoken.result.exit_code, len(model_server.chats)) == (5, 3)
    assert spoken.result.cost == pytest.approx(0.06)


def test_time_in_the_middle_of_a_command(model_server: ModelServer, workspace: Path) -> None:
    command = "(trap '' TERM; sleep 30) & echo $! > child; echo $$ > shell; sleep 30"
    model_server.reply(tool_call("shell", {"command": command}), text("again"))
    started = time.monotonic()
    spoken = converse(model_server, workspace, "x", max_time=1.0)
    assert time.monotonic() - started < 12
    assert (spoken.result.outcome, spoken.result.exit_code) == ("budget_spent", 5)
    assert "--max-time" in spoken.result.message
    assert (workspace / "shell").exists()
    assert (workspace / "child").exists()
    assert not commands_in(workspace)


def test_time_in_the_middle_of_an_answer(model_server: ModelServer, workspace: Path) -> None:
    from tests.model_server import stall

    model_server.reply([text("half an answer"), stall()])
    spoken = converse(model_server, workspace, "x", max_time=0.6)
    assert (spoken.result.exit_code, spoken.result.text) == (5, "")


def test_every_run_has_the_whole_budget_again(model_server: ModelServer, workspace: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, "cost": 0.5}
    model_server.always(stream(text("Done."), usage=usage))
    budget: dict[str, Any] = {"max_turns": 1, "max_tokens": 110, "max_cost": 0.5, "check": "true"}
    first = converse(model_server, workspace, "x", "y", **budget)
    second = converse(model_server, workspace, "z", resume=first, **budget)
    for result in second.results:
        assert (result.exit_code, result.turns, result.input_tokens, result.cost) == (0, 1, 100, 0.5)
        assert [run.when for run in result.checks] == ["before", "after"]
    # What a face shows is what the session has cost so far.
    assert [event.cost for event in second.of(UsageUpdated)] == [0.5, 1.0, 0.5]
