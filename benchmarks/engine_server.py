"""Our own engine as the server of the benchmark of small bugs: `laguna-agent serve` with one of its arithmetics.

The model is taken from the person's store (`laguna-agent models pull`). Knows how to start and stop the server; must not
know bugs or agents.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model_server import ALIAS


@contextmanager
def engine_server(arithmetic: str, log: Path) -> Iterator[tuple[str, str]]:
    """Serve the model on loopback; gives the base URL without `/v1` and the token. Its stderr goes to `log`.

    Raises RuntimeError with the end of the log where it does not start.
    """
    token = secrets.token_hex(16)
    environment = os.environ | {"LAGUNA_SERVE_TOKEN": token, "LAGUNA_ARITHMETIC": arithmetic}
    command = [sys.executable, "-m", "laguna_agent", "serve", "--model", f"local/{ALIAS}", "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, env=environment, text=True
        )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"laguna-agent serve did not start: {log.read_text()[-2000:]}")
        yield url.removesuffix("/v1"), token
    finally:
        process.terminate()
        process.wait(60)
