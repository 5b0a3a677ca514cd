"""The rope settings of a config.json in each of their shapes, read into `RopeConfig`s (specification sections 1 and 3).

Shapes: `rope_parameters` keyed by layer type, with stray scalars beside; flat `rope_parameters` for the full layers
with `swa_rope_parameters` for the sliding ones; none at all. Knows JSON keys; must not know how a table is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from laguna_agent.backend.laguna.config import AttentionType, RopeConfig, refuse
from laguna_agent.backend.laguna.config_fields import Fields
from laguna_agent.errors import ConfigError

DEFAULT_ROPE: Mapping[str, Any] = {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}
# What a config without rope_parameters means.
ABSENT: Mapping[AttentionType, Mapping[str, Any]] = {
    "full_attention": {"rope_theta": 500000.0, "partial_rotary_factor": 0.5},
    "sliding_attention": {"rope_theta": 10000.0, "partial_rotary_factor": 1.0},
}
LAYER_TYPES: Mapping[str, AttentionType] = {
    "full_attention": "full_attention",
    "global_attention": "full_attention",
    "sliding_attention": "sliding_attention",
}


def laguna_rope(fields: Fields, head_dim: int, used: set[AttentionType]) -> dict[AttentionType, RopeConfig]:
    """The rope of every layer type in `used`. Raises ConfigError where one is missing or not supported."""
    own = fields.object("rope_parameters") or fields.object("rope_scaling")
    if own is None:
        return {kind: one_rope(fields, Fields({}, fields.source), head_dim, ABSENT[kind]) for kind in sorted(used)}
    found = _by_layer_type(fields, own) or _flat(fields, own, used)
    missing = sorted(used - set(found))
    if missing:
        refuse(fields.source, own.prefix.rstrip("."), sorted(own.values), f"an entry for {missing[0]}")
    whole = own.flag("truncate", True)
    return {kind: one_rope(fields, found[kind], head_dim, _defaults(fields), truncate=whole) for kind in sorted(used)}


def _by_layer_type(fields: Fields, own: Fields) -> dict[AttentionType, Fields]:
    found: dict[AttentionType, Fields] = {}
    for key, kind in LAYER_TYPES.items():
        at = own.object(key)
        if at is not None:
            found.setdefault(kind, at)
    unknown = [key for key, value in own.values.items() if isinstance(value, dict) and key not in LAYER_TYPES]
    if unknown:
        refuse(fields.source, own.prefix + unknown[0], own.values[unknown[0]], f"one of {', '.join(LAYER_TYPES)}")
    return found


def _flat(fields: Fields, own: Fields, used: set[AttentionType]) -> dict[AttentionType, Fields]:
    found: dict[AttentionType, Fields] = {"full_attention": own}
    sliding = fields.object("swa_rope_parameters")
    if sliding is not None:
        found["sliding_attention"] = sliding
    elif "sliding_attention" in used:
        # Guessing here would give fluent nonsense: the two layer types never share their rope in a released model.
        raise ConfigError(
            f"{fields.source}: swa_rope_parameters is missing, expected the rope of the sliding layers beside the "
            "flat rope_parameters"
        )
    return found


def _defaults(fields: Fields) -> dict[str, Any]:
    """What the top level of the config gives to an entry that lacks a key."""
    given = {key: fields.values[key] for key in ("rope_theta", "partial_rotary_factor") if fields.has(key)}
    return {"partial_rotary_factor": 1.0, **given}


def one_rope(
    fields: Fields, own: Fields, head_dim: int, defaults: Mapping[str, Any], *, truncate: bool | None = None
) -> RopeConfig:
    """One `RopeConfig` from the object `own`; `defaults` stand in for absent keys, `fields` is the whole config.

    `truncate` is the value beside the entries where they are keyed by layer type: the reference reads it only there.
    """
    read = Fields(
        {**defaults, **{key: value for key, value in own.values.items() if value is not None}}, own.source, own.prefix
    )
    kind = read.text("rope_type", read.text("type", "default"))
    rotary_dim = int(head_dim * read.number("partial_rotary_factor"))
    theta = read.number("rope_theta")
    if kind == "default":
        return RopeConfig(theta=theta, rotary_dim=rotary_dim)
    if kind != "yarn":
        read.refuse("rope_type" if read.has("rope_type") else "type", "'default' or 'yarn'")
    original = read.integer("original_max_position_embeddings", fields.integer("max_position_embeddings"))
    factor = read.number("factor", fields.integer("max_position_embeddings") / max(original, 1))
    return RopeConfig(
        theta=theta,
        rotary_dim=rotary_dim,
        kind="yarn",
        factor=factor,
        original_length=original,
        beta_fast=read.number("beta_fast", 32.0) or 32.0,
        beta_slow=read.number("beta_slow", 1.0) or 1.0,
        attention_factor=_attention_factor(read, factor),
        truncate=read.flag("truncate", True) if truncate is None else truncate,
    )


def _attention_factor(read: Fields, factor: float) -> float:
    """The factor A of section 3: as given, else from mscale and mscale_all_dim, else from the scaling factor."""
    if read.has("attention_factor"):
        return read.number("attention_factor")

    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    mscale, all_dim = read.number("mscale", 0.0), read.number("mscale_all_dim", 0.0)
    return scale(mscale) / scale(all_dim) if mscale and all_dim else scale(1.0)
