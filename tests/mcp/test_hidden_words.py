"""What a server says of its tools goes to the model in visible form; what calls must match stays as it is."""

from __future__ import annotations

from laguna_agent.mcp.connection import ToolInfo
from laguna_agent.mcp.description import McpServer
from laguna_agent.mcp.servers import _served

HIDDEN = "\U000e0041\u202e"
SHOWN = "\\u{E0041}\\u{202E}"


def test_a_description_is_visible_and_names_stay() -> None:
    schema = {
        "properties": {"a\u200b": {"description": HIDDEN, "enum": [HIDDEN], "items": [{"title": HIDDEN}]}},
        "required": ["a\u200b"],
    }
    served = _served("s__t", McpServer("s"), ToolInfo("t", f"Adds.{HIDDEN}", schema))
    assert served.description == f"Adds.{SHOWN}"
    assert served.parameters["properties"] == {
        "a\u200b": {"description": SHOWN, "enum": [HIDDEN], "items": [{"title": SHOWN}]}
    }
    assert served.parameters["required"] == ["a\u200b"]
