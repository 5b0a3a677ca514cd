"""`laguna-agent login` and `logout`: the keys of hosted models, typed once and kept where only the person reads them.

Also what an editor runs in a terminal when nothing is set up yet, hence the question for a model at the end.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laguna_agent.cli.printing import is_terminal, show
from laguna_agent.errors import AuthenticationFailed, ProviderUnavailable, UsageError

if TYPE_CHECKING:
    from laguna_agent.backend.providers import Provider
    from laguna_agent.config import Settings

PROVIDER_HELP = "openrouter, poolside, ollama, llamacpp or vllm; asked for where it is left out"
ProviderName = Annotated[str | None, typer.Argument(metavar="PROVIDER", help=PROVIDER_HELP)]
NoCheck = Annotated[bool, typer.Option("--no-check", help="store the key without asking the provider about it")]
InKeyring = Annotated[
    bool,
    typer.Option("--keyring", help="keep the key in the system's keyring (needs laguna-agent[keyring])"),
]
TRIES = 3
SHOWN_MODELS = 10
CHECK_PATIENCE = 20.0


def login(
    context: typer.Context, provider: ProviderName = None, no_check: NoCheck = False, keyring: InKeyring = False
) -> int:
    """Store a provider's key. Asks for it on a terminal; elsewhere it is the first line of standard input."""
    from laguna_agent.config import load

    given = context.parent.params if context.parent else {}
    settings = load(Path("/"), {key: given.get(key) for key in ("model", "base_url")})
    asks = is_terminal()
    chosen = _provider(provider, settings, asks=asks)
    models = _take_key(chosen, asks=asks, check=not no_check, in_keyring=keyring)
    _say_model(chosen, settings, models, asks=asks)
    return 0


def logout(provider: ProviderName = None) -> int:
    """Remove a provider's stored key."""
    from laguna_agent.backend.providers import PROVIDERS, find_provider
    from laguna_agent.credentials import credentials_file, key_in_environment, remove_key, stored_providers

    stored = stored_providers()
    if provider is None and len(stored) != 1:
        if not stored:
            show(f"no key is stored in {credentials_file()}")
            return 0
        raise UsageError(f"keys of {', '.join(stored)} are stored; say whose to remove: laguna-agent logout PROVIDER")
    name = provider or stored[0]
    if name not in stored:  # What another version stored can be removed, whatever the table of this one says.
        name = find_provider(name).name
    gone = "the key of {} is removed from {}" if remove_key(name) else "no key of {} is stored in {}"
    show(gone.format(name, credentials_file()))
    row = PROVIDERS.get(name)
    if row and key_in_environment(row.key_env):
        show(f"{row.key_env} is still set in this environment, and is used")
    return 0


def _provider(name: str | None, settings: Settings, *, asks: bool) -> Provider:
    from laguna_agent.backend.providers import PROVIDERS, find_provider, provider_name, provider_url

    if name is not None:
        return find_provider(name)
    if not asks:
        raise UsageError("login needs a terminal, or a provider's name and its key on standard input")
    rows = list(PROVIDERS.values())
    for number, row in enumerate(rows, 1):
        show(f"{number}  {row.name:10}  {provider_url(row)}" + ("" if row.needs_key else "  (a key is optional)"))
    used = provider_name(settings.model or "")
    usual = used if used in PROVIDERS else rows[0].name
    while True:
        answer = _ask(f"Provider [{usual}]: ") or usual
        if answer.isdigit() and 0 < int(answer) <= len(rows):
            return rows[int(answer) - 1]
        try:
            return find_provider(answer)
        except UsageError as error:
            show(str(error))


def _take_key(provider: Provider, *, asks: bool, check: bool, in_keyring: bool) -> list[str]:
    """Get a key, have it checked and store it; the models that the server then lists."""
    for left in reversed(range(TRIES if asks else 1)):
        secret = _read_key(provider, asks=asks)
        try:
            models = _checked(provider, secret) if check else []
        except AuthenticationFailed as error:
            if not left:
                raise AuthenticationFailed(f"{error}; nothing is stored") from error
            show(f"{error}; try again")
            continue
        except ProviderUnavailable as error:
            if not asks:
                raise ProviderUnavailable(f"{error}; nothing is stored (--no-check stores it unchecked)") from error
            show(f"The key could not be checked: {error}")
            if _ask("Go on without? [y/N] ").lower() not in {"y", "yes"}:
                raise UsageError("nothing is stored") from error
            models = []
        _store(provider, secret, in_keyring=in_keyring)
        return models
    raise AssertionError("the last try returns or raises")


def _read_key(provider: Provider, *, asks: bool) -> str:
    import getpass

    optional = "" if provider.needs_key else " (none: just press Enter)"
    try:
        # A key is not echoed either where only the output goes elsewhere.
        hidden = asks or (sys.stdin is not None and sys.stdin.isatty())
        question = f"Key for {provider.name}{optional}, not shown: "
        typed = getpass.getpass(question) if hidden else sys.stdin.readline() if sys.stdin else ""
    except EOFError:
        raise UsageError("no key was typed; nothing is stored") from None
    secret = typed.strip()
    if not secret and provider.needs_key:
        raise UsageError("no key was typed; nothing is stored")
    if not (secret.isascii() and secret.isprintable() and " " not in secret):
        raise UsageError("what was typed holds characters that no key has; nothing is stored")
    return secret


def _checked(provider: Provider, secret: str) -> list[str]:
    """The models that the key opens. Raises AuthenticationFailed, and ProviderUnavailable where nobody answers."""
    import anyio

    from laguna_agent.backend.openai_http import OpenAIBackend
    from laguna_agent.backend.providers import provider_url
    from laguna_agent.config import Settings

    async def ask() -> list[str]:
        hurried = Settings(connect_timeout=5.0, retry_budget=0.0)
        backend = OpenAIBackend(
            provider.name, provider_url(provider), secret or None, hurried, key_env="what you typed", kind=provider.kind
        )
        try:
            with anyio.fail_after(CHECK_PATIENCE):
                return [info.id for info in await backend.check_key()]
        except TimeoutError:
            raise ProviderUnavailable(f"no answer within {CHECK_PATIENCE:g} s") from None
        finally:
            with anyio.CancelScope(shield=True):
                await backend.aclose()

    models = anyio.run(ask)
    if secret and not models:
        show(f"{provider.name} did not list its models, so that the key is not checked")
    return models


def _store(provider: Provider, secret: str, *, in_keyring: bool) -> None:
    from laguna_agent.credentials import credentials_file, key_in_environment, store_key

    if not secret:
        return
    store_key(provider.name, secret, in_keyring=in_keyring)
    place = "the system's keyring" if in_keyring else f"{credentials_file()}; only you can read it"
    show(f"The key is stored in {place}.")
    if key_in_environment(provider.key_env):
        show(f"{provider.key_env} is set in this environment, and is used before it.")


def _say_model(provider: Provider, settings: Settings, models: list[str], *, asks: bool) -> None:
    """Say which model is used from now on; where none is, have one chosen."""
    if used := settings.model or settings.base_url:
        show(f"The model in use is {used}; `laguna-agent config show` says where it is set.")
        return
    usual = _usual_model(provider, models)
    if not asks:
        if usual:
            show(f"To use it: laguna-agent --model {usual}")
        return
    if not usual:
        _list_models(models)
    answer = _ask(f"Model to use from now on, or none [{usual or 'none'}]: ") or usual or "none"
    if answer != "none":
        from laguna_agent.cli.model_setting import add_model

        whole = answer.startswith(f"{provider.name}/") and answer not in models
        model = answer if whole else f"{provider.name}/{answer}"
        show(f"{model} is set in {add_model(model)}.")


def _usual_model(provider: Provider, models: list[str]) -> str | None:
    only = models[0] if len(models) == 1 else None
    name = provider.default_model or only
    return f"{provider.name}/{name}" if name else None


def _list_models(models: list[str]) -> None:
    if models:
        show("It has " + ", ".join(models[:SHOWN_MODELS]) + (", ..." if len(models) > SHOWN_MODELS else ""))


def _ask(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        raise UsageError("no answer; stopped here") from None
