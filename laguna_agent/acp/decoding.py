"""From decoded JSON to the Structs of `acp.schema`, as leniently as the schema asks for.

The schema marks optional fields `x-deserialize-default-on-error`: a value of the wrong kind there must not fail the
message. The strict conversion is tried first, so well-formed messages cost nothing extra. Knows nothing of JSON-RPC.
"""

from __future__ import annotations

import types
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec

T = TypeVar("T")


def decode(value: Any, kind: type[T]) -> T:
    """`value` as a `kind`; raises msgspec.ValidationError, whose text names the field, where it cannot be."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return msgspec.convert(mended(value, kind), kind)


def mended(value: Any, kind: Any) -> Any:
    """`value` without the optional fields that do not fit `kind`; what is required stays as it is."""
    if isinstance(value, dict):
        struct = struct_for(value, kind)
        return value if struct is None else mended_object(value, struct)
    if isinstance(value, list):
        item = next((get_args(k)[0] for k in alternatives(kind) if get_origin(k) is list), None)
        return value if item is None else [mended(element, item) for element in value]
    return value


def mended_object(value: dict[Any, Any], struct: type[msgspec.Struct]) -> dict[Any, Any]:
    """`mended` for one object."""
    strict: frozenset[str] = getattr(struct, "__strict__", frozenset())
    kept = dict(value)
    for field in msgspec.structs.fields(struct):
        name = field.encode_name
        if name not in kept:
            continue
        kept[name] = mended(kept[name], field.type)
        if not field.required and name not in strict and not fits(kept[name], field.type):
            del kept[name]
    return kept


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` converts to `kind`."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)


def struct_for(value: dict[Any, Any], kind: Any) -> type[msgspec.Struct] | None:
    """The Struct that `value` is meant to be: the one whose tag it carries, or the only one without a tag."""
    for candidate in alternatives(kind):
        if not (isinstance(candidate, type) and issubclass(candidate, msgspec.Struct)):
            continue
        config = candidate.__struct_config__
        if config.tag is None or value.get(config.tag_field) == config.tag:
            return candidate
    return None
