"""Servers that are not there, or of which only the rest of the interface is broken: soon over, and said by name."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.agent.driving import require_valid_conversation
from tests.faults.provider_runs import DONE, ONE, RESUMED, Forker, Ran, environment, left_running
from tests.model_server import MODEL, ModelServer, Reply, http, text

SOON = 15.0
"""Seconds; ten of the program's own, and what a busy machine needs to start it."""
HTML = "<!doctype html><title>Welcome to nginx!</title>"


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:  # bound but not listening: nobody answers, and nobody else can take it
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def ask(forker: Forker, workspace: Path, server: ModelServer, *flags: str, **env: str) -> tuple[Ran, float]:
    """One run, and how long it took."""
    started = time.monotonic()
    ran = forker.run(
        workspace.parent, "run", "--output", "stream-json", *flags, "Do it.", env=environment(server, **env)
    )
    assert not left_running(workspace.parent, ran.pid)
    return ran, time.monotonic() - started


def require_resumption(forker: Forker, workspace: Path, server: ModelServer) -> None:
    """With a server that is well the session goes on."""
    server.forget()
    server.reply(RESUMED)
    ran, _ = ask(forker, workspace, server, "--continue")
    assert (ran.exit_code, ran.result["text"]) == (0, "Resumed."), ran.stderr
    require_valid_conversation(server.chats[-1]["messages"])


@pytest.mark.parametrize(
    "where", ["refused", "unknown name", "no TLS", "refused proxy", "unknown proxy", "no TLS proxy"]
)
def test_no_connection_is_soon_over_and_says_where(
    where: str, forker: Forker, model_server: ModelServer, workspace: Path, closed_port: int
) -> None:
    url, proxy, words = {
        "refused": (f"http://127.0.0.1:{closed_port}/v1", "", f"nothing answers at 127.0.0.1:{closed_port}"),
        "unknown name": ("http://no-such-host.invalid/v1", "", "cannot find no-such-host.invalid by name"),
        "no TLS": (model_server.url.replace("http:", "https:"), "", f"TLS with 127.0.0.1:{model_server.port} failed"),
        "refused proxy": ("http://model.invalid/v1", f"http://me:pass@127.0.0.1:{closed_port}", f":{closed_port}"),
        "unknown proxy": ("http://model.invalid/v1", "http://proxy.invalid:9", "cannot find the proxy proxy.invalid:9"),
        "no TLS proxy": ("https://model.invalid/v1", f"http://127.0.0.1:{model_server.port}", "through the proxy"),
    }[where]
    env = {"LAGUNA_BASE_URL": url} | ({"ALL_PROXY": proxy} if proxy else {})
    ran, seconds = ask(forker, workspace, model_server, **env)
    assert (ran.exit_code, ran.result["outcome"]) == (3, "provider_error"), ran.stderr
    assert words in ran.result["message"] and "pass" not in ran.result["message"]
    assert seconds < SOON
    require_resumption(forker, workspace, model_server)


@pytest.mark.parametrize("who", ["server", "proxy"])
def test_one_that_takes_a_connection_and_says_nothing(
    who: str, forker: Forker, model_server: ModelServer, workspace: Path
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        env = {
            "server": {"LAGUNA_BASE_URL": f"https://{address}/v1"},
            "proxy": {"LAGUNA_BASE_URL": "https://model.invalid/v1", "ALL_PROXY": f"http://{address}"},
        }[who]
        ran, seconds = ask(forker, workspace, model_server, **env, LAGUNA_CONNECT_TIMEOUT="1")
    assert ran.exit_code == 3, ran.stderr
    assert "no connection to" in ran.result["message"] and address in ran.result["message"]
    assert seconds < 9


def test_a_server_that_goes_away_in_the_middle_of_a_session(
    forker: Forker, workspace: Path, model_server: ModelServer
) -> None:
    """It is asked again for some seconds, for it may be starting anew; what was done stays done."""
    dying = ModelServer()

    def last_words(_: object) -> Reply:
        dying._http.socket.close()
        return Reply((ONE,), headers={"Connection": "close"})

    dying.reply(last_words)
    ran, seconds = ask(forker, workspace, model_server, LAGUNA_BASE_URL=dying.url)
    assert ran.exit_code == 3, ran.stderr
    assert "nothing answers at" in ran.result["message"] and "gave up after" in ran.result["message"]
    assert len(ran.of("retrying")) >= 2
    assert 1 < seconds < SOON
    assert (workspace / "one.txt").read_text() == "one\n"
    dying.closing.set()
    require_resumption(forker, workspace, model_server)
    assert [m["role"] for m in model_server.chats[-1]["messages"]][:4] == ["system", "user", "assistant", "tool"]


@pytest.mark.parametrize(
    "listing",
    [
        http(500, "oops"),
        http(404, "not here"),
        http(200, HTML),
        http(200, "[1, 2"),
        http(200, {"data": 3}),
        http(429, ""),
    ],
)
def test_a_listing_that_is_broken_keeps_nobody_from_asking(
    forker: Forker, workspace: Path, model_server: ModelServer, listing: Reply
) -> None:
    model_server.routes["GET", "/v1/models"] = listing
    model_server.reply(ONE, DONE)
    ran, _ = ask(forker, workspace, model_server)
    assert ran.exit_code == 0, ran.stderr


def test_a_listing_that_refuses_the_key_ends_it(forker: Forker, workspace: Path, model_server: ModelServer) -> None:
    model_server.routes["GET", "/v1/models"] = http(401, {"error": {"message": "who are you?"}})
    ran, _ = ask(forker, workspace, model_server)
    assert (ran.exit_code, "refuses the key" in ran.result["message"]) == (3, True)
    del model_server.routes["GET", "/v1/models"]
    require_resumption(forker, workspace, model_server)


def test_the_command_line_names_models_to_go_on_with(
    forker: Forker, workspace: Path, model_server: ModelServer, closed_port: int
) -> None:
    with closing(ModelServer()) as other:
        other.reply(DONE)
        model_server.reply(ONE, http(503, "down", {"x-should-retry": "false"}), http(404, "unknown"))
        ran, _ = ask(
            forker,
            workspace,
            model_server,
            *("--fallback-model", "b", "--fallback-model", "llamacpp/c", "--fallback-model", "vllm/d"),
            LLAMACPP_BASE_URL=f"http://127.0.0.1:{closed_port}/v1",
            VLLM_BASE_URL=other.url,
        )
        assert (ran.exit_code, ran.result["model"], ran.result["text"]) == (0, "vllm/d", "Done."), ran.stderr
        assert [chat["model"] for chat in model_server.chats + other.chats] == [MODEL, MODEL, "b", "d"]
        told = [event["text"] for event in ran.of("notice")]
        assert [each.split()[5] for each in told[1::2]] == ["b", "llamacpp/c", "vllm/d"]
    model_server.reply(text("Resumed."))
    require_resumption(forker, workspace, model_server)
