"""`laguna-agent serve` as a process, over a real backend: ours for HTTP, in front of a scripted server."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunCli, StartCli
from tests.model_server import MODEL, ModelServer, delay, http, reasoning, stall, stream, text, tool_call

TOKEN = "a-token-of-the-tests-1234"


class Served:
    """A server that has said where it is."""

    def __init__(self, start_cli: StartCli, model_server: ModelServer, *arguments: str, **env: str) -> None:
        self.process = start_cli("serve", "--base-url", model_server.url, "--port", "0", *arguments, env=env)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.communicate(timeout=10)[1]
        self.port = int(self.url.removesuffix("/v1").rpartition(":")[2])
        self.token_file = Path(os.environ["XDG_STATE_HOME"]) / "laguna-agent" / "serve" / f"{self.port}.token"

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """(exit code, the rest of stdout, stderr)."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err

    def ask(self, path: str, token: str, body: Any = None) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("GET" if body is None else "POST", f"/v1{path}", sent, headers)
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


def test_a_server_from_start_to_end(start_cli: StartCli, model_server: ModelServer) -> None:
    model_server.reply(text("Hello"))
    served = Served(start_cli, model_server)
    token = served.token_file.read_text().strip()
    assert len(token) >= 32
    assert stat.S_IMODE(served.token_file.stat().st_mode) == 0o600
    status, listing = served.ask("/models", token)
    assert (status, [entry["id"] for entry in listing["data"]]) == (200, [MODEL])
    hello = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    status, answer = served.ask("/chat/completions", token, hello)
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Hello")
    assert served.ask("/models", token[:-1])[0] == 401
    code, out, err = served.end()
    assert (code, out) == (0, "")
    assert str(served.token_file) in err
    assert token not in err
    assert len(err.splitlines()) == 1
    assert not served.token_file.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_with_0(start_cli: StartCli, model_server: ModelServer, number: int) -> None:
    assert Served(start_cli, model_server).end(number)[0] == 0


def test_a_token_of_ones_own_is_in_no_file(start_cli: StartCli, model_server: ModelServer) -> None:
    served = Served(start_cli, model_server, LAGUNA_SERVE_TOKEN=TOKEN)
    assert served.ask("/models", TOKEN)[0] == 200
    assert not served.token_file.exists()
    code, _, err = served.end()
    assert code == 0
    assert TOKEN not in err


def test_the_option_comes_before_the_variable(start_cli: StartCli, model_server: ModelServer) -> None:
    served = Served(start_cli, model_server, "--token", TOKEN, LAGUNA_SERVE_TOKEN="another-token-of-the-tests")
    assert served.ask("/models", TOKEN)[0] == 200


def asked(served: Served, model_server: ModelServer) -> tuple[threading.Thread, list[Any]]:
    """A thread whose request has reached the model's server, and the list that its answer will be put into."""
    got: list[Any] = []
    hello = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    asking = threading.Thread(target=lambda: got.append(served.ask("/chat/completions", TOKEN, hello)))
    asking.start()
    while not model_server.chats:
        time.sleep(0.02)
    return asking, got


def test_a_running_request_gets_a_moment(start_cli: StartCli, model_server: ModelServer) -> None:
    model_server.reply([text("slow"), delay(1.0), text("ly")])
    served = Served(start_cli, model_server, "--token", TOKEN)
    asking, got = asked(served, model_server)
    assert served.end()[0] == 0
    asking.join(10)
    assert got[0][1]["choices"][0]["message"]["content"] == "slowly"


def test_a_second_signal_ends_at_once(start_cli: StartCli, model_server: ModelServer) -> None:
    model_server.reply(stream(text("never"), stall()))
    served = Served(start_cli, model_server, "--token", TOKEN)
    asking, got = asked(served, model_server)
    started = time.monotonic()
    served.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert served.end(signal.SIGINT)[0] == 0
    assert time.monotonic() - started < 4
    asking.join(10)
    assert got[0][0] == 503


def test_signals_while_the_model_is_opened(start_cli: StartCli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # asked for its models, it never answers
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        process = start_cli("serve", "--base-url", url, "--port", "0")
        deaf.settimeout(20)
        line, _ = deaf.accept()
        with line:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "", "")


def test_the_other_loopback(start_cli: StartCli, model_server: ModelServer) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    served = Served(start_cli, model_server, "--host", "::1", "--token", TOKEN)
    assert served.url == f"http://[::1]:{served.port}/v1"
    connection = HTTPConnection("::1", served.port, timeout=20)
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {TOKEN}"})
    with connection.getresponse() as response:
        assert response.status == 200


def test_a_taken_port_is_a_usage_error(run_cli: RunCli, model_server: ModelServer) -> None:
    done = run_cli("serve", "--base-url", model_server.url, "--port", str(model_server.port))
    assert (done.returncode, done.stdout) == (2, "")
    assert "is taken; choose another with --port" in done.stderr
    assert not model_server.requests


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "LAGUNA_SERVE_TOKEN"),
        (["--host", "example.com"], "is no address"),
        (["--port", "70000"], "is no port"),
        (["--port", "many"], "many"),
        (["--token", "short"], "at least 16 characters"),
    ],
)
def test_what_cannot_be_served_is_a_usage_error(
    run_cli: RunCli, model_server: ModelServer, arguments: list[str], said: str
) -> None:
    done = run_cli("serve", "--base-url", model_server.url, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_agent_works_through_the_server(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer, workspace: Path
) -> None:
    (workspace / "a.txt").write_text("forty-two\n")
    model_server.reply(
        [reasoning("I must look."), text("Looking."), tool_call("read", {"path": "a.txt"})],
        [reasoning("Now I know."), text("It says forty-two.")],
    )
    served = Served(start_cli, model_server, "--token", TOKEN)
    env = {"LAGUNA_API_KEY_ENV": "LAGUNA_SERVE_TOKEN", "LAGUNA_SERVE_TOKEN": TOKEN}
    done = run_cli("run", "What does a.txt say?", "--base-url", served.url, env=env)
    assert (done.returncode, done.stdout) == (0, "It says forty-two.\n"), done.stderr
    first, second = model_server.chats
    assert [tool["function"]["name"] for tool in first["tools"]]
    call, answer = second["messages"][-2:]
    assert (call["role"], call["reasoning_content"], call["content"]) == ("assistant", "I must look.", "Looking.")
    assert json.loads(call["tool_calls"][0]["function"]["arguments"]) == {"path": "a.txt"}
    assert (answer["role"], answer["tool_call_id"]) == ("tool", call["tool_calls"][0]["id"])
    assert "forty-two" in answer["content"]
    # The prompt that the model's server sees grows at its end only, through two encoders: its cache holds.
    assert second["messages"][: len(first["messages"])] == first["messages"]
    assert second["tools"] == first["tools"]


def test_an_agent_does_not_ask_again_for_what_will_not_pass(
    start_cli: StartCli, run_cli: RunCli, model_server: ModelServer
) -> None:
    model_server.always(http(401, {"error": {"message": "no such key"}}))
    served = Served(start_cli, model_server, "--token", TOKEN)
    env = {"LAGUNA_API_KEY_ENV": "SERVE_KEY", "SERVE_KEY": TOKEN}
    done = run_cli("run", "Hi", "--base-url", served.url, env=env)
    assert done.returncode == 3
    assert "no such key" in done.stderr
    assert len(model_server.chats) == 1


def test_the_server_loads_for_its_own_command_alone() -> None:
    code = "import sys, laguna_agent.cli.app; print(sorted({'starlette', 'uvicorn', 'h11'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_token_is_no_setting(run_cli: RunCli) -> None:
    done = run_cli("config", "show", env={"LAGUNA_SERVE_TOKEN": TOKEN})
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout
