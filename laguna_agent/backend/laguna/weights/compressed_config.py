"""The `quantization_config` of a compressed-tensors checkpoint: which modules are stored how (specification section 6).

Knows that JSON only. A scheme that the engine cannot decode exactly is refused with its key, not guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from laguna_agent.backend.laguna.config import refuse
from laguna_agent.backend.laguna.config_fields import Fields

Kind = Literal["fp8", "nvfp4", "int"]
KINDS: dict[tuple[str, int], Kind] = {("float", 8): "fp8", ("float", 4): "nvfp4", ("int", 4): "int", ("int", 8): "int"}
LONGEST_PATTERN = 1000


@dataclass(frozen=True)
class Scheme:
    """How one group of modules is stored. `group`: columns that share a scale, 0 for the whole row or tensor.

    `block`: rows and columns of a block where `strategy` is "block".
    """

    kind: Kind
    bits: int
    strategy: str
    symmetric: bool
    group: int = 0
    block: tuple[int, int] = (1, 1)


class QuantizationConfig:
    """Which scheme a module has. `scheme(module)` is None for a module that is stored plain."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        fields = Fields(values, source, "quantization_config.")
        method = fields.text("quant_method")
        if method != "compressed-tensors":
            fields.refuse("quant_method", "'compressed-tensors'")
        _refuse_online_transforms(fields)
        self._source = source
        self._ignore = [self._matcher(item, "ignore") for item in fields.entries("ignore") or []]
        groups = fields.object("config_groups")
        if groups is None:
            fields.refuse("config_groups", "an object")
            raise AssertionError
        self._targets: list[tuple[_Matcher, Scheme]] = []
        for key in groups.values:
            group = groups.object(key)
            if group is None:
                groups.refuse(key, "an object")
                raise AssertionError
            scheme = _scheme(group)
            targets = group.entries("targets") or ["Linear"]
            self._targets += [(self._matcher(item, f"config_groups.{key}.targets"), scheme) for item in targets]
        # A module's own name says more than a pattern, and a pattern more than a class.
        self._targets.sort(key=lambda pair: pair[0].rank)
        self.scheme = lru_cache(maxsize=None)(self._scheme)

    def _scheme(self, module: str) -> Scheme | None:
        if any(matcher.matches(module) for matcher in self._ignore):
            return None
        return next((scheme for matcher, scheme in self._targets if matcher.matches(module)), None)

    def _matcher(self, text: object, key: str) -> _Matcher:
        key = f"quantization_config.{key}"
        if not isinstance(text, str) or len(text) > LONGEST_PATTERN:
            refuse(self._source, key, text, f"names or patterns of at most {LONGEST_PATTERN} characters")
        if not text.startswith("re:"):
            return _Matcher(text, None)
        try:
            return _Matcher(text, re.compile(text[3:]))
        except re.error as error:
            refuse(self._source, key, text, f"a regular expression ({error})")


@dataclass(frozen=True)
class _Matcher:
    text: str
    pattern: re.Pattern[str] | None

    @property
    def rank(self) -> int:
        return 1 if self.pattern else 2 if self.text == "Linear" else 0

    def matches(self, module: str) -> bool:
        if self.pattern:
            return self.pattern.match(module) is not None
        return self.text in (module, "Linear")


def _scheme(group: Fields) -> Scheme:
    weights = group.object("weights")
    if weights is None:
        group.refuse("weights", "an object: only weights that are quantised can be read")
        raise AssertionError
    number_type, bits = weights.text("type", "int"), weights.integer("num_bits", 8)
    kind = KINDS.get((number_type, bits))
    if kind is None:
        weights.refuse("num_bits", f"4 or 8 where type is {number_type!r} (int or float)")
        raise AssertionError
    size = weights.optional_integer("group_size") if weights.values.get("group_size") != -1 else None
    strategy = weights.text("strategy", "group" if size else "tensor")
    known = {"fp8": ("tensor", "channel", "block"), "nvfp4": ("tensor_group",), "int": ("group", "channel")}[kind]
    if strategy not in known:
        weights.refuse("strategy", " or ".join(known))
    if strategy in ("group", "tensor_group") and not size:
        weights.refuse("group_size", "a positive size")
    if kind == "nvfp4" and size != 16:
        weights.refuse("group_size", "16")
    symmetric = weights.flag("symmetric", True)
    if not symmetric and kind != "int":
        weights.refuse("symmetric", "true for float weights")
    block = weights.integers("block_structure", 2) if strategy == "block" else [1, 1]
    if not block or min(block) < 1:
        weights.refuse("block_structure", "two positive sizes")
        raise AssertionError
    return Scheme(kind, bits, strategy, symmetric, size or 0, (block[0], block[1]))


def _refuse_online_transforms(fields: Fields) -> None:
    """Rotations folded into the weights need nothing; one applied while the model runs would change the maths."""
    transforms = fields.object("transform_config")
    groups = transforms.object("config_groups") if transforms else None
    for name in groups.values if groups else ():
        for entry in (groups.object(name) or groups).entries("apply") or [] if groups else []:
            location = entry.get("location") if isinstance(entry, dict) else entry
            if location not in ("weight_input", "weight_output"):
                refuse(
                    fields.source,
                    f"quantization_config.transform_config.config_groups.{name}.apply.location",
                    location,
                    "weight_input or weight_output, which are folded into the stored weights",
                )
