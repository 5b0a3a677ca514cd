"""`laguna-agent chat` and `laguna-agent acp`: the faces that last."""

from __future__ import annotations

from argparse import Namespace

from laguna_agent.cli.parsing import Commands, add_cwd, add_session_choice, add_settings, settings_of


def add_to(commands: Commands) -> None:
    """Add `chat` and `acp`."""
    parser = commands.add("chat", "talk with the agent on the terminal (the default)", chat)
    add_settings(parser, "model", "base_url", "approve", "edit_format")
    add_cwd(parser)
    add_session_choice(parser)
    commands.add("acp", "serve an editor over the Agent Client Protocol on stdin and stdout", acp)


def chat(line: Namespace) -> int:
    """Carry out `chat`."""
    from laguna_agent.terminal.chat import chat as converse

    return converse(cwd=line.cwd, flags=settings_of(line), resume=line.resume, continue_latest=line.continue_latest)


def acp(_: Namespace) -> int:
    """Carry out `acp`; the front door takes a shorter way when there are no options."""
    from laguna_agent.acp import serve

    return serve() or 0
