"""The ACP benchmark measures real processes, ours among them, and shows what an agent cannot do as that."""

import importlib.util
import json
import os
import select
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import acp_client
import instant_model
import pytest
from acp_peers import Agent, configure_codex, configure_vibe, install_with_pip
from peers import PeerError

from tests.benchmarks.conftest import BENCHMARKS

# By its path: a package is called `acp` too.
_spec = importlib.util.spec_from_file_location("acp_benchmark", BENCHMARKS / "acp.py")
assert _spec is not None
assert _spec.loader is not None
acp = importlib.util.module_from_spec(_spec)
sys.modules["acp_benchmark"] = acp
_spec.loader.exec_module(acp)

COUNT = 40

# An agent that says something of its own first, then all that its model would say in two pieces. Its mode decides what
# it will not do.
AGENT = """
import json, sys, os
mode, count = sys.argv[1], int(sys.argv[2])
words = [f" {n:04d}" for n in range(1, count + 1)]
def send(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
def say(text):
    content = {"type": "text", "text": text}
    update = {"sessionUpdate": "agent_message_chunk", "content": content}
    send(method="session/update", params={"sessionId": "s", "update": update})
for line in sys.stdin:
    request = json.loads(line)
    if "method" not in request:
        assert request["error"]["code"] == -32601
        continue
    method, id = request["method"], request["id"]
    if method == "initialize":
        send(id=id, result={"protocolVersion": 1, "agentInfo": {"name": "fake", "version": "9.9"}})
    elif method == "session/new":
        if mode == "login":
            send(id=id, error={"code": -32000, "message": "Authentication required"})
            continue
        if mode == "dies":
            sys.exit("no more")
        send(id=id, result={"sessionId": "s"})
    else:
        send(id=99, method="fs/read_text_file", params={})
        say("a warning of its own\\n")
        if mode == "silent":
            send(id=id, result={"stopReason": "end_turn"})
            continue
        say("".join(words[: count // 2]))
        say("".join(words[count // 2 :]))
        send(id=id, result={"stopReason": "end_turn"})
"""


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with instant_model.instant_model(COUNT) as url:
        yield url


def fake(mode: str) -> acp.Measured:
    argv = [sys.executable, "-c", AGENT, mode, str(COUNT)]
    return acp.Measured(Agent(f"fake-{mode}", argv, lambda home, url: {}), rounds=1)


def post(url: str, path: str, **body: Any) -> str:
    request = urllib.request.Request(url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def pieces(stream: str, *path: str) -> str:
    """The text in a stream: what is found at `path` in each event, or at its first item where that is a list."""
    text = ""
    for line in stream.splitlines():
        if not line.startswith("data: {"):
            continue
        found: Any = json.loads(line.removeprefix("data: "))
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
            found = (found or [None])[0] if isinstance(found, list) else found
        text += found if isinstance(found, str) else ""
    return text


@pytest.mark.parametrize(
    ("path", "streamed", "whole"),
    [
        ("/v1/chat/completions", ("choices", "delta", "content"), ("choices", "message", "content")),
        ("/v1/messages?beta=true", ("delta", "text"), ("content", "text")),
        ("/v1/responses", ("delta",), ("output", "content", "text")),
    ],
)
def test_the_instant_model_counts_in_three_protocols_streamed_and_whole(
    model: str, path: str, streamed: tuple[str, ...], whole: tuple[str, ...]
) -> None:
    tools = [{"name": "read"}]
    assert pieces(post(model, path, stream=True, tools=tools), *streamed) == instant_model.text_of(COUNT)
    assert pieces("data: " + post(model, path, tools=tools), *whole) == instant_model.text_of(COUNT)
    assert pieces(post(model, path, stream=True), *streamed) == "Counting", "a side request is answered shortly"


def test_ours_is_measured_in_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--agents", acp.OURS, "--rounds", "1", "--deltas", str(COUNT), "--pause", "0"]
    assert acp.main(arguments) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(acp.MEASURES)
    assert all(any(digit in row for digit in "123456789") for row in rows[1:]), printed
    assert "failed" not in printed
    assert "needs an account" not in printed


def test_what_an_agent_cannot_do_is_said_and_never_a_number(model: str, tmp_path: Path) -> None:
    measured = [fake("login"), fake("dies"), fake("silent"), fake("merges")]
    acp.measure(measured, model, COUNT, 0, tmp_path)
    login, dies, silent, merges = measured
    for each in measured:
        assert each.value("initialize") is not None, each.problem
        assert (each.value("resident") or 0) > 4
    assert [acp.cell(each, "new", None) for each in (login, dies)] == ["needs an account", "failed"]
    assert "Authentication required" in str(login.problem)
    assert str(dies.problem) == "session/new: it ended: no more"
    assert acp.cell(silent, "first", None) == "failed"
    assert "a warning of its own" in str(silent.problem)
    assert merges.problem is None
    updates, characters = merges.value("updates"), merges.value("characters")
    assert updates and characters
    said = len("a warning of its own\n") + len(instant_model.text_of(COUNT))
    assert characters / updates == pytest.approx(said / 3), "three updates hold the whole text"
    assert merges.version == "9.9"


def test_promises_are_first_place_and_the_limit() -> None:
    mine = acp.Measured(Agent(acp.OURS, [], configure_vibe), 1)
    peer = acp.Measured(Agent("peer", [], configure_vibe), 1)
    for name in acp.MEASURES:
        mine.samples[name], peer.samples[name] = [0.4, 0.4, 9.0], [0.4]
    assert acp.broken_promises([mine, peer]) == [
        "spawn to `initialize` and `session/new` answered: 0.400 s, promised 0.35"
    ]
    mine.samples["new"], peer.samples["first"], peer.samples["updates"] = [0.3], [0.2], [0.5]
    assert acp.broken_promises([mine, peer]) == [
        "first prompt, after a pause, to the model's first word: peer is ahead",
        "updates per second, second prompt: peer is ahead",
    ]
    assert "| first prompt, after a pause, to the model's first word | 0.400 s | 0.200 s (×0.5) |" in acp.table(
        [mine, peer]
    )
    assert "| updates per second, second prompt | 0 | 0 (×1.25) |" in acp.table([mine, peer])


def test_peers_are_pointed_at_the_model_and_nowhere_else(tmp_path: Path) -> None:
    import tomllib

    for configure, file in ((configure_vibe, ".vibe"), (configure_codex, ".codex")):
        configure(tmp_path, "http://127.0.0.1:1")
        settings = tomllib.loads((tmp_path / file / "config.toml").read_text())
        assert "http://127.0.0.1:1/v1" in json.dumps(settings)


def test_a_peer_that_no_python_here_can_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"needs Python 3\.90"):
        install_with_pip("mistral-vibe", tmp_path / "vibe", minor=90)


def test_no_process_of_an_agent_is_left(tmp_path: Path) -> None:
    script = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print('{}', flush=True); sys.stdin.read()"
    client = acp_client.Client([sys.executable, "-c", script], {"PATH": "/usr/bin:/bin"}, tmp_path, tmp_path / "stderr")
    client._read(client.spawned + 20, "start")
    family = [os.pidfd_open(pid) for pid in acp_client.descendants(client.pid)]
    assert len(family) == 2
    client.close()
    assert select.select(family, [], [], 0)[0] == family, "a process that ended makes its descriptor readable"
    for handle in family:
        os.close(handle)
