"""A model server in a process of its own, so that it takes no time from the one that measures.

A script that holds one calls `serve_until_left` when it is run, and `own_process` runs it. Knows sockets and processes;
must not know what is served.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from threading import Thread


@contextmanager
def own_process(script: str, argument: int) -> Iterator[str]:
    """Run a script that serves on loopback; gives its URL, and ends it."""
    with subprocess.Popen(
        [sys.executable, script, str(argument)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def serve_until_left(server: ThreadingHTTPServer) -> None:
    """Say the port on a line, then serve until standard input ends."""
    with server:
        Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()
        server.shutdown()
