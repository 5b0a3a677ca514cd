"""Secrets of the environment, taken out of it before the first child starts, and held here.

A child would inherit them, and any process of the same user reads another's first environment in /proc/PID/environ,
which shows the block of memory that the process started with, whatever it unset since. So a secret is removed from the
environment and its bytes in that block are overwritten (through /proc/self/mem: no ctypes, whose import takes longer
than all of this). Where there is no such file, as on macOS, other users see nothing of it either.

Knows names and memory; must not know which provider a key is for. What is taken is known to `redaction`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from laguna_agent.redaction import know

# By the parts of the name. LAGUNA_ names are settings, such as LAGUNA_MAX_TOKENS, but for the one that is a token.
_SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(?:API_?KEY|KEY|TOKEN|AUTH_?TOKEN|SECRETS?|PAT|CREDENTIALS?|COOKIE|PASSPHRASE)(?:$|_)"
    r"|PASSWORD|PASSWD|^PGPASS|^LAGUNA_SERVE_TOKEN$"
)
_PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_SETTING = re.compile(r"^LAGUNA_(?!SERVE_TOKEN$)")
_ENTRIES = 4 << 20
"""Bytes of the environment that are looked through; Linux allows a process 6 MiB of it and its arguments."""

_held: dict[str, str] = {}


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret, as far as names tell."""
    return _SECRET_NAME.search(name) is not None and not _SETTING.match(name)


def take_secrets() -> None:
    """Take every variable whose name is that of a secret out of the environment. One whose value is an address with a
    password stays, for libraries read their proxies there; but /proc shows it no more."""
    take(name for name in list(os.environ) if is_secret_name(name))
    with_password = [name for name, value in os.environ.items() if _PASSWORD_IN_URL.search(value)]
    for name in with_password:
        know_password(os.environ[name], name)
        # Set anew it lies elsewhere in memory, and what the process started with can go.
        os.environ[name] = os.environ[name]
    if with_password:
        _blank(with_password)


def take(names: Iterable[str]) -> None:
    """Take these variables out of the environment, those that are set. What was held under a name is replaced."""
    found = {name: value for name in names if (value := os.environ.pop(name, None)) is not None}
    if not found:
        return
    _held.update(found)
    for name, value in found.items():
        # A file's name is worth nothing to anybody, and stands in many texts.
        if not value.startswith("/"):
            know(value.strip(), name)
    _blank(found)


def know_password(address: str, name: str) -> None:
    """Where an address has a password in it, people call it by `name`."""
    if found := _PASSWORD_IN_URL.search(address):
        know(found[1], f"password in {name}")


def held(name: str) -> str:
    """What a variable held, or still holds: from now on it is out of the environment. Empty where it is not set."""
    if name:
        take((name,))
    return _held.get(name, "")


def held_variables() -> Mapping[str, str]:
    """All that was taken."""
    return MappingProxyType(_held)


def let_go() -> None:
    """Forget what is held; it does not come back."""
    _held.clear()


def shown_in_proc(names: Iterable[str]) -> list[str]:
    """Those of the variables whose values the process's first environment still shows to whoever may look."""
    wanted = set(names)
    return sorted({name for name, value, _ in _entries() if name in wanted and value.strip(b"\0")})


def _blank(names: Iterable[str]) -> None:
    """Overwrite the values of these variables where the process found them when it started."""
    wanted = set(names)
    places = [(at, len(value)) for name, value, at in _entries() if name in wanted]
    if not places:
        return
    # Where this is refused (a kernel or container may), `doctor` says so: it looks at what is still shown.
    with suppress(OSError):
        memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            for at, length in places:
                os.pwrite(memory, b"\0" * length, at)
        finally:
            os.close(memory)


def _entries() -> Iterable[tuple[str, bytes, int]]:
    """Name, value and the value's address of each variable that the process started with; empty without a /proc."""
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - pathlib is not loaded yet where this runs first
            # After the program's name, which may hold anything, come the fields from the third on; `env_start` is 50.
            start = int(file.read().rpartition(b")")[2].split()[47])
        with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
            block = file.read(_ENTRIES)
    except (OSError, ValueError, IndexError):
        return []
    found, at = [], 0
    for entry in block.split(b"\0"):
        name, sign, value = entry.partition(b"=")
        if sign:
            found.append((os.fsdecode(name), value, start + at + len(name) + 1))
        at += len(entry) + 1
    return found
