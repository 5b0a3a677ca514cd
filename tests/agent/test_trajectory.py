"""Trajectories, judged by the format's own models: they refuse unknown keys, wrong references and missing steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from atif import Trajectory

from laguna_agent.agent.events import PermissionRequested, TextDelta
from laguna_agent.agent.journal import Journal
from laguna_agent.agent.permissions import PermissionAnswer
from laguna_agent.agent.store import iterate_log
from laguna_agent.agent.trajectory import atif
from laguna_agent.errors import UsageError
from tests.agent.driving import Conversation, converse
from tests.agent.test_replay import cancel_at
from tests.model_server import ModelServer, cut, http, raw, reasoning, stall, stream, text, tool_call

PIXEL = b"\x89PNG\r\n\x1a\n" + b"\0" * 40


def trajectory(log: Path) -> dict[str, Any]:
    """The trajectory, after the format's models have taken it and given it back unchanged."""
    made = json.loads(msgspec.json.encode(atif(log)))
    assert made["schema_version"] == "ATIF-v1.8"
    assert Trajectory.model_validate(made).to_json_dict(exclude_none=True) == made
    return made


def sources(made: dict[str, Any]) -> list[str]:
    return [step["source"] for step in made["steps"]]


def test_a_whole_run(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "a.txt").write_text("1\n")
    usage = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}, "cost": 0.5}
    calls = [tool_call("read", {"path": "a.txt"}), tool_call("shell", {"command": "echo 2; exit 3"})]
    model_server.reply(
        stream(reasoning("Both."), text("I look."), *calls, usage=usage), stream(text("Done."), usage=usage)
    )
    spoken = converse(model_server, workspace, "Look.", check="true", reasoning="low")
    made = trajectory(spoken.log)
    assert sources(made) == ["system", "system", "user", "agent", "agent", "system"]
    assert made["agent"] == {"name": "laguna-agent", "version": "0.1.0", "model_name": "test-model"}
    assert made["session_id"] == spoken.id
    look = made["steps"][3]
    assert (look["message"], look["reasoning_content"], look["llm_call_count"]) == ("I look.", "Both.", 1)
    assert look["reasoning_effort"] == "low"
    assert [call["function_name"] for call in look["tool_calls"]] == ["read", "shell"]
    assert look["tool_calls"][1]["arguments"] == {"command": "echo 2; exit 3"}
    read, shell = look["observation"]["results"]
    assert read["source_call_id"] == look["tool_calls"][0]["tool_call_id"]
    assert shell["content"] == "2\n[exit code 3]"
    assert shell["extra"]["exit_code"] == 3
    assert look["metrics"] == {"prompt_tokens": 100, "completion_tokens": 7, "cached_tokens": 64, "cost_usd": 0.5}
    assert made["final_metrics"] == {
        "total_prompt_tokens": 200,
        "total_completion_tokens": 14,
        "total_cached_tokens": 128,
        "total_cost_usd": 1.0,
        "total_steps": 6,
    }
    assert made["extra"]["outcome"] == "completed"
    assert made["steps"][1]["extra"] == {"check": "before", "exit_code": 0}


def test_calls_as_text_broken_calls_and_images(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "p.png").write_bytes(PIXEL)
    model_server.reply(
        text('<tool_call>\n{"name": "list", "arguments": {"path": "."}}\n</tool_call>'),
        stream(tool_call("shell", '{"command": "ec'), finish="length"),
        tool_call("read", {"path": "p.png"}),
        text("Done."),
    )
    made = trajectory(converse(model_server, workspace, "x").log)
    listed, broken, image, _ = [step for step in made["steps"] if step["source"] == "agent"]
    assert listed["tool_calls"][0]["function_name"] == "list"
    assert "p.png" in listed["observation"]["results"][0]["content"]
    assert broken["tool_calls"][0]["arguments"] == {}
    assert broken["tool_calls"][0]["extra"]["raw"] == '{"command": "ec'
    assert "image/png" in image["observation"]["results"][0]["content"]
    assert sources(made).count("user") == 1


def test_denied_interrupted_failed_and_resumed(model_server: ModelServer, workspace: Path) -> None:
    async def refuse(_: PermissionRequested) -> PermissionAnswer:
        return PermissionAnswer(False, reason="no")

    model_server.reply(tool_call("shell", {"command": "touch a"}), [text("half an", pieces=1), stall()])
    model_server.reply(stream(text("x"), cut()), http(401, "no"), text("Fine."))
    watch = cancel_at(TextDelta)
    first = converse(model_server, workspace, "one", approve="ask", approver=refuse, watch=watch)
    made = trajectory(first.log)
    assert made["steps"][2]["observation"]["results"][0]["extra"]["permitted"] is False
    assert made["steps"][3]["extra"]["error"]["type"] == "Cancelled"
    assert made["extra"]["outcome"] == "interrupted"
    second = converse(model_server, workspace, "two", resume=first, retry_budget=5.0)
    third = converse(model_server, workspace, "three", resume=second)
    made = trajectory(third.log)
    assert made["steps"][-1]["message"] == "Fine."
    assert sources(made).count("user") == 3
    errors = [step["extra"]["error"]["type"] for step in made["steps"] if "error" in step.get("extra", {})]
    assert errors == ["Cancelled", "AuthenticationFailed"]


def test_corrections_are_marked_as_no_word_of_the_person(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    model_server.always(text("```python\ndef add(a, b):\n    return a\n```"))
    spoken = converse(model_server, workspace, "Fix add.py", edit_format="symbol", check="grep -q + add.py")
    made = trajectory(spoken.log)
    people = [step for step in made["steps"] if step["source"] == "user"]
    assert "extra" not in people[0]
    assert all(step["extra"] == {"automatic": True} for step in people[1:])
    assert any("rewrite_symbol" in json.dumps(step.get("tool_calls", "")) for step in made["steps"])


def test_a_question_of_the_program_is_no_word_of_the_person(model_server: ModelServer, workspace: Path) -> None:
    (workspace / "add.py").write_text("def add(a, b):\n    return a - b\n")
    model_server.props = {"default_generation_settings": {"n_ctx": 8_192}}
    model_server.reply(text('{"action": "answer", "files": ["add.py"]}'), text("It subtracts."))
    made = trajectory(converse(model_server, workspace, "Sum up.", edit_format="symbol").log)
    people = [step for step in made["steps"] if step["source"] == "user"]
    assert [step.get("extra") for step in people] == [{"automatic": True}, None]


def test_a_prompt_that_never_reached_a_model(model_server: ModelServer, workspace: Path) -> None:
    model_server.close()
    made = trajectory(converse(model_server, workspace, "Hello?").log)
    assert [(step["source"], step["message"]) for step in made["steps"]][-2:][0][0] in {"system", "user"}
    assert any("Hello?" in step["message"] for step in made["steps"])


def every_prefix(spoken: Conversation, tmp_path: Path) -> list[Path]:
    records = list(iterate_log(spoken.log))
    paths = []
    for end in range(1, len(records) + 1):
        journal = Journal(tmp_path / f"{end}.jsonl")
        for record in records[:end]:
            journal.append(record)
        journal.close()
        paths.append(journal.path)
    return paths


def test_a_log_that_ends_anywhere(model_server: ModelServer, workspace: Path, tmp_path: Path) -> None:
    calls = [tool_call("write", {"path": "a", "content": "1"}), tool_call("nonsense", {})]
    odd = raw(b'data: {"choices": [{"index": 0, "delta": {"content": "odd \\u0000"}}]}\n\n')
    model_server.reply(calls, [odd, reasoning("hm")], text("Done."))
    empty, *paths = every_prefix(converse(model_server, workspace, "x", check="true"), tmp_path)
    with pytest.raises(UsageError, match="no conversation yet"):
        atif(empty)
    for path in paths:
        trajectory(path)
