"""The conformance suite: the real program, three clients that are not ours, every message judged in both directions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.acp.conformance import acpx, python_sdk, typescript
from tests.acp.conformance.connection import update_of
from tests.acp.conformance.judge import judge
from tests.acp.conformance.recording import Message, methods, stop_reasons, updates
from tests.acp.conformance.stage import Scenario, play

# A test may have to wait for another worker's scenarios, or to play them all.
pytestmark = pytest.mark.timeout(600)
SCENARIOS: tuple[Scenario, ...] = typescript.SCENARIOS + python_sdk.SCENARIOS + acpx.SCENARIOS
# What of the stable protocol is seen with which client, at least.
SEEN = {
    "initialize": "typescript python_sdk acpx",
    "authenticate": "typescript",
    "logout": "typescript",
    "session/new": "typescript python_sdk acpx",
    "session/load": "typescript python_sdk",
    "session/resume": "typescript python_sdk acpx",
    "session/list": "typescript python_sdk acpx",
    "session/close": "typescript python_sdk",
    "session/delete": "typescript",
    "session/prompt": "typescript python_sdk acpx",
    "session/cancel": "typescript python_sdk acpx",
    "session/set_mode": "typescript python_sdk acpx",
    "session/set_config_option": "typescript python_sdk acpx",
    "$/cancel_request": "typescript",
    "session/update": "typescript python_sdk acpx",
    "session/request_permission": "typescript python_sdk acpx",
    "fs/read_text_file": "typescript python_sdk acpx",
    "fs/write_text_file": "typescript python_sdk acpx",
    "terminal/create": "typescript acpx",
    "terminal/output": "typescript acpx",
    "terminal/wait_for_exit": "typescript acpx",
    "terminal/kill": "typescript",
    "terminal/release": "typescript acpx",
    "elicitation/create": "typescript",
    "elicitation/complete": "typescript",
    "user_message_chunk": "typescript python_sdk",
    "agent_message_chunk": "typescript python_sdk acpx",
    "agent_thought_chunk": "typescript python_sdk acpx",
    "tool_call": "typescript python_sdk acpx",
    "tool_call_update": "typescript python_sdk acpx",
    "plan": "typescript python_sdk",
    "available_commands_update": "typescript python_sdk acpx",
    "current_mode_update": "typescript",
    "config_option_update": "typescript python_sdk acpx",
    "session_info_update": "typescript python_sdk acpx",
    "usage_update": "typescript python_sdk acpx",
    "notice": "typescript",
    "compaction_update": "typescript",
    "end_turn": "typescript python_sdk acpx",
    "cancelled": "typescript python_sdk acpx",
    "max_tokens": "python_sdk",
    "max_turn_requests": "python_sdk",
    "refusal": "python_sdk",
}
# What the program never sends, and why.
NEVER = {
    "compaction_summary_chunk": "a summary comes whole, with the end of its compaction",
}


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(request.config, "workerinput") else base


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: f"{s.__module__.rsplit('.', 1)[-1]}-{s.__name__}")
def test_every_message_keeps_every_rule(scenario: Scenario, shared: Path) -> None:
    faults, messages = judge(play(scenario, shared))
    assert len(messages) > 4
    assert not faults, "\n".join(map(str, faults))


def test_the_whole_stable_protocol_was_seen(shared: Path) -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    for scenario in SCENARIOS:
        _, messages = judge(play(scenario, shared))
        for name in names(messages):
            seen[name].add(scenario.__module__.rsplit(".", 1)[-1])
    missing = {name: clients for name, clients in SEEN.items() if not set(clients.split()) <= seen[name]}
    assert not missing, seen
    assert not NEVER.keys() & {name for name, clients in seen.items() if clients}
    assert SEEN.keys() | NEVER.keys() == {*methods(), *updates(), *stop_reasons()}


def test_an_answer_that_is_lost_or_doubled_is_noticed_in_a_real_recording(shared: Path) -> None:
    (recording,) = play(typescript.turn, shared)
    answers = [at for at, entry in enumerate(recording) if '"result"' in entry.get("line", "")]
    assert len(answers) > 10
    for at in answers:
        for broken in (recording[:at] + recording[at + 1 :], recording[: at + 1] + recording[at:]):
            faults, _ = judge([broken])
            assert {"wire/unanswered", "wire/answer-unasked"} & {fault.rule for fault in faults}


def names(messages: Iterable[Message]) -> set[str]:
    """The methods that were answered with a result, the notifications, the kinds of update, the stop reasons."""
    found = {message.method for message in messages if message.kind in {"result", "notification"}}
    found |= {str(message.get("stopReason")) for message in messages if message.is_("result", "session/prompt")}
    return found | {update[0] for message in messages if (update := update_of(message))}
