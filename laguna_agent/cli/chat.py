"""`laguna-agent chat` and `laguna-agent acp`: the faces that last."""

from __future__ import annotations

from typing import Annotated

import typer

from laguna_agent.cli.options import (
    Approve,
    BaseUrl,
    ContinueLatest,
    Cwd,
    EditFormat,
    FallbackModel,
    LogLevel,
    Model,
    Network,
    Quant,
    Resume,
    Sandbox,
    driving_flags,
)

Plain = Annotated[
    bool, typer.Option("--plain", help="lines only: for screen readers, and terminals that cannot move their cursor")
]
Agent = Annotated[
    str | None, typer.Option(metavar="CMD", help="talk with another agent: the command line that starts it, for ACP")
]


def chat(
    model: Model = None,
    fallback_model: FallbackModel = None,
    base_url: BaseUrl = None,
    approve: Approve = None,
    edit_format: EditFormat = None,
    quant: Quant = None,
    sandbox: Sandbox = None,
    network: Network = False,
    cwd: Cwd = None,
    continue_latest: ContinueLatest = False,
    resume: Resume = None,
    log_level: LogLevel = None,
    plain: Plain = False,
    agent: Agent = None,
) -> int:
    """Talk with the agent on the terminal (the default)."""
    from laguna_agent.terminal.chat import chat as converse

    flags = driving_flags(model, fallback_model, base_url, approve, edit_format, quant, sandbox, network)
    flags |= {"log_level": log_level, "plain": plain or None}
    return converse(cwd=cwd, flags=flags, resume=resume, continue_latest=continue_latest, agent=agent)


Unstable = Annotated[
    bool, typer.Option("--unstable", help="offer unstable methods too: session/fork, session/set_title")
]


def acp(
    context: typer.Context,
    model: Model = None,
    fallback_model: FallbackModel = None,
    base_url: BaseUrl = None,
    approve: Approve = None,
    edit_format: EditFormat = None,
    quant: Quant = None,
    sandbox: Sandbox = None,
    network: Network = False,
    unstable: Unstable = False,
    log_level: LogLevel = None,
) -> int:
    """Serve an editor: the Agent Client Protocol on stdin and stdout. `acp setup EDITOR` tells an editor of it."""
    if context.invoked_subcommand is not None:
        return 0
    from laguna_agent.acp import serve

    flags = driving_flags(model, fallback_model, base_url, approve, edit_format, quant, sandbox, network)
    flags |= {"log_level": log_level}
    return serve(flags, unstable=unstable)
