"""A pipeline as a file: which sources, and what is done to them in which order.

    name = "stdlib"                     what the last version is called
    [ingest]                            settings of `ingest`
    [[source]]                          name, and folder = ... or git = ...; see `sources.Source`
    [[step]]
    operation = "dedup"                 what `operations.MODULES` knows; the other keys are its settings
    threshold = 0.8
    called = "stdlib-unique"            optional: a name for this step's version

Each step works on the version of the step before it; `of = [...]` names other versions instead: those that this recipe
called so, else those of the store. Knows TOML and names;
must not know what a step does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from laguna_agent.errors import ConfigError
from laguna_agent.training.data.ingest import Ingest, ingest
from laguna_agent.training.data.operations import Operation, Outcome, operation, settings
from laguna_agent.training.data.sources import Source
from laguna_agent.training.data.store import Store, Version

Report = Callable[[Outcome], None]


class Step(msgspec.Struct, frozen=True):
    """An operation with its settings, what it works on besides the step before, and what its version is called."""

    operation: Operation
    settings: msgspec.Struct
    of: tuple[str, ...]
    called: str


class Recipe(msgspec.Struct, frozen=True):
    """A pipeline. `name` may be empty."""

    name: str
    sources: tuple[Source, ...]
    ingest: Ingest
    steps: tuple[Step, ...]


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: tuple[Source, ...]
    name: str = ""
    ingest: Ingest = Ingest()
    step: tuple[dict[str, Any], ...] = ()


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; its folders and repositories are relative to it. Raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {error}") from error
    written: _Written = settings(_Written, values, f"recipe {path}")
    sources = tuple(_placed(source, path.parent) for source in written.source)
    steps = tuple(_step(values, f"recipe {path}, step {at}") for at, values in enumerate(written.step, 1))
    return Recipe(written.name, sources, written.ingest, steps)


def _placed(source: Source, folder: Path) -> Source:
    return msgspec.structs.replace(
        source,
        folder=str(folder / Path(source.folder).expanduser()) if source.folder else "",
        git=str(folder / Path(source.git).expanduser()) if source.git else "",
    )


def _step(values: dict[str, Any], where: str) -> Step:
    rest = dict(values)
    name, called, of = rest.pop("operation", ""), rest.pop("called", ""), rest.pop("of", [])
    if not isinstance(name, str) or not isinstance(called, str):
        raise ConfigError(f"{where}: operation and called are texts")
    if not isinstance(of, list) or not all(isinstance(each, str) for each in of):
        raise ConfigError(f"{where}: of is a list of versions")
    try:
        found = operation(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return Step(found, settings(found.config, rest, where), tuple(of), called)


def build(store: Store, recipe: Recipe, report: Report = lambda outcome: None) -> Outcome:
    """Carry a recipe out, as far as it was not before; `report` hears of each step. Raises ConfigError, DatasetError.

    The outcome is the last version, with the work of all steps.
    """
    outcome = ingest(store, recipe.sources, recipe.ingest)
    report(outcome)
    work = list(outcome.work)
    version: Version = outcome.version
    called: dict[str, Version] = {}
    for step in recipe.steps:
        parents = [called.get(each) or store.open(each) for each in step.of] or [version]
        outcome = step.operation.run(store, parents, step.settings)
        report(outcome)
        work += outcome.work
        version = outcome.version
        if step.called:
            called[step.called] = version
            store.name(step.called, version.id)
    if recipe.name:
        store.name(recipe.name, version.id)
    return Outcome(version, tuple(work))
