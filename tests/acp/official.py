"""The official v1 schema as a judge of what we send."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from tests.conftest import ROOT

PINNED = ROOT / "scripts" / "acp_schema" / "v1.json"


@cache
def validator(definition: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": json.loads(PINNED.read_text())["$defs"]})


def require_valid(value: Any, definition: str) -> None:
    """Fail unless `value` is what the official schema calls a `definition`."""
    problems = [error.message for error in validator(definition).iter_errors(value)]
    assert not problems, (definition, value, problems)
