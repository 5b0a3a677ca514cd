"""Logging in and out, as an editor sees it. https://agentclientprotocol.com/protocol/v1/authentication

Two ways in: the key that is there already (from the environment, or stored by `laguna-agent login`), which costs the
editor one request; and a terminal in which `laguna-agent login` asks for one. Nothing here asks a server, and nothing
is kept: a login in another terminal counts at once. Knows no session.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from laguna_agent.acp import schema
from laguna_agent.acp.peer import AUTH_REQUIRED, INVALID_PARAMS, Call, RpcError
from laguna_agent.errors import LagunaError, UsageError
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
TERMINAL_NAME = "Log in in a terminal"
TERMINAL_DESCRIPTION = "Runs `laguna-agent login`: choose a provider, type its key."
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
        self._check(self._settings())
        self._logged_out_at = None
        return schema.AuthenticateResponse()

    async def logout(self, _: schema.LogoutRequest, __: Call) -> schema.LogoutResponse:
        """Forget the key that `laguna-agent login` stored for the provider in use, and open no further session until
        the person logs in again. A key in the environment is not ours to remove; the open sessions go on."""
        from laguna_agent.credentials import remove_key

        try:
            provider = _key_state(self._settings()).provider
            if provider:
                remove_key(provider)
        except UsageError as error:
            raise RpcError(INVALID_PARAMS, str(error)) from error
        except LagunaError:
            pass  # Nothing is configured: there is no key to forget.
        self._logged_out_at = _mark()
        return schema.LogoutResponse()

    def require(self, settings: Settings) -> None:
        """RpcError -32000 where a session with these settings could not ask its model, or the person logged out."""
        if self._logged_out_at is not None:
            if self._logged_out_at == _mark():
                raise RpcError(AUTH_REQUIRED, LOGGED_OUT)
            self._logged_out_at = None  # `laguna-agent login` ran in a terminal; no request tells of that.
        self._check(settings)

    def _settings(self) -> Settings:
        from laguna_agent.config import load

        # A project may not choose the model or its key, so that any directory will do.
        return load(Path("/"), self._flags)

    def _check(self, settings: Settings) -> None:
        """RpcError where the model cannot be asked."""
