"""Logging in and out, as an editor sees it. https://agentclientprotocol.com/protocol/v1/authentication

Two ways in: the key that is there already (from the environment, or stored by `laguna-agent login`), which costs the
editor one request; and a terminal in which `laguna-agent login` asks for one. Nothing here asks a server, and nothing
is kept: a login in another terminal counts at once. Knows no session.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from laguna_agent.acp import schema
from laguna_agent.acp.peer import AUTH_REQUIRED, INVALID_PARAMS, Call, RpcError
from laguna_agent.errors import UsageError
from laguna_agent.program import own_command

if TYPE_CHECKING:
    from laguna_agent.backend.providers import KeyState
    from laguna_agent.config import Settings

KEY_METHOD = schema.AuthMethod(
    id="environment",
    name="Use the key that is there",
    description="Takes the key that `laguna-agent login` stored or that the environment holds (OPENROUTER_API_KEY, "
    "POOLSIDE_API_KEY, ...). A model on this machine needs none. `laguna-agent doctor` says what is missing.",
)
TERMINAL_METHOD = "terminal-login"
PASSED_ON = ("LAGUNA_MODEL", "LAGUNA_BASE_URL", "XDG_CONFIG_HOME")
"""What the login must know of the editor's settings for us; Zed starts it without them."""
LOGGED_OUT = "You are logged out. Log in again, or run `laguna-agent login` in a terminal."

Mark = tuple[tuple[int, int], ...]
"""Inode and time of change of the files that a login writes."""


class Authentication:
    """One connection's way in. `flags` are settings from the command line."""

    def __init__(self, flags: Mapping[str, object]) -> None:
        self._flags = flags
        self._logged_out_at: Mark | None = None

    async def authenticate(self, params: schema.AuthenticateRequest, _: Call) -> schema.AuthenticateResponse:
        """Succeed where the model in use can be asked, and say what to do where it cannot.

        The terminal method should not come here; a client that sends it after the login means the same question.
        """
        if params.method_id not in {KEY_METHOD.id, TERMINAL_METHOD}:
            raise RpcError(INVALID_PARAMS, f"Unknown method of authentication: {params.method_id}")
        with _told():
            _need_key(self._settings())
        self._logged_out_at = None
        return schema.AuthenticateResponse()

    async def logout(self, _: schema.LogoutRequest, __: Call) -> schema.LogoutResponse:
        """Forget the key that `laguna-agent login` stored for the provider in use, and open no further session until
        the person logs in again. A key in the environment is not ours to remove; the open sessions go on."""
        from laguna_agent.credentials import remove_key

        with _told():
            state = _key_state(self._settings())
            if state is not None and state.provider:
                remove_key(state.provider)
        self._logged_out_at = _mark()
        return schema.LogoutResponse()

    def require(self, settings: Settings) -> None:
        """RpcError -32000 where a session with these settings could not ask its model, or the person logged out."""
        if self._logged_out_at is not None:
            if self._logged_out_at == _mark():
                raise RpcError(AUTH_REQUIRED, LOGGED_OUT)
            self._logged_out_at = None  # `laguna-agent login` ran in a terminal; no request tells of that.
        with _told():
            _need_key(settings)

    def _settings(self) -> Settings:
        from laguna_agent.config import load

        # A project may not choose the model or its key, so that any directory will do.
        return load(Path("/"), self._flags)


def auth_methods(client: schema.ClientCapabilities, flags: Mapping[str, object]) -> list[schema.AuthMethod]:
    """What to advertise; the cheap one first, because some clients take the first without asking anybody.

    A client that says `auth.terminal` runs our command line with `login` at its end. Zed and JetBrains IDEs do not say
    it yet: they run the command in `_meta`. To a client that does neither it is a method like the first one.
    """
    terminal = schema.AuthMethod(
        id=TERMINAL_METHOD,
        name="Log in in a terminal",
        description="Runs `laguna-agent login`: choose a provider, type its key.",
        type="terminal" if client.auth.terminal else None,
        args=["login"] if client.auth.terminal else None,
        meta={"terminal-auth": _login_command(flags)},
    )
    return [KEY_METHOD, terminal]


def _login_command(flags: Mapping[str, object]) -> dict[str, object]:
    command = [*own_command(), "login"]
    known = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    if flags.get("model"):
        known["LAGUNA_MODEL"] = str(flags["model"])
    return {"command": command[0], "args": command[1:], "env": known, "label": "laguna-agent login"}


@contextmanager
def _told() -> Iterator[None]:
    """Errors of the configuration, as the client is told of them."""
    try:
        yield
    except UsageError as error:
        raise RpcError(INVALID_PARAMS, str(error)) from error


def _need_key(settings: Settings) -> None:
    state = _key_state(settings)
    if state is None:
        from laguna_agent.backend.providers import NOTHING_CONFIGURED

        raise RpcError(AUTH_REQUIRED, NOTHING_CONFIGURED)
    if (missing := state.missing()) is not None:
        raise RpcError(AUTH_REQUIRED, str(missing))


def _key_state(settings: Settings) -> KeyState | None:
    """None where no model is configured."""
    from laguna_agent.backend.providers import NothingConfigured, key_state

    try:
        return key_state(settings)
    except NothingConfigured:
        return None


def _mark() -> Mark:
    from laguna_agent.config import user_file
    from laguna_agent.credentials import credentials_file

    return tuple(_changed(path) for path in (credentials_file(), user_file()))


def _changed(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
