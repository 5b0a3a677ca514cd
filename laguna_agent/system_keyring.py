"""Keys in the system's keyring, through the package `keyring` (the extra `keyring`).

It is asked only for a key that `laguna-agent login --keyring` put there, so nobody without one pays for it, and no
desktop asks to unlock anything. Whatever answers may take its time, or ask a person who is not there: it gets some
seconds, in a thread that the program's end does not wait for. Knows names and secrets; must not know providers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

from laguna_agent.errors import ConfigError, UsageError

SERVICE = "laguna-agent"
PATIENCE = 10.0
"""Seconds; a person may have to type the keyring's password."""

T = TypeVar("T")


def get_secret(name: str) -> str | None:
    """The secret under a name; None where there is none, or no keyring at all. Raises ConfigError for one that is
    locked or broken."""
    return _ask(lambda keyring: keyring.get_password(SERVICE, name)) if is_installed() else None


def set_secret(name: str, secret: str) -> None:
    """Keep a secret under a name. Raises UsageError where there is no keyring, ConfigError for one that refuses."""
    if not is_installed():
        raise UsageError("no keyring can be used: pip install 'laguna-agent[keyring]'")

    def store(keyring: Any) -> bool:
        keyring.set_password(SERVICE, name, secret)
        return True

    if _ask(store) is None:
        raise UsageError("this system has no keyring that works here; log in without --keyring")


def delete_secret(name: str) -> None:
    """Forget a secret, if there is one. Raises ConfigError."""

    def delete(keyring: Any) -> None:
        if keyring.get_password(SERVICE, name) is not None:
            keyring.delete_password(SERVICE, name)

    if is_installed():
        _ask(delete)


def is_installed() -> bool:
    """Whether the package is there; this says nothing of the system."""
    return find_spec("keyring") is not None


def _ask(question: Callable[[Any], T]) -> T | None:
    """The answer; None where the system has no keyring."""
    answers: list[T | None] = []
    problems: list[str] = []

    def ask() -> None:
        try:
            import keyring
            from keyring.errors import NoKeyringError

            try:
                answers.append(question(keyring))
            except NoKeyringError:
                answers.append(None)
        except Exception as error:  # noqa: BLE001 - a backend is anybody's code, and may raise anything
            problems.append(" ".join(f"{type(error).__name__}: {error}".split()))

    thread = threading.Thread(target=ask, name="keyring", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if answers:
        return answers[0]
    why = problems[0] if problems else f"no answer within {PATIENCE:g} s"
    raise ConfigError(f"the system's keyring cannot be used ({why}); unlock it, or set the key's variable")
