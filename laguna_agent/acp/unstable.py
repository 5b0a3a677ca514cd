"""Methods that the official schema calls unstable, spoken only with `laguna-agent acp --unstable`.

Structs after schema/v1/schema.unstable.json of npm @agentclientprotocol/sdk 2.4.0. They may change with any release of
the protocol, which is why they stay out of the generated module.
"""

from __future__ import annotations

from laguna_agent.acp.schema import (
    McpServer,
    SessionCapabilities,
    SessionConfigOption,
    SessionModeState,
    Wire,
)


class ForkCapabilities(Wire, frozen=True):
    """The agent can fork sessions."""


class TitleCapabilities(Wire, frozen=True):
    """The agent stores titles that a client gives."""


class UnstableSessionCapabilities(SessionCapabilities, frozen=True):
    """The stable capabilities and those of this module."""

    fork: ForkCapabilities | None = None
    title: TitleCapabilities | None = None


def with_unstable(stable: SessionCapabilities) -> UnstableSessionCapabilities:
    """The stable capabilities and what this module adds."""
    return UnstableSessionCapabilities(
        **{name: getattr(stable, name) for name in stable.__struct_fields__},
        fork=ForkCapabilities(),
        title=TitleCapabilities(),
    )


class ForkSessionRequest(Wire, frozen=True):
    """A new session with the conversation of another one."""

    session_id: str
    cwd: str
    additional_directories: list[str] | None = None
    mcp_servers: list[McpServer] | None = None


class ForkSessionResponse(Wire, frozen=True):
    """The copy."""

    session_id: str
    modes: SessionModeState | None = None
    config_options: list[SessionConfigOption] | None = None


class SetSessionTitleRequest(Wire, frozen=True):
    """A title for a session, which need not be open."""

    session_id: str
    title: str


class SetSessionTitleResponse(Wire, frozen=True):
    """The title as it was stored."""

    title: str
