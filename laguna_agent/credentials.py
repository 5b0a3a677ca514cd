"""The keys that `laguna-agent login` stored, by provider, and the order in which a key is looked for: the environment
(which keeps none, see `held_keys`), then what was stored, in the system's keyring where that was asked for, or a file.

Knows where a key can come from; must not know what a provider is. A key is never shown: whoever holds a `Key` can
print it without showing the secret, and `redaction` takes it out of every text.

    <config>/credentials.json    {"openrouter": {"key": "..."}, "poolside": {"keyring": true}}    mode 0600
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laguna_agent.atomic import OWNER_ONLY, replace_file
from laguna_agent.directories import config_directory
from laguna_agent.errors import ConfigError
from laguna_agent.held_keys import held
from laguna_agent.redaction import know
from laguna_agent.system_keyring import delete_secret, get_secret, set_secret


@dataclass(frozen=True)
class Key:
    """A key and where it was found, in words that fit behind "check"."""

    secret: str = field(repr=False)
    source: str


_own: set[str] = set()
_from_keyring: dict[str, str] = {}


def is_own_key(text: str) -> bool:
    """Whether this is a key that was looked up here, for whatever provider."""
    return text in _own


def forget_all() -> None:
    """Know of no key that was looked up; the stored ones stay where they are."""
    _own.clear()
    _from_keyring.clear()


def _found(secret: str, source: str) -> Key:
    _own.add(secret)
    return Key(secret, source)


def credentials_file() -> Path:
    """Where stored keys are, whether or not there are any."""
    return config_directory() / "credentials.json"


def find_key(provider: str, variable: str) -> Key | None:
    """The key for a provider: what `variable` holds, else what was stored. Raises ConfigError for a broken file."""
    return key_in_environment(variable) or stored_key(provider)


def key_in_environment(variable: str) -> Key | None:
    """The key that an environment variable holds, or held when the program started; an empty one counts as absent."""
    secret = held(variable).strip()
    return _found(secret, variable) if secret else None


def stored_key(provider: str) -> Key | None:
    """The key that was stored for a provider. Raises ConfigError for a broken file."""
    entry = _read().get(provider, {})
    if entry.get("keyring"):
        return _key_in_keyring(provider)
    secret = entry.get("key")
    return _found(secret, f"the key that `laguna-agent login {provider}` stored") if secret else None


def know_stored_keys() -> None:
    """Have every stored key taken out of texts, whether or not it is used. A broken file or keyring gives none that
    could be shown; whoever needs one of it is told so. Blocking: a keyring may ask a person."""
    with suppress(ConfigError):
        for provider, entry in _read().items():
            if entry.get("keyring"):
                _key_in_keyring(provider)


def stored_providers() -> list[str]:
    """The providers that a key is stored for, sorted. Raises ConfigError for a broken file."""
    return sorted(_read())


def store_key(provider: str, secret: str, *, in_keyring: bool = False) -> None:
    """Store a key, in place of an older one. Raises ConfigError, and UsageError where there is no keyring."""
    if in_keyring:
        set_secret(provider, secret)
    elif _read().get(provider, {}).get("keyring"):
        delete_secret(provider)
    _from_keyring.pop(provider, None)
    _write(_read() | {provider: {"keyring": True} if in_keyring else {"key": secret}})


def remove_key(provider: str) -> bool:
    """Forget a stored key; whether there was one. Raises ConfigError."""
    kept = _read()
    entry = kept.pop(provider, None)
    if entry is None:
        return False
    if entry.get("keyring"):
        delete_secret(provider)
        _from_keyring.pop(provider, None)
    _write(kept)
    return True


def is_private() -> bool:
    """Whether nobody but the owner can read the file; true where there is none."""
    try:
        return not credentials_file().stat().st_mode & 0o077
    except OSError:
        return True


def _read() -> dict[str, dict[str, Any]]:
    path = credentials_file()
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"cannot read the stored keys {path}: {error.strerror}") from error
    except ValueError as error:
        # The text of the error may quote the file, and the file holds keys.
        raise _broken(path) from error
    if not isinstance(stored, dict) or not all(_is_entry(entry) for entry in stored.values()):
        raise _broken(path)
    for provider, entry in stored.items():
        _known(str(entry.get("key", "")), provider)
    return stored


def _is_entry(entry: object) -> bool:
    return isinstance(entry, dict) and (isinstance(entry.get("key"), str) or entry.get("keyring") is True)


def _key_in_keyring(provider: str) -> Key | None:
    """Asked once: every question may open a dialogue."""
    if provider not in _from_keyring and (found := get_secret(provider)):
        _from_keyring[provider] = found
    secret = _from_keyring.get(provider)
    if not secret:
        return None
    _known(secret, provider)
    return _found(secret, "the system's keyring")


def _known(secret: str, provider: str) -> None:
    if secret:
        _own.add(secret)
        know(secret, f"key of {provider}")


def _broken(path: Path) -> ConfigError:
    return ConfigError(f"the stored keys {path} are damaged; remove the file and run `laguna-agent login` again")


def _write(entries: dict[str, dict[str, Any]]) -> None:
    path = credentials_file()
    try:
        if entries:
            replace_file(path, (json.dumps(entries, indent=2) + "\n").encode(), mode=OWNER_ONLY)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write the stored keys {path}: {error.strerror}") from error
