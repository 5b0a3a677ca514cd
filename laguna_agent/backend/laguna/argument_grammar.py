"""One argument of a tool as a rule of a Lark grammar: what its schema allows, in the text that our parser reads back.

Knows JSON Schema, llguidance's dialect of Lark and `typed_value`; must not know tools, tags of calls or tokens. Where
llguidance cannot express a keyword the rule is looser than the schema, and `loose` says so: the arguments are validated
again before a tool runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from laguna_agent.backend.call_values import declared_types

VALUE_END = "</arg_value>"
_ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_EXPRESSIBLE = {
    "patternProperties",
    *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "properties", "required"),
    *("additionalProperties", "items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "pattern"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minProperties", "maxProperties"),
}
_ANY = "any-json-value"
_EXACT_INTEGERS = (1 << 53) - 1
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "coerce_one_of": True}

Compiles = Callable[[str], bool]
"""Whether llguidance takes a grammar."""


def _without(tag: str) -> str:
    """A regular expression of all text that does not hold `tag`, which starts with its only `<`.

    Every stretch after a `<` must leave the tag before it is whole; look-ahead does not exist here.
    """
    leaves = ""
    for char in reversed(tag[1:]):
        leaves = f"(?:[^<{char}][^<]*|{char}{leaves})?" if leaves else f"(?:[^<{char}][^<]*)?"
    return f"[^<]*(?:<{leaves})*"


NO_VALUE_END = _without(VALUE_END)


def string_rule(schema: dict[str, Any]) -> str | None:
    """The expression of a string's raw text, without the tag that ends it; None where all text is allowed."""
    parts: list[str] = []
    for branch in _string_branches(schema):
        fixed = [branch["const"]] if "const" in branch else branch.get("enum")
        if fixed is not None:
            parts += [lark_text(text) for text in fixed if isinstance(text, str) and VALUE_END not in text]
            continue
        limits = [_pattern(branch["pattern"])] if isinstance(branch.get("pattern"), str) else []
        if "minLength" in branch or "maxLength" in branch:
            limits.append(f"(?s:.){{{int(branch.get('minLength', 0))},{branch.get('maxLength', '')}}}")
        if not limits:
            return None
        parts.append(" & ".join(f"/{_in_lark(limit)}/" for limit in [*limits, NO_VALUE_END]))
    if "null" in declared_types(schema):
        parts.append('"null"')
    return " | ".join(f"({part})" for part in parts)


def _string_branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The branches of a schema that are about strings, what stands beside a choice put into each of its branches."""
    choice = next((key for key in ("anyOf", "oneOf") if schema.get(key)), None)
    if choice is None:
        for part in schema.get("allOf", ()):
            schema = {**part, **schema}
        return [schema] if "string" in declared_types(schema) else []
    beside = {key: value for key, value in schema.items() if key != choice}
    return [
        found
        for branch in schema[choice]
        if "string" in declared_types(branch)
        for found in _string_branches({**beside, **branch})
    ]


def _pattern(pattern: str) -> str:
    """A JSON Schema pattern, which is searched for, as an expression of the whole text."""
    # An alternation has anchors of its own in each branch; they are only moved where there is none.
    if "|" in pattern and (pattern.startswith("^") or pattern.endswith("$")):
        return pattern if not pattern.startswith("^(") else pattern.removeprefix("^").removesuffix("$")
    lead = "" if pattern.startswith("^") else "(?s:.*)"
    ends = pattern.endswith("$") and not pattern.endswith("\\$")
    return f"{lead}(?:{pattern.removeprefix('^').removesuffix('$' if ends else '')}){'' if ends else '(?s:.*)'}"


def json_rule(schema: Any, root: dict[str, Any], compiles: Compiles, *, tagged: bool) -> tuple[str, bool]:
    """(`%json` expression, whether it is looser than the schema) for a value that is written as JSON.

    `tagged`: the value stands between tags, so no string in it may hold the closing one.
    """
    definitions = {
        key: {name: _narrowed(part, tagged) for name, part in root[key].items()}
        for key in ("$defs", "definitions")
        if isinstance(root.get(key), dict)
    }
    if f"#/$defs/{_ANY}" in json.dumps([_narrowed(schema, tagged), definitions]):
        definitions.setdefault("$defs", {})[_ANY] = _any_value(tagged)
    kind = schema.get("type") if isinstance(schema, dict) else None
    narrowed = _narrowed(schema, tagged)
    tries = [narrowed, _expressible(narrowed), _expressible(narrowed, patterns=False)]
    tries += [_narrowed({"type": kind}, tagged)] if kind else []
    for number, one in enumerate([*tries, {"$ref": f"#/$defs/{_ANY}"}]):
        parts = definitions if number == 0 else {key: _expressible(value) for key, value in definitions.items()}
        if one.get("$ref") == f"#/$defs/{_ANY}":
            parts = {"$defs": {_ANY: _any_value(tagged)}}
        rule = "%json " + json.dumps({**one, **parts, "x-guidance": _SPACING})
        if compiles(f"start: {rule}"):
            return rule, number > 0
    raise AssertionError("any JSON value is always expressible")


def _any_value(tagged: bool) -> dict[str, Any]:
    reference = {"$ref": f"#/$defs/{_ANY}"}
    text: dict[str, Any] = {"type": "string", "pattern": f"^{NO_VALUE_END}$"} if tagged else {"type": "string"}
    simple = [{"type": kind} for kind in ("null", "boolean", "number")]
    holding = [{"type": "array", "items": reference}, {"type": "object", **_free_keys(reference, tagged)}]
    return {"anyOf": [*simple, text, *holding]}


def _free_keys(value: Any, tagged: bool) -> dict[str, Any]:
    """The keywords of an object with any keys, less those that hold the closing tag."""
    if not tagged:
        return {"additionalProperties": value}
    return {"patternProperties": {f"^{NO_VALUE_END}$": value}, "additionalProperties": False}


def _narrowed(schema: Any, tagged: bool) -> Any:
    """`schema`, and within it: integers that JSON readers keep exact, no undeclared keys beside declared ones, no
    annotations, and strings without the closing tag."""
    if isinstance(schema, bool) or not isinstance(schema, dict):
        return {"$ref": f"#/$defs/{_ANY}"} if schema is True else schema
    out = {key: _narrowed_part(key, value, tagged) for key, value in schema.items() if key not in _ANNOTATIONS}
    if not out:
        return {"$ref": f"#/$defs/{_ANY}"}
    kinds = out.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds or ())
    if "integer" in kinds and "enum" not in out:
        if not {"minimum", "exclusiveMinimum"} & out.keys():
            out["minimum"] = -_EXACT_INTEGERS
        if not {"maximum", "exclusiveMaximum"} & out.keys():
            out["maximum"] = _EXACT_INTEGERS
    if "string" in kinds and tagged and not {"enum", "const", "pattern"} & out.keys():
        out["pattern"] = f"^{NO_VALUE_END}$"
        out.pop("format", None)
    if ("object" in kinds or "properties" in out) and not {"allOf", "patternProperties"} & out.keys():
        extra = out.get("additionalProperties", True)
        if out.get("properties"):
            out["additionalProperties"] = False if extra is True else extra
        elif extra is not False:
            out |= _free_keys({"$ref": f"#/$defs/{_ANY}"} if extra is True else extra, tagged)
    if "array" in kinds and not {"items", "prefixItems"} & out.keys():
        out["items"] = {"$ref": f"#/$defs/{_ANY}"}
    return out


def _narrowed_part(key: str, value: Any, tagged: bool) -> Any:
    if key in {"properties", "patternProperties", "$defs", "definitions"} and isinstance(value, dict):
        return {name: _narrowed(part, tagged) for name, part in value.items()}
    if key in {"anyOf", "oneOf", "prefixItems"} and isinstance(value, list):
        return [_narrowed(part, tagged) for part in value]
    # The parts of `allOf` hold together: what one leaves open another may need.
    return _narrowed(value, tagged) if key in {"items", "additionalProperties"} and value is not True else value


def _expressible(schema: Any, *, patterns: bool = True) -> Any:
    """`schema` without the keywords that llguidance refuses."""
    if isinstance(schema, list):
        return [_expressible(part, patterns=patterns) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in {"properties", "patternProperties", "$defs", "definitions"} and isinstance(value, dict):
            kept[key] = {name: _expressible(part, patterns=patterns) for name, part in value.items()}
        elif key in _EXPRESSIBLE and (patterns or key != "pattern" or NO_VALUE_END in str(value)):
            literal = key in {"enum", "const", "required"}
            kept[key] = value if literal else _expressible(value, patterns=patterns)
    return kept


def lark_text(text: str) -> str:
    """A text as a literal of the grammar."""
    return json.dumps(text, ensure_ascii=False)


def _in_lark(pattern: str) -> str:
    """A regular expression between slashes."""
    out, escaped = "", False
    for char in pattern:
        out += "\\/" if char == "/" and not escaped else char
        escaped = char == "\\" and not escaped
    return out.replace("\n", "\\n")
