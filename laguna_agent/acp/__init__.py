"""The Agent Client Protocol: the agent inside editors. https://agentclientprotocol.com

    streams   bytes: stdio taken over, lines, the bounded outbox
    peer      JSON-RPC 2.0 over lines
    schema    the messages as Structs, generated from the official schema; `decoding` reads them leniently, `encoding`
              writes lines
    authentication   who may ask: the key that is there, or a login in a terminal
    face      the methods, over all sessions; `conversation` is one of them, `listing` the recorded ones
    options   modes and config options; `unstable`: methods that only `--unstable` adds
    updates   events -> session/update; `prompts`: what the editor sends -> content blocks
    client    the other side: this program as the client of another agent

Importing this package imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping


def serve(flags: Mapping[str, object] | None = None, *, unstable: bool = False) -> int:
    """Speak ACP on stdin and stdout until the editor leaves; the exit code. `flags` are settings.

    `unstable` adds the methods that the official schema calls so.
    """
    from laguna_agent.acp.stdio import serve_stdio

    return serve_stdio(flags or {}, unstable=unstable)
