"""The llama.cpp child: how it starts, what it says when it fails, and that nothing of it is ever left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import httpx
import pytest

from laguna_agent.backend.base import Finished, Request, Sampling, TextDelta
from laguna_agent.backend.local_server import LocalBackend, context_that_fits, open_local, physical_cores
from laguna_agent.backend.weights.store import Store
from laguna_agent.config import Settings
from laguna_agent.errors import ProviderUnavailable, UsageError
from laguna_agent.messages import text_message

ROOT = Path(__file__).parents[2]
# Found before the tests get homes of their own.
REAL_STORE = Store()
STAND_IN = Path(__file__).with_name("stand_in")

AGENT = """
import sys, time, anyio
from laguna_agent.backend.local_server import open_local
from laguna_agent.config import Settings
async def main():
    backend = await open_local(sys.argv[1], Settings())
    print(backend._server.process.pid, backend.target, flush=True)
    await anyio.sleep(600)
anyio.run(main)
"""


@pytest.fixture
def models(tmp_path, monkeypatch) -> Store:
    """A store with models that serve, crash and hang, and a llama.cpp that obeys them."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setenv("PYTHONPATH", f"{STAND_IN}{os.pathsep}{ROOT}")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = Store()
    for word in ("serve", "crash", "hang"):
        file = tmp_path / word
        file.write_bytes(b"GGUF" + word.encode())
        store.adopt(word, file, lambda done, size: None)
    return store


def ask(text: str, model: str = "serve") -> Request:
    return Request(model=model, messages=(text_message("user", text),), sampling=Sampling(max_tokens=20))


def is_gone(pid: int, within: float = 5.0) -> bool:
    """Whether the process ends in time; a zombie that only waits for its parent has ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


async def opened(name: str, settings: Settings = Settings()) -> LocalBackend:  # noqa: B008
    return await open_local(name, settings)


def test_it_answers_knows_its_context_and_is_gone_afterwards(models):
    notes: list[str] = []

    async def main() -> tuple[list[object], int | None, int, str]:
        backend = await open_local("serve", Settings(context_length=4096), notes.append)
        try:
            deltas = [delta async for delta in backend.stream(ask("hi"))]
            info = await backend.describe("serve")
        finally:
            await backend.aclose()
        return deltas, info.context_length, backend._server.process.pid, backend.target

    deltas, context, pid, target = anyio.run(main)
    assert TextDelta("hello") in deltas
    assert deltas[-1] == Finished("stop")
    assert context == 4096
    assert is_gone(pid)
    assert target.startswith("http://127.0.0.1:")
    assert notes[0].startswith("loading serve (") and notes[1].startswith("serve is ready after")


def test_nobody_else_can_use_the_server(models):
    async def main() -> int:
        backend = await opened("serve")
        try:
            async with httpx.AsyncClient() as client:
                return (await client.post(f"{backend.target}/chat/completions", json={})).status_code
        finally:
            await backend.aclose()

    assert anyio.run(main) == 401


def test_the_key_shows_in_no_process_list(models):
    async def main() -> tuple[bytes, str]:
        backend = await opened("serve")
        try:
            return Path(f"/proc/{backend._server.process.pid}/cmdline").read_bytes(), backend.target
        finally:
            await backend.aclose()

    cmdline, _ = anyio.run(main)
    assert [Path(word.decode()).name for word in cmdline.split(b"\0")][1:] == ["-P", "llama_child.py", ""]


def test_a_server_that_cannot_load_names_its_log(models):
    with pytest.raises(ProviderUnavailable, match="exit status 7") as caught:
        anyio.run(opened, "crash")
    log = Path(str(caught.value).rpartition(" is ")[2])
    assert "bad tensor" in log.read_text()


def test_a_server_that_dies_in_the_middle_of_an_answer_is_named(models):
    async def main() -> None:
        backend = await opened("serve")
        try:
            async for _ in backend.stream(ask("die")):
                pass
        finally:
            await backend.aclose()

    start = time.monotonic()
    with pytest.raises(ProviderUnavailable, match="exit status 9; its log is"):
        anyio.run(main)
    assert time.monotonic() - start < 20


def test_giving_up_while_it_loads_leaves_no_process(models):
    async def main() -> None:
        with anyio.move_on_after(1.0):
            await opened("hang")

    before = children()
    anyio.run(main)
    assert children() == before


def children() -> set[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in listed}


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_never_outlives_the_agent(models, sig):
    agent = subprocess.Popen([sys.executable, "-c", AGENT, "serve"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert agent.stdout is not None
    pid = int(agent.stdout.readline().split()[0])
    agent.send_signal(sig)
    agent.wait(10)
    assert is_gone(pid)
    agent.stdout.close()


def test_a_server_that_still_loads_dies_with_the_agent_too(models):
    agent = subprocess.Popen([sys.executable, "-c", AGENT, "hang"], stdout=subprocess.PIPE)
    assert agent.stdout is not None
    listing = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    deadline = time.monotonic() + 20
    while not (found := listing.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.5)
    agent.kill()
    agent.wait()
    assert is_gone(int(found[0]))
    agent.stdout.close()


def test_without_llama_cpp_it_says_what_to_type(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(UsageError, match=r"pip install 'laguna-agent\[llamacpp\]'"):
        anyio.run(opened, "serve")


def test_without_the_model_it_says_what_to_type(models):
    with pytest.raises(UsageError, match=r"laguna-agent models pull qwen2.5-coder-1.5b"):
        anyio.run(opened, "qwen2.5-coder-1.5b")


def test_the_context_leaves_a_small_machine_some_air():
    assert context_that_fits(1 << 30, 23 << 30) == 16_384
    assert context_that_fits(1 << 30, 4 << 30) == 8_192
    assert 1 <= physical_cores() <= (os.cpu_count() or 1)


@pytest.mark.real_model
@pytest.mark.timeout(600)
def test_the_real_model_answers():
    async def main() -> str:
        backend = await open_local("qwen2.5-coder-1.5b", Settings(context_length=2048), store=REAL_STORE)
        try:
            request = ask("Reply with the single word: ready", "qwen2.5-coder-1.5b")
            deltas = [delta async for delta in backend.stream(request)]
            info = await backend.describe("qwen2.5-coder-1.5b")
        finally:
            await backend.aclose()
        assert info.context_length == 2048
        return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))

    assert "ready" in anyio.run(main).lower()
