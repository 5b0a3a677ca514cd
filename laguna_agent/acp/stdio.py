"""`laguna-agent acp`: the agent on this process's stdin and stdout, for as long as the editor stays."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping

import anyio

from laguna_agent.acp.face import Face
from laguna_agent.acp.streams import FdSink, FdSource, take_stdio
from laguna_agent.directories import displaced


def serve_stdio(flags: Mapping[str, object], *, unstable: bool = False) -> int:
    """Serve until the editor closes stdin (0) or a signal comes (128 + its number); raises UsageError without stdio.

    `flags` are settings given on the command line. Either way running turns are cancelled and their processes reaped.
    """
    source, target = take_stdio()
    if warning := displaced():
        # Editors keep what an agent says there.
        sys.stderr.write(f"laguna-agent: {warning}\n")
    return anyio.run(_serve, source, target, flags, unstable)


async def _serve(source: int, target: int, flags: Mapping[str, object], unstable: bool) -> int:
    face = Face(FdSource(source), FdSink(target), flags, unstable=unstable)
    received: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_close_on_signal, face, received)
        await face.serve()
        group.cancel_scope.cancel()
    return 128 + received[0] if received else 0


async def _close_on_signal(face: Face, received: list[int]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async for number in signals:
            received.append(number)
            face.peer.close()
