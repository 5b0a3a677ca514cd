"""The child process that holds llama.cpp: loads one GGUF file, serves it on loopback, dies with its parent.

Started by `local_server.py` as a script, by path, so that loading a model loads nothing of the agent. The protocol:
one JSON line on stdin (the settings, with the API key, which must not show in a process list), one JSON line on stdout
({"url": ...}) once the server answers, and stdin held open for as long as the parent lives. llama.cpp's own log goes
to stderr.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def _die_with(parent: int) -> None:
    """End at once when the parent dies, also while llama.cpp loads and holds the interpreter (Linux, prctl(2))."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _serve(settings: dict[str, Any]) -> str:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # the kernel picks a free one, so that no other process can take it in between
    params.api_keys = [settings["api_key"]]
    params.n_ctx = settings["context_length"]
    params.n_parallel = 1
    params.n_predict = settings["max_output_tokens"]
    params.cache_ram_mib = settings["prompt_cache_mib"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.use_jinja = True
    params.warmup = False  # a throw-away decode: it costs a second of start and makes the first answer no quicker
    server = xllamacpp.Server(params)
    globals()["_server"] = server  # the server stops when the object goes
    return str(server.listening_address)


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    _die_with(settings["parent"])
    # The line for the parent must be the only thing on its pipe, whatever the library prints.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    url = _serve(settings)
    answers.write(json.dumps({"url": url}) + "\n")
    answers.close()
    sys.stdin.read()  # ends when the parent closes the pipe or is gone
    os._exit(0)


if __name__ == "__main__":
    main()
