"""The HTTP backend where there is no server to speak to: refused, unknown, not TLS, behind a proxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import anyio
import pytest

from laguna_agent.backend.openai_http import OpenAIBackend
from laguna_agent.errors import (
    AuthenticationFailed,
    UsageError,
)
from tests.backend.asking import REQUEST, deltas_of, error_of, reply_of
from tests.model_server import (
    ModelServer,
    text,
)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as held:  # bound but not listening: nobody answers, and nobody else can take it
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_nobody_listening(closed_port: int) -> None:
    error = error_of(f"http://127.0.0.1:{closed_port}/v1")
    assert str(error).startswith(f"nothing answers at 127.0.0.1:{closed_port}; is the server running?")


def test_nobody_listening_behind_a_proxy_names_it(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{closed_port}")
    error = error_of("http://model.invalid/v1")
    assert f"model.invalid through the proxy 127.0.0.1:{closed_port}" in str(error)
    assert "secret" not in str(error)


def test_a_name_that_does_not_exist() -> None:
    assert "cannot find no-such-host.invalid by name" in str(error_of("http://no-such-host.invalid/v1"))


def test_tls_where_there_is_none(model_server: ModelServer) -> None:
    assert "TLS with 127.0.0.1" in str(error_of(model_server.url.replace("http:", "https:")))


def test_a_server_on_this_machine_is_never_reached_through_a_proxy(
    model_server: ModelServer, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{closed_port}")
    model_server.reply(text("fine"))
    assert reply_of(model_server).message.text == "fine"


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "socks5://127.0.0.1:9"), ("ALL_PROXY", "gopher://x"), ("SSL_CERT_FILE", "/no/such/file")],
)
def test_network_settings_that_do_not_work(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"cannot call model\.invalid: .*_PROXY"):
        deltas_of("https://model.invalid/v1")


@pytest.mark.parametrize("key", ["naïve", "two words", "a\x00b"])
def test_a_key_that_cannot_be_one(model_server: ModelServer, key: str) -> None:
    async def ask() -> None:
        backend = OpenAIBackend("test", model_server.url, key, key_env="TEST_KEY")
        [delta async for delta in backend.stream(REQUEST)]

    with pytest.raises(AuthenticationFailed, match="TEST_KEY holds characters"):
        anyio.run(ask)
