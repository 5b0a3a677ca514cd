"""What can be done to versions, by name: the steps of a recipe and the commands of `laguna-agent data`.

An operation's module has `OPERATION`; it is imported when it is asked for. Knows names and settings; must not know
what any operation does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from laguna_agent.errors import ConfigError
from laguna_agent.training.data.store import Derived, Store, Version

_PACKAGE = "laguna_agent.training.data"
MODULES = {
    "filter": f"{_PACKAGE}.filtering",
    "dedup": f"{_PACKAGE}.dedup",
    "order": f"{_PACKAGE}.ordering",
    "tokenizer": f"{_PACKAGE}.tokenizers",
    "tokenise": f"{_PACKAGE}.token_versions",
    "pack": f"{_PACKAGE}.pack_versions",
}
"""Where each operation is defined."""


class Work(NamedTuple):
    """What an operation did: of `shards` shards, `derived` were computed; the others were there."""

    operation: str
    derived: int
    shards: int

    def __str__(self) -> str:
        return f"{self.operation}: derived {self.derived} of {self.shards} shards"


class Outcome(NamedTuple):
    """The version that an operation made, and the work of each of its stages."""

    version: Version
    work: tuple[Work, ...]


class Operation(NamedTuple):
    """`run` makes a version of versions, by settings of the type `config`: a frozen struct that forbids unknown
    fields."""

    name: str
    config: type[msgspec.Struct]
    run: Callable[[Store, Sequence[Version], Any], Outcome]


def operation(name: str) -> Operation:
    """The operation of that name. Raises ConfigError where there is none."""
    module = MODULES.get(name)
    if module is None:
        raise ConfigError(f"there is no operation {name!r}: {', '.join(MODULES)}")
    found: Operation = importlib.import_module(module).OPERATION
    return found


def settings(kind: type[msgspec.Struct], values: Mapping[str, Any], where: str) -> Any:
    """Settings from plain data. Raises ConfigError that names the place, the key and what was expected."""
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error


def work_of(name: str, done: Sequence[Derived]) -> Work:
    """How much of a stage was done anew."""
    return Work(name, sum(not each.reused for each in done), len(done))


def only_parent(name: str, parents: Sequence[Version], kind: str) -> Version:
    """The one version that an operation works on. Raises ConfigError."""
    if len(parents) != 1:
        raise ConfigError(f"{name} works on one version, {len(parents)} were given")
    if parents[0].kind != kind:
        raise ConfigError(f"{name} works on {kind}; version {parents[0].short} holds {parents[0].kind}")
    return parents[0]
