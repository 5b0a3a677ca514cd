"""One llama.cpp server for every arm of the benchmark: the same weights, context, sampling and answer limit.

Knows how to start, await and stop it. Run as a script it IS the server (it needs the prebuilt wheel `xllamacpp`):

    python benchmarks/model_server.py PORT MODEL.gguf [TYPE [BETA_FAST]]

where TYPE is that of the numbers in its KV cache (f16, f32), and BETA_FAST is yarn's.

Knows nothing of bugs and agents.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTEXT = 16384
THREADS = 2
ANSWER_LIMIT = 1024
"""Tokens in one answer, where the client sets no limit. A small model that loops would otherwise write for minutes."""
ALIAS = "qwen2.5-coder-1.5b"
START_LIMIT = 180.0


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def model_server(gguf: Path, log: Path, cache_type: str = "f16", beta_fast: float = -1.0) -> Iterator[str]:
    """Serve the GGUF file on loopback; gives the base URL without `/v1`. The server's output goes to `log`.

    `cache_type`: "f16" as llama.cpp has it by default, or "f32" where numbers are compared. `beta_fast` is yarn's, for
    llama.cpp does not look at that key of a Laguna file and takes 32 (-1.0: leave it so). Raises RuntimeError with the
    end of the log when the server dies or is not ready after START_LIMIT seconds.
    """
    port = free_port()
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    command = [sys.executable, __file__, str(port), str(gguf), cache_type, str(beta_fast)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _await_ready(process, url, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the model server did not start; the end of {log}:\n{log.read_text()[-2000:]}")


def serve(port: int, gguf: str, cache_type: str = "f16", beta_fast: str = "-1.0") -> None:
    """Be the server until SIGTERM."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = gguf
    params.model_alias = {ALIAS}
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_ctx, params.n_parallel, params.n_predict = CONTEXT, 1, ANSWER_LIMIT
    params.cache_ram_mib = 512
    kind = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{cache_type.upper()}")
    params.cache_type_k = params.cache_type_v = kind
    params.yarn_beta_fast = float(beta_fast)
    if cache_type == "f32":
        # Its fused attention rounds to 16 bits on the way, whatever the cache holds.
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
    params.sampling.temp = 0.0
    params.use_jinja = True
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    serve(int(sys.argv[1]), *sys.argv[2:])
