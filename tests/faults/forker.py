"""The real program many times, for the price of one start: a process that has it imported, and forks for each run.

A run is a process of its own, in a session of its own, with its own environment, directory and streams; it enters by
`laguna_agent.cli.main` with its command line and leaves by the interpreter's own end. What it spares is the imports,
which are most of a short run. Reads one JSON object per line and answers each with one, when its run is over:

    {"arguments": [...], "environment": {...}, "cwd": "...", "stdout": "PATH", "stderr": "PATH"}
    {"pid": 123, "exit_code": 0, "cpu": 0.12}                  exit_code is -N for a signal, cpu is seconds
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys
from typing import Any

from laguna_agent.cli import main as enter
from laguna_agent.tools.registry import default_registry

LIMIT = 60
"""Seconds after which a run is killed by its own alarm."""
OURS = "cli.app headless.run agent.session agent.serving agent.archive backend.openai_http code.syntax"
LIBRARIES = "httpx httpcore h11 anyio._backends._asyncio tomllib laguna_agent.backend.providers"
PRELOADED = (*(f"laguna_agent.{name}" for name in OURS.split()), *LIBRARIES.split())
"""What a run imports sooner or later; the program itself does so where it needs it."""


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    default_registry()
    gc.collect()
    gc.freeze()
    answers = os.dup(1)
    for line in sys.stdin:
        job = json.loads(line)
        if not (pid := os.fork()):
            os.close(answers)
            become(job)
            enter()
        _, status, used = os.wait4(pid, 0)
        answer = {"pid": pid, "exit_code": os.waitstatus_to_exitcode(status), "cpu": used.ru_utime + used.ru_stime}
        os.write(answers, json.dumps(answer).encode() + b"\n")


def become(job: dict[str, Any]) -> None:
    """Make this process the one that a shell would have started for the job."""
    os.setsid()
    signal.alarm(LIMIT)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["cwd"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path, how in ((0, os.devnull, os.O_RDONLY), (1, job["stdout"], flags), (2, job["stderr"], flags)):
        opened = os.open(path, how, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["laguna-agent", *job["arguments"]]


if __name__ == "__main__":
    main()
