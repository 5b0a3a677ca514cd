"""An OpenAI-compatible server over any backend, so that several programs share one model in one process.

    chat_request   the body of a POST -> `Request` and how it is to be answered; `conversation` reads its messages
    answers        deltas -> chunks of a stream, or one whole completion
    refusals       every error -> HTTP status and OpenAI's error object
    guard          who may ask: the token, the Host, no browser
    delivery       one generation on its way to one client, and `Desk`: how many there may be
    application    the routes
    process        the address, the token's file, signals

It knows `Backend` and must not know sessions, tools or how a model is run. Importing this package imports nothing of
it: starlette and uvicorn load when a server starts.
"""

from __future__ import annotations

from collections.abc import Mapping

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8642


def serve(flags: Mapping[str, object], *, host: str, port: int, token: str | None) -> int:
    """Serve the model that the settings choose until a signal comes; the exit code. Raises LagunaError.

    `token` None generates one and writes it to a file that only its owner reads.
    """
    from laguna_agent.serve.process import serve_until_stopped

    return serve_until_stopped(flags, host=host, port=port, token=token)
