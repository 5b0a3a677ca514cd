"""How the text of an argument becomes a value: by the type its schema declares, wherever it declares it."""

from __future__ import annotations

from typing import Any

import pytest

from laguna_agent.backend.call_values import argument_schemas, declared_types, typed_value
from laguna_agent.messages import ToolSpec

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "$defs": {
        "Zone": {"type": "string", "enum": ["1", "2"]},
        "a/b": {"type": "integer"},
        "Loop": {"$ref": "#/$defs/Loop"},
    },
    "properties": {
        "plain": {"type": "string"},
        "referred": {"$ref": "#/$defs/Zone"},
        "escaped": {"$ref": "#/$defs/a~1b"},
        "loop": {"$ref": "#/$defs/Loop"},
        "absent": {"$ref": "#/$defs/None"},
        "elsewhere": {"$ref": "http://example.invalid/x"},
        "merged": {"allOf": [{"$ref": "#/$defs/Zone"}]},
        "chosen": {"anyOf": [{"$ref": "#/$defs/Zone"}, {"type": "null"}]},
        "fixed": {"const": "7"},
        "number": {"const": 7},
        "open": {},
    },
}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("plain", "1", "1"),
        ("plain", " null\n", " null\n"),
        ("referred", "1", "1"),
        ("escaped", "1", 1),
        ("loop", "1", 1),
        ("absent", "1", 1),
        ("elsewhere", "a", "a"),
        ("merged", "2", "2"),
        ("chosen", "2", "2"),
        ("chosen", "null", None),
        ("fixed", "7", "7"),
        ("number", "7", 7),
        ("open", "[1]", [1]),
        ("open", "True", "True"),
    ],
)
def test_a_value_is_read_by_its_schema(name: str, text: str, value: object) -> None:
    schemas = argument_schemas(ToolSpec("t", "", PARAMETERS))
    assert typed_value(text, schemas[name]) == value


def test_tools_without_properties_declare_no_argument() -> None:
    assert argument_schemas(None) == {}
    assert argument_schemas(ToolSpec("t", "", {})) == {}
    assert argument_schemas(ToolSpec("t", "", {"properties": []})) == {}
    assert declared_types(True) == set()
