"""Typed reading of one JSON object, with errors that name the file, the key, what was found and what is expected.

Knows JSON types only; must not know any key of any model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from laguna_agent.backend.laguna.config import LARGEST, refuse
from laguna_agent.errors import ConfigError

LARGEST_FILE = 4 << 20
"""Bytes; configs have a few thousand, and an object of Python takes up to twenty times its text."""


class Fields:
    """The keys of one JSON object. A key that is absent or null gives the default; a wrong type is refused.

    `source` is the file's name for errors, `prefix` what stands before a key there ("rope_parameters.full_attention.").
    """

    def __init__(self, values: Mapping[str, Any], source: str, prefix: str = "") -> None:
        self.values, self.source, self.prefix = values, source, prefix

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def refuse(self, key: str, expected: str) -> Any:
        """Raise ConfigError for the value that `key` has."""
        refuse(self.source, self.prefix + key, self.values.get(key), expected)

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer from 0 to 2^31 - 1; the key is required where `default` is None."""
        found = self._found(key, default, "an integer")
        if isinstance(found, float) and found.is_integer():
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < LARGEST:
            self.refuse(key, "an integer from 0 to 2^31 - 1")
        return int(found)

    def optional_integer(self, key: str) -> int | None:
        """Like `integer`, but None where the key is absent."""
        return self.integer(key) if self.has(key) else None

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; the key is required where `default` is None."""
        found = self._found(key, default, "a number")
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            self.refuse(key, "a finite number")
        return float(found)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        found = self._found(key, default, "true or false")
        if not isinstance(found, bool):
            self.refuse(key, "true or false")
        return bool(found)

    def text(self, key: str, default: str | None = None) -> str:
        """A string; the key is required where `default` is None."""
        found = self._found(key, default, "a string")
        if not isinstance(found, str):
            self.refuse(key, "a string")
        return str(found)

    def entries(self, key: str, length: int | None = None) -> list[Any] | None:
        """A list, of `length` entries where given; None where the key is absent."""
        found = self.values.get(key)
        if found is None:
            return None
        if not isinstance(found, list):
            self.refuse(key, "a list")
        if length is not None and len(found) != length:
            refuse(self.source, f"the length of {self.prefix}{key}", len(found), f"num_hidden_layers ({length})")
        return list(found)

    def integers(self, key: str, length: int | None = None) -> list[int] | None:
        """A list of integers; None where the key is absent."""
        found = self.entries(key, length)
        if found is not None and any(isinstance(item, bool) or not isinstance(item, int) for item in found):
            self.refuse(key, "a list of integers")
        return found

    def object(self, key: str) -> Fields | None:
        """The object at `key`; None where the key is absent."""
        found = self.values.get(key)
        if found is None:
            return None
        if not isinstance(found, dict):
            self.refuse(key, "an object")
        return Fields(found, self.source, f"{self.prefix}{key}.")

    def _found(self, key: str, default: Any, expected: str) -> Any:
        found = self.values.get(key)
        if found is None:
            if default is None:
                raise ConfigError(f"{self.source}: {self.prefix}{key} is missing, expected {expected}")
            return default
        return found


def read_object(path: Path, largest: int = LARGEST_FILE) -> dict[str, Any]:
    """The JSON object in a file of at most `largest` bytes. Raises ConfigError where there is none."""
    try:
        if path.stat().st_size > largest:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes, expected a JSON file of at most {largest}")
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: holds {type(found).__name__}, expected a JSON object")
    return found
