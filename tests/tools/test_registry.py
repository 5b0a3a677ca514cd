"""What the model sees, and what becomes of what it sends."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jsonschema
import pytest

from laguna_agent.errors import ToolError
from laguna_agent.messages import ToolCall
from laguna_agent.tools.registry import default_registry
from tests.tools.o200k import count


def decode(name: str, **arguments: Any) -> Any:
    return default_registry().decode(ToolCall("1", name, arguments))


def test_all_tools_fit_the_prompt() -> None:
    tools = [
        {
            "type": "function",
            "function": {"name": spec.name, "description": spec.description, "parameters": spec.parameters},
        }
        for spec in default_registry().specs()
    ]
    tokens = count(json.dumps(tools, separators=(",", ":")))
    assert tokens <= 900, f"{tokens} tokens"
    assert count("hello world") == 2


def test_schemas_are_schemas_and_always_the_same() -> None:
    specs = default_registry().specs()
    assert [spec.name for spec in specs] == ["read", "write", "edit", "list", "grep", "shell", "plan"]
    assert specs == default_registry().specs()
    for spec in specs:
        jsonschema.Draft202012Validator.check_schema(spec.parameters)
        assert spec.description.endswith(".")


def test_lenient_where_the_meaning_is_clear() -> None:
    assert decode("read", path="a", offset="3", limit=None).offset == 3
    assert decode("edit", path="a", old="x", new="y", replace_all="true").replace_all is True
    assert decode("plan", steps='[{"content": "a"}]').steps[0].status == "pending"
    assert decode("shell", command="x", timeout="2.5").timeout == 2.5


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("read", {}, "read: the field 'path' is missing."),
        ("read", {"path": "a", "ofset": 1}, "read: there is no field 'ofset'; did you mean 'offset'?"),
        ("edit", {"path": "a", "old": 1, "new": "b"}, "edit: the field 'old' is wrong: expected str, got int."),
        (
            "plan",
            {"steps": [{"content": "a", "x": 1}]},
            "plan: there is no field 'x' in steps[0]; the fields are steps.",
        ),
        ("plan", {"steps": "no json"}, "plan: the field 'steps' is wrong: expected array, got str."),
        ("reed", {}, "There is no tool named 'reed'; did you mean read?"),
        ("zzz", {}, "There is no tool named 'zzz'; the tools are read, write, edit, list, grep, shell, plan."),
    ],
)
def test_a_wrong_call_is_explained_in_a_sentence(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError) as caught:
        decode(name, **arguments)
    assert str(caught.value) == words


def test_a_call_that_could_not_be_read_is_never_executed() -> None:
    call = ToolCall("1", "shell", {"command": "rm -rf x"}, raw='{"command": "rm -rf x', error="the JSON ends too early")
    with pytest.raises(ToolError, match="not executed: the JSON ends too early"):
        default_registry().decode(call)


def test_tools_load_nothing_heavy_until_they_run() -> None:
    code = (
        "import sys; from laguna_agent.tools.registry import default_registry; default_registry().specs(); "
        "heavy = {'tree_sitter', 'git', 'httpx', 'rich', 'torch', 'asyncio'}; print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
