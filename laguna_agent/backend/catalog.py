"""The models that a person can choose among: what the server in use offers, and what is stored on this machine."""

from __future__ import annotations

import anyio
import msgspec

from laguna_agent.backend.providers import default_model, open_backend, provider_name
from laguna_agent.backend.weights.store import Store
from laguna_agent.config import Settings
from laguna_agent.errors import LagunaError

PATIENCE = 10.0
"""Seconds that a server may take to list its models."""


async def known_models(settings: Settings) -> list[str]:
    """Names that `settings.model` can take, those of the server in use first, which is asked. Never fails: a server
    that cannot be asked offers nothing. Models that call no tools are left out."""
    if settings.base_url:
        # Named, so that the server is not asked what the model is called.
        return await _listed(msgspec.structs.replace(settings, model=settings.model or "any"), "")
    try:
        stored = [f"local/{model.name}" for model in Store().models()]
    except OSError:
        stored = []
    try:
        model = settings.model or default_model()
    except LagunaError:
        return stored
    provider = provider_name(model)
    if provider == "local":
        return stored
    return await _listed(msgspec.structs.replace(settings, model=model), f"{provider}/") + stored


async def _listed(settings: Settings, prefix: str) -> list[str]:
    try:
        backend, _ = await open_backend(settings)
        try:
            with anyio.fail_after(PATIENCE):
                return [prefix + info.id for info in await backend.models() if info.supports_tools]
        finally:
            await backend.aclose()
    except (LagunaError, TimeoutError):
        return []
