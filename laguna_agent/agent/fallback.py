"""The models that a session goes on with when its own fails for good (`fallback_models`).

Knows the settings, the session's backend and the tape; asks no model anything. What counts as failing for good is every
ProviderError that came through the retry budget: overload, limits, spent credit, an unknown model, a request that this
server refuses, a conversation that does not fit its window. Not a filter or a refusal: what one provider will not
answer is not carried to the next. A server that cannot be reached or refuses the key is not asked again under another
model's name. Once a session has fallen back it stays there; a resumed one, or a /model chosen, begins at the top.

The dialect, the tools and the system message stay those of the turn that was begun: the conversation holds them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from laguna_agent.agent.events import Event, Notice
from laguna_agent.agent.store import Described, FellBack
from laguna_agent.config import Settings
from laguna_agent.errors import (
    AuthenticationFailed,
    ConfigError,
    ContentFiltered,
    LagunaError,
    ProviderError,
    Unreachable,
)

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session
    from laguna_agent.backend.base import Backend

Describe = Callable[["Session"], Awaitable[Described]]
Emit = Callable[[Event], Awaitable[None]]


@dataclass
class Fallback:
    """What is left of a session's fallback models: `left` by name, in order; `shut` are the servers that are not asked
    again, by their address. `taken` says whether the session has fallen back."""

    left: list[str] = field(default_factory=list)
    shut: set[str] = field(default_factory=set)
    taken: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Fallback:
        """All that the settings name. Raises ConfigError for a name of no known provider."""
        for name in settings.fallback_models:
            settings_for(name, settings)
        return cls(list(settings.fallback_models))


def settings_for(name: str, settings: Settings) -> Settings:
    """The settings that lead to a fallback model. A name that begins with a provider's means that provider, another one
    a model of the same base URL. Raises ConfigError for a name of neither."""
    from laguna_agent.backend.providers import PROVIDERS, provider_name

    provider, _, rest = name.partition("/")
    if rest and (provider == "local" or provider_name(name) in PROVIDERS):
        return msgspec.structs.replace(settings, model=name, base_url=None, api_key_env=None)
    if settings.base_url:
        return msgspec.structs.replace(settings, model=name)
    raise ConfigError(
        f"the fallback model {name!r} names no provider; write PROVIDER/NAME with one of {', '.join(PROVIDERS)}, local"
    )


async def describe_usable(
    session: Session, describe: Describe, emit: Emit, error: ProviderError | None = None
) -> Described:
    """What is known of the session's model; of the first fallback that can be used where it cannot, because of `error`
    or of what describing it gives. Raises the ProviderError of the last one where none is left."""
    while True:
        if error is not None or isinstance(session.tape.peek(), FellBack):
            if not await _fall_back(session, emit, error):
                assert error is not None, "a recorded fallback is always taken"
                raise error
            error = None
            if isinstance(session.tape.peek(), FellBack):
                continue  # replayed: the recorded model could not be described either
        try:
            return await session.tape.take(Described, lambda: describe(session))
        except ProviderError as problem:
            error = problem


async def _fall_back(session: Session, emit: Emit, error: ProviderError | None) -> bool:
    """Put the next model in the place of the session's; False where there is none."""
    if session.tape.recorded:
        if not isinstance(session.tape.peek(), FellBack):
            return False
        fell = await session.tape.take(FellBack, _nothing_to_produce)
    else:
        assert error is not None, "a live session falls back because of an error"
        found = None if isinstance(error, ContentFiltered) else await _next(session, error)
        if found is None:
            return False
        chosen = found

        async def produce() -> FellBack:
            return chosen

        fell = await session.tape.take(FellBack, produce)
    session.model, session.fallback.taken = fell.model, True
    for notice in fell.notices:
        await emit(Notice("warning", notice))
    return True


async def _next(session: Session, error: ProviderError) -> FellBack | None:
    """Open the first fallback model that a server can be asked for; what was said of those before it."""
    from laguna_agent.backend.providers import open_backend

    fallback, notices = session.fallback, [str(error)]
    if isinstance(error, Unreachable | AuthenticationFailed) and session.backend is not None:
        fallback.shut.add(session.backend.target)
    while fallback.left:
        name = fallback.left.pop(0)
        backend: Backend | None = None
        try:
            backend, wire_model = await open_backend(settings_for(name, session.settings))
        except LagunaError as problem:
            notices.append(f"{name} cannot take its place: {problem}")
            continue
        if backend.target in fallback.shut:
            notices.append(f"{name} cannot take its place: it is on the same server")
            await backend.aclose()
            continue
        failed = session.model or session.wire_model or "the model"
        before, session.backend, session.wire_model = session.backend, backend, wire_model
        if before is not None:
            await before.aclose()
        return FellBack(name, (*notices, f"the session goes on with {name} in place of {failed}"))
    return None


async def _nothing_to_produce() -> FellBack:
    raise AssertionError("a recorded tape produces nothing")
