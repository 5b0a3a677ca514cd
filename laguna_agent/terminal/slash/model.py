"""`/model`: which model is asked. The server in use is asked what it has; other names can be given outright."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from laguna_agent.errors import LagunaError
from laguna_agent.terminal.face import SlashCommand
from laguna_agent.terminal.picker import Picker

if TYPE_CHECKING:
    from laguna_agent.config import Settings
    from laguna_agent.terminal.face import Face


async def _model(face: Face, argument: str) -> None:
    name: str | None = argument.strip()
    if not name:
        name = await _chosen(face)
    if name is None:
        return
    await face.link.change(model=name)
    face.say(f"model {name}, from the next prompt on", "dim")


async def _chosen(face: Face) -> str | None:
    """A model from the list, to which the server's are added as soon as it has told them."""
    settings = face.settings
    known = dict(_configured(settings, face.link.facts.model))
    items = [(name, name, about) for name, about in known.items()]
    in_use = settings.model or face.link.facts.model
    picker = Picker("Which model is asked", items, face.theme, chosen=in_use)
    picker.note = "asking the server what it has ..."

    async def complete() -> None:
        listed: list[str] = await face.link.call(_listed, settings)
        picker.note = "" if listed else "the server in use lists none; /model NAME takes any"
        new = [name for name in listed if name not in known]
        picker.add((name, name, "stored on this machine" if name.startswith("local/") else "") for name in new)

    async with anyio.create_task_group() as group:
        group.start_soon(complete)
        name = await face.show(picker)
        group.cancel_scope.cancel()
    return name


async def _listed(settings: Settings) -> list[str]:
    from laguna_agent.backend.catalog import known_models

    return await known_models(settings)


def _configured(settings: Settings, in_use: str) -> list[tuple[str, str]]:
    """Models that the settings or the stored keys lead to."""
    from laguna_agent.backend.providers import PROVIDERS
    from laguna_agent.credentials import key_in_environment, stored_key

    found = [(settings.model or in_use, "in use")] if settings.model or in_use else []
    found += [(name, "to fall back to") for name in settings.fallback_models if name != settings.model]
    for row in PROVIDERS.values():
        name = f"{row.name}/{row.default_model}"
        if settings.base_url or not row.default_model or name == settings.model:
            continue
        try:
            has_key = key_in_environment(row.key_env) or stored_key(row.name)
        except LagunaError:
            # The file of keys is broken; /doctor says how.
            has_key = None
        if has_key:
            found.append((name, f"the usual one of {row.name}"))
    return found


MODEL = SlashCommand("model", "Choose the model, or name one", _model, "NAME", at_work=True, session=True)
