"""Which model's sizes a command is about: a published one by its name, or one that is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laguna_agent.backend.kernels.cuda.geometry import Geometry


def geometries_of(model: str | None) -> tuple[Geometry, ...]:
    """The sizes of `model`: all published ones without it. Reads no weights. Raises LagunaError where the engine's
    packages are not there, or the model cannot be opened."""
    from laguna_agent.backend.laguna.in_process import check_packages

    check_packages()
    from laguna_agent.backend.kernels.cuda.geometry import PUBLISHED

    if model is None:
        return PUBLISHED
    published = [each for each in PUBLISHED if _plain(each.name) == _plain(model)]
    if published:
        return tuple(published)
    from laguna_agent.backend.laguna.device_step import geometry_of
    from laguna_agent.backend.laguna.weights.caches import find_model
    from laguna_agent.backend.laguna.weights.opening import open_checkpoint
    from laguna_agent.backend.providers import local_name
    from laguna_agent.config import load

    name = local_name(load(Path.cwd(), {"model": model}))
    return (geometry_of(open_checkpoint(find_model(name).resolve()).config),)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
