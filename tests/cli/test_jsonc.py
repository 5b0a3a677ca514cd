"""Settings with comments: read as another reader reads them, and added to without losing a letter."""

from __future__ import annotations

import json
import string
from typing import Any

import json5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.cli.jsonc import JsoncError, comments, merged, parse

WANTED = {"agent_servers": {"Laguna": {"type": "custom", "command": "/bin/laguna-agent", "args": ["acp"]}}}
WRITTEN = """{
  "agent_servers": {
    "Laguna": {
      "type": "custom",
      "command": "/bin/laguna-agent",
      "args": ["acp"]
    }
  }
}"""
ZED = """\
// Zed settings
//
// For information on how to configure Zed, see the documentation.
{
  "ui_font_size": 16, // points
  /* two
     lines */
  "theme": {
    "mode": "system", "light": "One Light",
    "url": "https://zed.dev/*not a comment*/",
  },
  "agent_servers": {
    // the others stay
    "Other": { "type": "registry" },
  },
}
"""


def value(text: str) -> Any:
    node = parse(text)
    assert node is not None
    return node.value


def test_an_addition_is_whole_lines_and_nothing_else() -> None:
    new = merged(ZED, WANTED)
    old_lines, new_lines = ZED.splitlines(), new.splitlines()
    at = new_lines.index('    "Laguna": {')
    assert new_lines[:at] + new_lines[at + 5 :] == old_lines
    assert json5.loads(new)["agent_servers"]["Laguna"] == WANTED["agent_servers"]["Laguna"]
    assert merged(new, WANTED) == new


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", WRITTEN + "\n"),
        ("// mine\n", "// mine\n" + WRITTEN + "\n"),
        ("{}", WRITTEN),
        ('{\n\t"a": 1 // one\n}\n', None),
        ('{"a": 1}', None),
        ('{"a": 1,}', None),
        ('{"a": 1 /* , } */ }', None),
        ('{\r\n    "a": 1\r\n}\r\n', None),
        ('{"agent_servers": {}}', None),
        ('{"agent_servers": {"Laguna": {"command": "/old", "env": {"A": "b"}}}}', None),
    ],
)
def test_files_of_every_shape(text: str, expected: str | None) -> None:
    new = merged(text, WANTED)
    if expected is not None:
        assert new == expected
    before = json5.loads(text) if text and not text.startswith("//") else {}
    after = json5.loads(new)
    assert after.get("a") == before.get("a")
    entry = after["agent_servers"]["Laguna"]
    assert entry["command"] == "/bin/laguna-agent"
    assert entry.get("env") == before.get("agent_servers", {}).get("Laguna", {}).get("env")
    assert comments(new) == comments(text)
    if "\r\n" in text:
        assert new.count("\n") == new.count("\r\n")
    if "\t" in text:
        assert '\n\t\t"Laguna": {' in new


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "object is expected"),
        ('{"agent_servers": []}', "object is expected"),
        ('{"agent_servers": {"Laguna": "x"}}', "object is expected"),
        ('{"a": 1', "line 1: expected a comma or }"),
        ('{\n"a": 1\n"b": 2}', "line 3: expected a comma or }"),
        ('{"a": 1, "a": 2}', "expected no second 'a'"),
        ("{a: 1}", "a key in quotes"),
        ("{\"a\": 'b'}", "a value"),
        ('{"a": "\\q"}', "a value"),
        ("{} {}", "the end"),
        ("/* open", "a value"),
        ("{,}", "a key in quotes"),
        ('{"a": ' + "[" * 5000, "nested too deeply"),
        ('{"agent_servers": {"Laguna": {"args": ["acp", /* mine */ "-x"]}}}', "something else"),
    ],
)
def test_what_cannot_be_added_to_is_refused(text: str, reason: str) -> None:
    with pytest.raises(JsoncError, match=reason):
        merged(text, WANTED)


KEYS = st.text(string.ascii_letters + ' "\\/*é', min_size=0, max_size=6)
SPACE = st.sampled_from(["", " ", "\n", "\t", "\r\n", "// c }\n", "/* , */", '\n  // " [\n  '])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@st.composite
def spelled(draw: st.DrawFn, wanted: Any = None) -> tuple[str, Any]:
    """A value and one of the many ways to write it."""
    found = draw(st.dictionaries(KEYS, VALUES, max_size=4)) if wanted is None else wanted

    def write(item: Any) -> str:
        if isinstance(item, dict | list):
            opening, closing = "{}" if isinstance(item, dict) else "[]"
            parts = [
                draw(SPACE)
                + (json.dumps(key) + draw(SPACE) + ":" + draw(SPACE) if isinstance(item, dict) else "")
                + write(item[key] if isinstance(item, dict) else key)
                + draw(SPACE)
                for key in item
            ]
            trailing = "," + draw(SPACE) if parts and draw(st.booleans()) else ""
            return opening + ",".join(parts) + trailing + draw(SPACE) + closing
        return json.dumps(item, ensure_ascii=draw(st.booleans()))

    return draw(SPACE) + write(found) + draw(SPACE), found


@given(spelled())
def test_any_spelling_is_read_and_added_to(case: tuple[str, Any]) -> None:
    text, expected = case
    assert value(text) == expected == json5.loads(text)
    new = merged(text, WANTED)
    assert json5.loads(new) == expected | WANTED
    assert comments(new) == comments(text)


@given(st.text('{}[]",:/*\\ \n1ea-', max_size=30))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        node = parse(text)
    except JsoncError:
        return
    if node is not None:
        assert node.value == json5.loads(text, strict=False)
