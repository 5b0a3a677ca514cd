"""Arguments of a tool that brings its own JSON Schema: mended where they have only one meaning, else refused.

Knows JSON Schema (https://json-schema.org/draft/2020-12) through jsonschema; must not know where the tool comes from.
A schema that cannot be used refuses nothing: whoever wrote it judges the call too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from laguna_agent.errors import ToolError

if TYPE_CHECKING:
    from jsonschema import ValidationError

LONGEST_MESSAGE = 300
"""Characters: jsonschema's messages quote the value, which may be a whole file."""


def checked(name: str, arguments: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The arguments to call `name` with; raises ToolError, one sentence that names the field."""
    from jsonschema import Draft202012Validator, SchemaError
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    mended = _mended(arguments, schema)
    try:
        validator = validator_for(schema, default=Draft202012Validator)
        validator.check_schema(schema)
        # With a registry of its own it fetches no reference from the network.
        error = best_match(validator(schema, registry=Registry()).iter_errors(mended))
    except (SchemaError, Unresolvable):
        return mended
    if error is not None:
        raise ToolError(f"{name}: {_explained(error)}")
    return mended


def _mended(arguments: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Forgiven as in the tools of this program: null for "not given", a list or object written as a string of JSON."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return arguments
    kept: dict[str, Any] = {}
    for field, value in arguments.items():
        described = properties.get(field)
        kind = described.get("type") if isinstance(described, dict) else None
        if value is None and isinstance(kind, str) and kind != "null" and field not in (required or ()):
            continue
        kept[field] = value
        # A list of types has more than one meaning.
        if kind in ("array", "object") and isinstance(value, str):
            try:
                kept[field] = msgspec.json.decode(value)
            except msgspec.DecodeError:
                continue
    return kept


def _explained(error: ValidationError) -> str:
    where = error.json_path.removeprefix("$").removeprefix(".")
    inside = f" in {where}" if where else ""
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = next(field for field in error.validator_value if field not in error.instance)
        return f"the field {missing!r} is missing{inside}."
    message = error.message if len(error.message) <= LONGEST_MESSAGE else f"...{error.message[-LONGEST_MESSAGE:]}"
    return f"the field {where!r} is wrong: {message}." if where else f"the arguments are wrong: {message}."
