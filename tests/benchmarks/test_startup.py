"""The start-up benchmark measures real processes and says which promise is broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import startup
from acp_client import memory_mb

AGENT = """
import json, sys
request = json.loads(sys.stdin.readline())
assert request["method"] == "initialize"
ballast = bytearray(50_000_000)
ballast[::4096] = b"x" * len(ballast[::4096])
print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {"protocolVersion": 1}}), flush=True)
sys.stdin.read()
"""


def test_initialize_is_timed_to_the_answer_and_weighed_then(tmp_path: Path) -> None:
    seconds, memory = startup.time_initialize([sys.executable, "-c", AGENT], dict(os.environ), tmp_path)
    assert 0 < seconds < 20
    assert 50 < memory < 120


def test_an_agent_that_does_not_answer_initialize_is_an_error(tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "print('hello')"]
    with pytest.raises((RuntimeError, ValueError)):
        startup.time_initialize(silent, dict(os.environ), tmp_path)


def test_a_command_that_fails_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit 3: no luck"):
        startup.time_command(
            [sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"],
            dict(os.environ),
            tmp_path,
        )


def test_children_are_weighed_too() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as parent:
        try:
            own = memory_mb(parent.pid)[0]
            for _ in range(100):
                if memory_mb(parent.pid)[0] > own + 4:
                    break
                subprocess.run(["sleep", "0.1"], check=True)
            assert memory_mb(parent.pid)[0] > own + 4
        finally:
            parent.communicate(b"\n")


def test_promises_are_judged_by_the_medians() -> None:
    measured = [
        startup.Row("python -c pass", [], seconds=[0.010, 0.011, 0.5]),
        startup.Row("laguna-agent --version", [], limit=2.0, seconds=[0.020, 0.021, 0.022]),
        startup.Row("acp", [], acp=True, limit=15.0, seconds=[0.2, 0.2], memory_mb=[70.0]),
    ]
    assert startup.broken_promises(measured) == [
        "acp: 18.18 times `python -c pass`, promised 15",
        "acp: 70.0 MB, promised 60",
    ]
    table = startup.table(measured)
    assert "| `laguna-agent --version` | 21.0 | 20–22 | 1.91 | ≤ 2 |" in table
    assert "Resident memory at initialize: 70.0 MB (≤ 60)" in table
