"""Messages made from the official schema: valid ones, broken ones, and what of a broken one must be forgiven."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.acp.official import PINNED

DEFINITIONS: dict[str, Any] = json.loads(PINNED.read_text())["$defs"]


def methods(side: str, suffix: str) -> dict[str, str]:
    """Each method of a side, and the name of the definition that ends so."""
    return {
        definition["x-method"]: name
        for name, definition in DEFINITIONS.items()
        if definition.get("x-side") == side and name.endswith(suffix)
    }


REQUESTS = methods("agent", "Request")
RESPONSES = methods("agent", "Response")
NOTIFICATIONS = methods("agent", "Notification") | methods("protocol", "Notification")
QUESTIONS = methods("client", "Request")
ANSWERS = methods("client", "Response")
UPDATES = methods("client", "Notification") | methods("protocol", "Notification")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([2**31, 2**63, -(2**70), 1e300, 0.5, -0.0])
    | texts
    | st.sampled_from(["\x00", "../..", "/", "a" * 5000, "é☃\U0001f600", "__class__", "null"])
)
junk = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3), max_leaves=5)
FORGED = {"sessionId": "FORGED", "session_id": "FORGED", "cwd": "/FORGED", "prompt": [], "methodId": "FORGED"}

# Fields that mean nothing when they are random. <0> and <1> become open sessions, <cwd> a folder that exists.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "sessionId": st.sampled_from(["<0>", "<0>", "<1>", "nobody", "", "../..", "a/b", "\x00"]),
    "cwd": st.sampled_from(["<cwd>", "<cwd>", "<cwd>/none", "relative", "", "/\x00"]),
    "additionalDirectories": st.lists(st.sampled_from(["<cwd>", "/", "relative"]), max_size=2),
    "command": st.sampled_from(["/nonexistent/server", "", "\x00"]),
    "url": st.sampled_from(["http://127.0.0.1:9/", "no url", ""]),
    "configId": st.sampled_from(["mode", "model", "thought_level", "other"]),
    "value": st.sampled_from(["ask", "plan", "high", "default", "other"]),
    "modeId": st.sampled_from(["ask", "plan", "edits", "all", "other"]),
    "cursor": st.sampled_from(["", "AAAA", "other", "\x00", "é"]),
    "protocolVersion": st.sampled_from([0, 1, 2, 65535]),
}


@cache
def instances(name: str) -> st.SearchStrategy[Any]:
    """Values that are what the schema calls `name`."""
    return st.deferred(lambda: strategy(DEFINITIONS[name]))


def strategy(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema, as far as the official one uses JSON Schema."""
    if "$ref" in schema:
        return instances(schema["$ref"].removeprefix("#/$defs/"))
    if "const" in schema:
        return st.just(schema["const"])
    parts = [objects(schema)] if schema.get("properties") else []
    parts += [strategy(part) for part in schema.get("allOf", ())]
    parts += [st.one_of(*map(strategy, schema[key])) for key in ("anyOf", "oneOf") if key in schema]
    if len(parts) > 1:
        return st.tuples(*parts).map(lambda made: {key: value for part in made for key, value in part.items()})
    return parts[0] if parts else primitive(schema)


def objects(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects with the schema's properties."""
    made = {name: FIELDS[name] if name in FIELDS else strategy(member) for name, member in schema["properties"].items()}
    made["_meta"] = st.just(FORGED) | st.none() | st.dictionaries(texts, junk, max_size=2)
    needed = schema.get("required", ())
    return st.fixed_dictionaries(
        {name: made[name] for name in needed},
        optional={name: each for name, each in made.items() if name not in needed},
    )


def primitive(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a type, or of one of several."""
    if isinstance(schema.get("type"), list):
        return st.one_of(*(primitive({**schema, "type": each}) for each in schema["type"]))
    made: dict[str, Callable[[], st.SearchStrategy[Any]]] = {
        "null": st.none,
        "boolean": st.booleans,
        "string": lambda: texts,
        "integer": lambda: st.integers(schema.get("minimum", -9), schema.get("maximum", 99)),
        "number": lambda: st.floats(-9, 9),
        "array": lambda: st.lists(strategy(schema["items"]), max_size=2),
        "object": lambda: st.dictionaries(texts, strategy(object_values(schema)), max_size=2),
    }
    return made[schema["type"]]() if "type" in schema else junk


def object_values(schema: dict[str, Any]) -> dict[str, Any]:
    values = schema.get("additionalProperties")
    return values if isinstance(values, dict) else {}


@st.composite
def broken(draw: st.DrawFn, name: str) -> Any:
    """A valid value with one to three things done to it."""
    value = copy.deepcopy(draw(instances(name)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(containers(value))
        if not places:
            return draw(junk)
        change(draw, places[draw(st.integers(0, len(places) - 1))])
    return value


def containers(value: Any) -> list[Any]:
    """Every object and list in a value, outermost first."""
    if isinstance(value, dict):
        return [value, *(each for member in value.values() for each in containers(member))]
    if isinstance(value, list):
        return [value, *(each for member in value for each in containers(member))]
    return []


def change(draw: st.DrawFn, place: Any) -> None:
    """Do one thing to an object or list, in place."""
    if isinstance(place, list):
        place.insert(0, draw(junk))
        return
    names = sorted(place)
    name = draw(st.sampled_from(names)) if names else "x"
    what = draw(st.sampled_from(["junk", "junk", "null", "drop", "foreign", "forge", "snake", "wrap"]))
    if what == "junk":
        place[name] = draw(junk)
    elif what == "null":
        place[name] = None
    elif what == "drop":
        place.pop(name, None)
    elif what == "foreign":
        place[draw(texts)] = draw(junk)
    elif what == "forge":
        place["_meta"] = copy.deepcopy(FORGED)
    elif what == "snake":
        place["".join(f"_{c.lower()}" if c.isupper() else c for c in name)] = draw(junk)
    else:
        place[name] = [place.get(name)]


def filled(value: Any, names: dict[str, str]) -> Any:
    """`value` with every name in it replaced, inside strings too."""
    if isinstance(value, str):
        for name, meant in names.items():
            value = value.replace(name, meant)
        return value
    if isinstance(value, dict):
        return {key: filled(member, names) for key, member in value.items()}
    return [filled(member, names) for member in value] if isinstance(value, list) else value


def forgiving(schema: Any) -> Any:
    """The schema as a reader has to apply it: where it says so, a wrong value counts as none."""
    if isinstance(schema, list):
        return [forgiving(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-deserialize-default-on-error"):
        return True
    made = {key: forgiving(value) for key, value in schema.items()}
    return {"anyOf": [made, {"type": "null"}]} if schema.get("x-deserialize-default-on-null") else made


@cache
def forgiving_validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": forgiving(DEFINITIONS)})


def acceptable(value: Any, name: str) -> bool:
    """Whether an agent has to take this as what the schema calls `name`."""
    return forgiving_validator(name).is_valid(value)
