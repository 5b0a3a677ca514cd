"""`laguna-agent chat` and `laguna-agent acp`: the faces that last."""

from __future__ import annotations

from typing import Annotated

import typer

from laguna_agent.cli.options import Approve, BaseUrl, Cwd, EditFormat, Model


def chat(
    model: Model = None,
    base_url: BaseUrl = None,
    approve: Approve = None,
    edit_format: EditFormat = None,
    cwd: Cwd = None,
    continue_latest: Annotated[
        bool, typer.Option("--continue", help="go on with the newest session of this directory")
    ] = False,
    resume: Annotated[str | None, typer.Option(help="go on with this session (a prefix will do)", metavar="ID")] = None,
) -> int:
    """Talk with the agent on the terminal."""
    from laguna_agent.terminal.chat import chat as talk

    flags = {"model": model, "base_url": base_url, "approve": approve, "edit_format": edit_format}
    return talk(cwd=cwd, flags=flags, resume=resume, continue_latest=continue_latest)


def acp() -> int:
    """Serve an editor over the Agent Client Protocol on stdin and stdout."""
    from laguna_agent.acp import serve

    return serve() or 0
