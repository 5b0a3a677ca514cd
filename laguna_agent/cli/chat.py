"""`laguna-agent chat` and `laguna-agent acp`: the faces that last."""

from __future__ import annotations

from typing import Annotated

import typer

from laguna_agent.cli.options import Approve, BaseUrl, ContinueLatest, Cwd, EditFormat, Model, Quant, Resume


def chat(
    model: Model = None,
    base_url: BaseUrl = None,
    approve: Approve = None,
    edit_format: EditFormat = None,
    quant: Quant = None,
    cwd: Cwd = None,
    continue_latest: ContinueLatest = False,
    resume: Resume = None,
) -> int:
    """Talk with the agent on the terminal (the default)."""
    from laguna_agent.terminal.chat import chat as converse

    flags = {"model": model, "base_url": base_url, "approve": approve, "edit_format": edit_format, "quant": quant}
    return converse(cwd=cwd, flags=flags, resume=resume, continue_latest=continue_latest)


Unstable = Annotated[
    bool, typer.Option("--unstable", help="offer unstable methods too: session/fork, session/set_title")
]


def acp(
    context: typer.Context,
    model: Model = None,
    base_url: BaseUrl = None,
    approve: Approve = None,
    edit_format: EditFormat = None,
    quant: Quant = None,
    unstable: Unstable = False,
) -> int:
    """Serve an editor: the Agent Client Protocol on stdin and stdout. `acp setup EDITOR` tells an editor of it."""
    if context.invoked_subcommand is not None:
        return 0
    from laguna_agent.acp import serve

    flags = {"model": model, "base_url": base_url, "approve": approve, "edit_format": edit_format, "quant": quant}
    return serve(flags, unstable=unstable)
