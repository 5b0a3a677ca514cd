"""A model of the store, served by a llama.cpp child process and spoken to over its OpenAI-compatible API.

Knows processes and the store; must not know prompts, tools or sessions. One server belongs to one `LocalBackend`: it
starts with it, listens on loopback behind a random key, and goes with it, also when this process is killed (see
`llama_child.py`). Starting anew each time costs a few seconds and leaves nothing behind; a server shared between
runs would outlive them all.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from laguna_agent.backend.base import Backend, Delta, ModelInfo, Request
from laguna_agent.backend.weights.store import Store
from laguna_agent.config import Settings
from laguna_agent.directories import cache_directory
from laguna_agent.errors import ProviderUnavailable, UsageError

Note = Callable[[str], None]
"""Called with one line for the person: what the wait is for."""

_CHILD = Path(__file__).with_name("llama_child.py")
_START_SECONDS = 300.0  # a gigabyte from a slow disk, on a machine with other work
_STOP_SECONDS = 3.0
_LOG_BYTES = 1 << 20
# Threads that spin while they wait starve everything else on a small machine (measured: the agent's own tests).
_CALM_OPENMP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
_ROOMY_BYTES = 6 << 30
_PROMPT_CACHE_MIB = 512
_MAX_OUTPUT_TOKENS = 4096  # a small model that loops would else write until its context is full
_RETRY_SECONDS = 5.0


def _ignore(_line: str) -> None:
    """No one to tell."""


class LlamaServer:
    """One llama.cpp process. `url` is where it listens (its OpenAI API lies under /v1), `log` what it has to say."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.url = ""
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.unlink()
        # Popen, not anyio's: the child asks to die with the thread that forked it, and this one is the main thread.
        # A session of its own keeps the terminal's Ctrl-C away from it; ending it is our business.
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **_CALM_OPENMP},
                start_new_session=True,
            )

    async def wait_until_ready(self, settings: dict[str, Any]) -> None:
        """Send the child its settings and wait for its address; ProviderUnavailable where it ends or hangs first."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(msgspec.json.encode(settings) + b"\n")
            self.process.stdin.flush()
            with anyio.fail_after(_START_SECONDS):
                await anyio.wait_readable(self.process.stdout)
                line = await anyio.to_thread.run_sync(self.process.stdout.readline)
        except TimeoutError:
            raise ProviderUnavailable(
                f"the local llama.cpp server does not come up in {_START_SECONDS:.0f} s; its log is {self.log}"
            ) from None
        except BrokenPipeError:
            line = b""
        if not line:
            await anyio.to_thread.run_sync(self._reap)
            raise self.ended()
        self.url = str(msgspec.json.decode(line)["url"])

    def ended(self) -> ProviderUnavailable:
        """The error for a server that is no more."""
        code = self.process.returncode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        why = " (out of memory?)" if code == -signal.SIGKILL else ""
        return ProviderUnavailable(f"the local llama.cpp server {how}{why}; its log is {self.log}")

    def stop(self) -> None:
        """End the process and collect it; blocks for a moment, never for long."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process.terminate()
        self._reap()

    def _reap(self) -> None:
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class LocalBackend:
    """A backend whose server is our own child; `name` is "local", `target` the server's URL."""

    name = "local"

    def __init__(self, inner: Backend, server: LlamaServer) -> None:
        self.target = inner.target
        self._inner = inner
        self._server = server

    async def describe(self, model: str) -> ModelInfo:
        """What the server says of its one model."""
        return await self._inner.describe(model)

    async def models(self) -> list[ModelInfo]:
        """The one model."""
        return await self._inner.models()

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        """Answer one request; where the server has died, the error says so instead of "connection refused"."""
        try:
            async for delta in self._inner.stream(request):
                yield delta
        except ProviderUnavailable as error:
            if self._server.process.poll() is None:
                raise
            raise self._server.ended() from error

    async def aclose(self) -> None:
        """Close the connections and end the server."""
        with anyio.CancelScope(shield=True):
            try:
                await self._inner.aclose()
            finally:
                await anyio.to_thread.run_sync(self._server.stop)


async def open_local(name: str, settings: Settings, note: Note = _ignore, store: Store | None = None) -> LocalBackend:
    """Start a server for the stored model `name` and return a backend that speaks to it.

    Raises UsageError where the model or llama.cpp is not installed (and says what to type), ProviderUnavailable where
    the server does not come up (and says where its log is). Cancellation leaves no process behind.
    """
    store = store or Store()
    model = store.get(name)
    if importlib.util.find_spec("xllamacpp") is None:
        raise UsageError("local models need a llama.cpp server: type `pip install 'laguna-agent[llamacpp]'`")
    key = secrets.token_urlsafe(24)
    context_length = settings.context_length or context_that_fits(model.size, available_memory())
    threads = physical_cores()
    note(f"loading {name} ({model.size / 1e9:.1f} GB, {threads} threads, a context of {context_length} tokens)")
    started = anyio.current_time()
    server = LlamaServer(cache_directory() / f"llama-server-{name}.log")
    try:
        await server.wait_until_ready(
            {
                "path": str(store.blob_path(model.sha256)),
                "name": name,
                "api_key": key,
                "context_length": context_length,
                "max_output_tokens": min(_MAX_OUTPUT_TOKENS, context_length // 2),
                "prompt_cache_mib": _PROMPT_CACHE_MIB,
                "threads": threads,
                "parent": os.getpid(),
            }
        )
        note(f"{name} is ready after {anyio.current_time() - started:.1f} s")
        return LocalBackend(_connect(server.url, key, settings), server)
    except BaseException:
        server.stop()
        raise


def context_that_fits(model_bytes: int, memory_bytes: int) -> int:
    """Tokens of context that leave the machine some air: 16384 where memory is plenty, else 8192."""
    return 16_384 if memory_bytes - model_bytes >= _ROOMY_BYTES else 8_192


def available_memory() -> int:
    """Bytes that can be used without swapping (Linux: MemAvailable); elsewhere half of what the machine has."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def physical_cores() -> int:
    """Cores that this process may use, hyper-threads counted once: more threads make llama.cpp slower."""
    try:
        usable = os.sched_getaffinity(0)
        topologies = [Path(f"/sys/devices/system/cpu/cpu{number}/topology") for number in usable]
        cores = {
            ((folder / "physical_package_id").read_text(), (folder / "core_id").read_text()) for folder in topologies
        }
        return max(1, len(cores))
    except (AttributeError, OSError):  # not Linux, or a container without /sys
        return os.cpu_count() or 1


def _connect(url: str, key: str, settings: Settings) -> Backend:
    from laguna_agent.backend.openai_http import OpenAIBackend
    from laguna_agent.backend.wire import Dialect

    # A child that is gone does not come back: minutes of retries would only hide it.
    local = msgspec.structs.replace(settings, retry_budget=min(settings.retry_budget, _RETRY_SECONDS))
    return OpenAIBackend("local", f"{url}/v1", key, local, kind="llamacpp", dialect=Dialect(thinking="template"))
