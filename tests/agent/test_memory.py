"""Memory stays flat however long a session gets: the real program, each request with a megabyte of tool output."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartCli
from tests.model_server import ModelServer, stream, text, tool_call

COMMAND = "head -c 1000000 /dev/zero | tr '\\0' x | fold -w 99"
WINDOW = 32_768


def rss(pid: int) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def drive(server: ModelServer, start_cli: StartCli, turns: int, window: int | None) -> tuple[list[float], int]:
    """RSS of the program at every request, and the size of the largest request in bytes."""
    sizes: list[float] = []
    largest = [0]
    started = threading.Event()
    pids: list[int] = []
    if window is not None:
        server.props = {"default_generation_settings": {"n_ctx": window}}

    def answer(body: dict[str, Any]) -> Any:
        started.wait(30)
        sizes.append(rss(pids[0]))
        posted = len(json.dumps(body))
        largest[0] = max(largest[0], posted)
        usage = {"prompt_tokens": posted // 3, "completion_tokens": 20, "total_tokens": posted // 3 + 20}
        if len(sizes) > turns:
            return stream(text("Done."), usage=usage)
        return stream(tool_call("shell", {"command": f"echo {len(sizes)}; {COMMAND}"}), usage=usage)

    server.always(answer)
    process = start_cli("run", "x", "--approve", "all", "--output", "json", env=server.env)
    pids.append(process.pid)
    started.set()
    out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert json.loads(out)["turns"] == turns + 1
    return sizes, largest[0]


def require_flat(sizes: list[float], warm: int, allowed: float) -> None:
    settled, grown = max(sizes[:warm]), max(sizes[warm:])
    print(
        f"RSS over {len(sizes)} requests: {sizes[0]:.1f} -> {settled:.1f} after {warm}, at most {grown:.1f} MiB later"
    )
    assert grown - settled <= allowed


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_is_flat_over_a_short_session(model_server: ModelServer, start_cli: StartCli) -> None:
    sizes, largest = drive(model_server, start_cli, 24, WINDOW)
    assert largest < WINDOW * 3
    require_flat(sizes, 10, 3.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize("window", [WINDOW, None])
def test_memory_is_flat_over_300_turns(model_server: ModelServer, start_cli: StartCli, window: int | None) -> None:
    """A megabyte of output a turn. Where the server does not tell its window nothing may be dropped, and the
    conversation itself (16 kB a turn are kept) is all that grows."""
    sizes, largest = drive(model_server, start_cli, 300, window)
    conversation = 0.0 if window else largest / 2**20
    require_flat(sizes, 20, 5.0 + 4 * conversation)
