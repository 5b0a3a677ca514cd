"""The recorder changes nothing: bytes, ends, signals and exit codes go through, and the record is whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.acp.conformance import recorder
from tests.acp.conformance.recording import Entry, load
from tests.acp.program import is_alive, wait_for


def start(folder: Path, *agent: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, recorder.__file__, str(folder), *agent]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def recorded(folder: Path) -> list[Entry]:
    (path,) = folder.iterdir()
    return load(path)


@given(data=st.binary(max_size=40) | st.lists(st.sampled_from([b"{}\n", b"\xff\n", b"\n", b"x"])).map(b"".join))
@settings(max_examples=8)
def test_bytes_go_through_untouched(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("recordings")
    process = start(folder, "cat")
    assert process.communicate(data, timeout=60)[0] == data
    assert process.returncode == 0
    entries = recorded(folder)
    assert entries[-1] == {"exit": 0}
    for side in ("client", "agent"):
        of_side = [entry for entry in entries if entry.get("from") == side]
        assert of_side[-1] == {"from": side, "end": True}
        ends = ["" if entry.get("unterminated") else "\n" for entry in of_side[:-1]]
        lines = [entry["line"] + end for entry, end in zip(of_side[:-1], ends, strict=True)]
        assert "".join(lines).encode("utf-8", "surrogateescape") == data


def test_each_line_goes_through_at_once_and_stands_before_its_answer(tmp_path: Path) -> None:
    process = start(tmp_path / "recordings", "cat")
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(50):
        line = b"%d\n" % number
        process.stdin.write(line)
        process.stdin.flush()
        assert process.stdout.readline() == line
    process.communicate(timeout=60)
    lines = [(entry["from"], entry["line"]) for entry in recorded(tmp_path / "recordings") if "line" in entry]
    assert lines == [(side, str(number)) for number in range(50) for side in ("client", "agent")]


def test_a_line_of_megabytes(tmp_path: Path) -> None:
    data = b"x" * 5_000_000 + b"\n"
    process = start(tmp_path / "recordings", "cat")
    assert process.communicate(data, timeout=60)[0] == data
    assert [len(entry.get("line", "")) for entry in recorded(tmp_path / "recordings")][:1] == [len(data) - 1]


def test_the_exit_code_is_the_agents_even_while_the_client_says_nothing(tmp_path: Path) -> None:
    process = start(tmp_path / "recordings", "sh", "-c", "exit 7")
    assert process.wait(60) == 7
    assert recorded(tmp_path / "recordings")[-1] == {"exit": 7}


def test_a_signal_reaches_the_agent(tmp_path: Path) -> None:
    process = start(tmp_path / "recordings", "sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 300")
    agent = int(wait_for(tmp_path / "pid"))
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not is_alive(agent)
    assert recorded(tmp_path / "recordings")[-1] == {"exit": -signal.SIGTERM}


def test_an_agent_whose_client_is_gone_feels_it(tmp_path: Path) -> None:
    process = start(tmp_path / "recordings", "yes")
    assert process.stdout is not None
    assert process.stdout.read(100)
    process.stdout.close()
    assert process.wait(60) == 128 + signal.SIGPIPE
    assert recorded(tmp_path / "recordings")[-2] == {"from": "agent", "end": True, "unheard": True}
