"""What tools of servers are called, what their arguments may be, and what becomes of their answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.errors import ToolError
from laguna_agent.mcp.answers import tool_result
from laguna_agent.mcp.naming import Names, readable
from laguna_agent.mcp.tool import ServedTool, ServerTool, not_connected
from laguna_agent.messages import ImageBlock, TextBlock, ToolCall
from laguna_agent.tools.registry import default_registry


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["a", "a!", "é", "", "x" * 70]), st.text(max_size=80))))
def test_names_are_legal_unique_and_stay(tools: list[tuple[int, str, str]]) -> None:
    names, again = Names(), Names()
    given_names = [names.name(*tool) for tool in tools]
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in given_names)
    # One name for each tool of each place, whatever the server there is called.
    first = {(place, tool): name for (place, _, tool), name in reversed(list(zip(tools, given_names, strict=True)))}
    assert len(set(first.values())) == len(first)
    assert [names.name(*tool) for tool in tools] == given_names == [again.name(*tool) for tool in tools]


def test_names_can_be_read() -> None:
    assert readable("GitHub MCP", "create.issue") == "GitHub_MCP__create_issue"
    assert readable("", "") == "mcp__tool"
    long = readable("server", "t" * 100)
    assert len(long) == 64
    assert long != readable("server", "t" * 101)
    names = Names()
    assert [names.name(place, "a", "b.c") for place in (0, 1, 0)] == ["a__b_c", "a__b_c_2", "a__b_c"]


def decode(schema: dict[str, Any], **arguments: Any) -> Any:
    tool = ServerTool(ServedTool("s__t", "s", "t", "Do it.", schema), not_connected)
    return default_registry().joined([tool]).decode(ToolCall("1", "s__t", arguments))


PROPERTIES = {
    "count": {"type": "integer", "minimum": 1},
    "tags": {"type": "array", "items": {"type": "string"}},
    "where": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "note": {"type": ["string", "null"]},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["count"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "s__t: the field 'count' is missing."),
        ({"count": "x"}, "s__t: the field 'count' is wrong: 'x' is not of type 'integer'."),
        ({"count": 0}, "s__t: the field 'count' is wrong: 0 is less than the minimum of 1."),
        ({"count": 1, "where": {}}, "s__t: the field 'city' is missing in where."),
        ({"count": 1, "tags": ["a", 2]}, "s__t: the field 'tags[1]' is wrong: 2 is not of type 'string'."),
        (
            {"count": 1, "size": 2},
            "s__t: the arguments are wrong: Additional properties are not allowed ('size' was unexpected).",
        ),
    ],
)
def test_a_wrong_argument_is_explained_in_a_sentence(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolError) as caught:
        decode(SCHEMA, **arguments)
    assert str(caught.value) == words


def test_lenient_where_the_meaning_is_clear() -> None:
    given_arguments = {"count": 1, "tags": '["a"]', "where": None, "note": None}
    assert decode(SCHEMA, **given_arguments) == {"count": 1, "tags": ["a"], "note": None}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "no such type"}}},
        {"type": "object", "properties": {"a": {"$ref": "https://example.invalid/a.json"}}},
        {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}},
        {"type": "object", "properties": "none"},
    ],
)
def test_a_schema_that_cannot_be_used_refuses_nothing(schema: dict[str, Any]) -> None:
    assert decode(schema, a=1) == {"a": 1}


def test_what_was_called_is_what_is_shown() -> None:
    tool = ServerTool(ServedTool("s__t", "my server", "delete\neverything", "Look, only look.", SCHEMA), not_connected)
    assert tool.title({}) == "my server: delete everything"
    need = tool.needs({}, None)  # type: ignore[arg-type]
    assert need is not None
    assert (need.access, need.subject) == ("execute", "my server: delete everything")


def test_answers_of_every_kind(tmp_path: Path) -> None:
    blob = {"uri": "file:///a.bin", "blob": "AAAA", "mimeType": "application/zip"}
    content = [
        {"type": "image", "mimeType": "image/png", "data": "AAAA"},
        {"type": "image", "mimeType": "image/tiff", "data": "AAAA"},
        {"type": "resource", "resource": blob},
        {"type": "resource", "resource": blob | {"mimeType": "image/png"}},
        {"type": "hologram"},
    ]
    result = tool_result({"content": content, "isError": True}, 1_000, tmp_path)
    assert result.is_error
    assert result.content == (
        TextBlock(
            "[image, image/tiff, 3 bytes: it cannot be shown]\n"
            "[resource file:///a.bin, application/zip, 3 bytes: it is not text]\n"
            "[content of the unknown type 'hologram']"
        ),
        ImageBlock("image/png", "AAAA"),
        ImageBlock("image/png", "AAAA"),
    )
    assert tool_result({"content": []}, 1_000, tmp_path).content == ()
    both = {"content": [{"type": "text", "text": "words"}], "structuredContent": {"a": 1}}
    assert tool_result(both, 1_000, tmp_path).text == "words"
    assert not list(tmp_path.glob("*.log"))


@given(st.text(max_size=60), st.integers(10, 40))
def test_no_text_is_longer_than_allowed(text: str, cap: int) -> None:
    shown = tool_result({"content": [{"type": "text", "text": text}]}, cap, None).text
    assert shown == text if len(text) <= cap else len(shown) <= cap + 50
