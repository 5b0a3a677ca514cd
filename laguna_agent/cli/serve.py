"""`laguna-agent serve`: the command line of the server."""

from __future__ import annotations

from typing import Annotated

import typer

from laguna_agent.cli.options import BaseUrl, Model, Quant
from laguna_agent.serve import DEFAULT_HOST, DEFAULT_PORT

Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="the address to listen on; others than loopback need a token of yours")
]
Port = Annotated[int, typer.Option(metavar="N", help="the port to listen on; 0 takes any free one")]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN", help="what clients must send as their API key; LAGUNA_SERVE_TOKEN keeps it out of `ps`"
    ),
]


def serve(
    model: Model = None,
    base_url: BaseUrl = None,
    quant: Quant = None,
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
    token: Token = None,
) -> int:
    """Serve the model to other programs on this machine, as an OpenAI-compatible server."""
    from laguna_agent.serve import serve as run_server

    return run_server({"model": model, "base_url": base_url, "quant": quant}, host=host, port=port, token=token)
