"""The providers by name, and the one way to a backend: `open_backend(settings)`.

A row says where a provider is, which variables of the environment it goes by, and how its server wants thought and
history spelled. Facts about a protocol belong into `wire`, facts about an error into `faults`.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import msgspec

from laguna_agent.backend.address import normal_url, origin, spelled
from laguna_agent.backend.base import Backend
from laguna_agent.backend.probe import ServerKind
from laguna_agent.backend.wire import Dialect
from laguna_agent.config import Settings
from laguna_agent.credentials import Key, find_key, key_in_environment, stored_key
from laguna_agent.errors import AuthenticationFailed, ConfigError, UsageError

NOTHING_CONFIGURED = """\
No model is configured. To run one on this machine: laguna-agent models pull qwen2.5-coder-1.5b
To use a hosted one: laguna-agent login (or set OPENROUTER_API_KEY), and --model openrouter/NAME if you like.
To use a server that runs already: --base-url http://HOST:PORT/v1 (anything that speaks the OpenAI protocol)."""


class NothingConfigured(UsageError):
    """No model is asked for, and nothing is there that could be meant."""


class Provider(msgspec.Struct, frozen=True):
    """One row. `base_env` and `key_env` name variables; `default_model` is taken when only the key is there."""

    name: str
    base_url: str
    base_env: str
    key_env: str
    kind: ServerKind
    needs_key: bool = False
    dialect: Dialect = Dialect()
    default_model: str | None = None


PROVIDERS: dict[str, Provider] = {
    row.name: row
    for row in (
        Provider(
            "openrouter",
            "https://openrouter.ai/api/v1",
            "OPENROUTER_BASE_URL",
            "OPENROUTER_API_KEY",
            "openrouter",
            needs_key=True,
            dialect=Dialect("reasoning", details=True, thinking="openrouter"),
            default_model="poolside/laguna-xs-2.1:free",
        ),
        Provider(
            "poolside",
            "https://inference.poolside.ai/v1",
            "POOLSIDE_STANDALONE_BASE_URL",
            "POOLSIDE_API_KEY",
            "poolside",
            needs_key=True,
            dialect=Dialect(thinking="template"),
            default_model="poolside/laguna-xs-2.1",
        ),
        Provider(
            "ollama",
            "http://127.0.0.1:11434/v1",
            "OLLAMA_HOST",
            "OLLAMA_API_KEY",
            "ollama",
            dialect=Dialect("reasoning"),
        ),
        Provider(
            "llamacpp",
            "http://127.0.0.1:8080/v1",
            "LLAMACPP_BASE_URL",
            "LLAMA_API_KEY",
            "llamacpp",
            dialect=Dialect(thinking="template"),
        ),
        Provider(
            "vllm",
            "http://127.0.0.1:8000/v1",
            "VLLM_BASE_URL",
            "VLLM_API_KEY",
            "vllm",
            dialect=Dialect(thinking="template"),
        ),
    )
}
ALIASES = {"llama.cpp": "llamacpp", "llama-cpp": "llamacpp"}


class KeyState(msgspec.Struct, frozen=True):
    """How the server that the settings choose is told who asks: whom the key is for, whether nothing works without it,
    the variable that may hold it, and the key where one was found. A model on this machine has no provider."""

    provider: str = ""
    needed: bool = False
    variable: str = ""
    key: Key | None = None

    def missing(self) -> AuthenticationFailed | None:
        """What a person must do before anything can work, if there is something."""
        if self.key is not None or not self.needed:
            return None
        return AuthenticationFailed(_what_to_do(self.provider, self.variable))


def find_provider(name: str) -> Provider:
    """A provider by its name. Raises UsageError."""
    provider = PROVIDERS.get(ALIASES.get(name, name))
    if provider is None:
        raise UsageError(f"unknown provider {name!r}; providers are {', '.join(PROVIDERS)}")
    return provider


def key_state(settings: Settings) -> KeyState:
    """What is known of the key without asking any server. A model of no known provider counts as needing none, for
    `open_backend` explains it. Raises NothingConfigured, and ConfigError where the file of stored keys is broken."""
    if settings.base_url:
        return _key_at(normal_url(settings.base_url, "the base URL"), settings)[1]
    provider = PROVIDERS.get(provider_name(settings.model or default_model()))
    return _key_of(provider) if provider else KeyState()


def provider_name(model: str) -> str:
    """The provider that a model's name begins with, as the table calls it."""
    name = model.partition("/")[0]
    return ALIASES.get(name, name)


async def open_backend(settings: Settings) -> tuple[Backend, str]:
    """The backend that `settings` ask for, and the model's name as that backend knows it.

    Raises UsageError where nothing, or nothing known, is asked for, and AuthenticationFailed where a key is needed and
    absent. Starting a local model may take seconds; every other way opens no connection, but for asking a server at
    `base_url` what it has when no model is named.
    """
    if settings.base_url:
        return await _at_url(settings, settings.base_url)
    model = settings.model or default_model()
    name, slash, rest = model.partition("/")
    if not slash or not rest:
        raise UsageError(f"model {model!r} names no provider; write PROVIDER/NAME, such as ollama/{model}; {_known()}")
    if name == "local":
        from laguna_agent.backend.laguna.in_process import open_in_process

        return await open_in_process(rest, settings), rest
    provider = PROVIDERS.get(ALIASES.get(name, name))
    if provider is None:
        raise UsageError(f"unknown provider {name!r} in model {model!r}; {_known()}, or use --base-url")
    return _backend(provider, provider_url(provider), _key_of(provider), settings), rest


def local_name(settings: Settings) -> str:
    """The name of the `local/` model that the settings mean. Raises UsageError where they mean another one."""
    model = settings.model or default_model()
    kind, _, name = model.partition("/")
    if kind != "local" or not name:
        raise UsageError(f"model {model!r} runs on a server; name one on this machine with --model local/NAME")
    return name


def provider_url(provider: Provider) -> str:
    """Where a provider is: what its variable says, else its own address."""
    return normal_url(os.environ.get(provider.base_env) or provider.base_url, provider.base_env)


def preload() -> None:
    """Load the code that every provider's first request needs. May run in a thread: it touches nothing else."""
    import laguna_agent.backend.openai_http  # noqa: F401
    from laguna_agent.backend.http_library import import_httpx

    import_httpx()


def _known() -> str:
    return f"providers are {', '.join(PROVIDERS)} and local"


def default_model() -> str:
    """The model that is meant where none is named. Raises NothingConfigured."""
    usual = [provider for provider in PROVIDERS.values() if provider.default_model]
    for provider in usual:
        if key_in_environment(provider.key_env):
            return f"{provider.name}/{provider.default_model}"
    for provider in usual:
        if stored_key(provider.name):
            return f"{provider.name}/{provider.default_model}"
    # Nothing is asked for and no key is there: what the person has pulled is what they mean to use.
    from laguna_agent.backend.weights.store import Store

    stored = Store().models()
    if stored:
        return f"local/{stored[-1].name}"
    raise NothingConfigured(NOTHING_CONFIGURED)


async def _at_url(settings: Settings, base_url: str) -> tuple[Backend, str]:
    url = normal_url(base_url, "the base URL")
    provider, state = _key_at(url, settings)
    backend = _backend(provider, url, state, settings)
    if settings.model:
        return backend, settings.model
    try:
        offered = [info.id for info in await backend.models()]
    except BaseException:
        await backend.aclose()
        raise
    if len(offered) == 1:
        return backend, offered[0]
    await backend.aclose()
    some = ", ".join(offered[:5]) + (", ..." if len(offered) > 5 else "")
    raise UsageError(f"{url} needs a --model" + (f"; it offers {some}" if offered else ""))


def _key_at(url: str, settings: Settings) -> tuple[Provider, KeyState]:
    """Who is at a base URL, and the key for it: a key goes only to the server it is meant for, which is a provider's
    own, or wherever api_key_env was set beside the URL. Raises ConfigError where that names another server's key."""
    own = next((row for row in PROVIDERS.values() if row.needs_key and origin(row.base_url) == origin(url)), None)
    provider = own or Provider(urlsplit(url).hostname or url, url, "", "", "unknown")
    if settings.api_key_env:
        _refuse_key_of_another(settings.api_key_env, url)
        key = key_in_environment(settings.api_key_env)
        return provider, KeyState(provider.name, True, settings.api_key_env, key)
    return provider, _key_of(own) if own else KeyState(provider.name)


def _refuse_key_of_another(variable: str, url: str) -> None:
    row = next((row for row in PROVIDERS.values() if row.key_env == variable), None)
    if row is None or origin(url) in {origin(row.base_url), origin(provider_url(row))}:
        return
    raise ConfigError(
        f"{variable} is the key for {row.name} at {spelled(provider_url(row))} and is not sent to {spelled(url)}; put "
        f"that server's key into a variable of its own and name it in api_key_env, or set {row.base_env} if {row.name} "
        "is there"
    )


def _key_of(provider: Provider) -> KeyState:
    key = find_key(provider.name, provider.key_env)
    return KeyState(provider.name, provider.needs_key, provider.key_env, key)


def _what_to_do(provider: str, variable: str) -> str:
    known = PROVIDERS.get(provider)
    if known and known.key_env == variable:
        return f"{provider} needs a key; run `laguna-agent login {provider}`, or set {variable}"
    return f"{provider} needs a key; set {variable}"


def _backend(provider: Provider, url: str, state: KeyState, settings: Settings) -> Backend:
    from laguna_agent.backend.openai_http import OpenAIBackend

    if (missing := state.missing()) is not None:
        raise missing
    key, source = (state.key.secret, state.key.source) if state.key else (None, state.variable)
    return OpenAIBackend(
        provider.name, url, key, settings, key_env=source, dialect=provider.dialect, kind=provider.kind
    )
