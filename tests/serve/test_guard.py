"""Who is answered, and who is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from laguna_agent.errors import UsageError
from laguna_agent.serve.process import check_token, read_address
from tests.serve.serving import HELLO, TOKEN, Client, Scripted, serving


@pytest.fixture(scope="module")
def backend() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def client(backend: Scripted) -> Iterator[Client]:
    with serving(backend) as made:
        yield made


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"]
)
def test_without_the_token_nothing_is_answered(client: Client, backend: Scripted, given: str | None) -> None:
    before = len(backend.requests)
    for body, path in ((HELLO, "/v1/chat/completions"), (None, "/v1/models"), (None, "/nowhere")):
        status, answer = client.ask(body, path, Authorization=given)
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        assert TOKEN not in str(answer)
    assert len(backend.requests) == before


def test_the_scheme_is_read_as_http_has_it(client: Client) -> None:
    assert client.ask(Authorization=f"bearer  {TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "", "["]
)
def test_a_name_that_was_made_to_mean_loopback_is_refused(client: Client, host: str) -> None:
    assert client.ask(Host=host)[0] in {400, 403}
    assert client.ask(None, "/health", Host=host)[0] in {400, 403}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8642", "LOCALHOST", "[::1]:8642"])
def test_names_of_loopback(client: Client, host: str) -> None:
    assert client.ask(Host=host)[0] == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:8642", "null"])
def test_pages_in_a_browser_are_refused_even_with_the_token(client: Client, origin: str) -> None:
    with client.open(Origin=origin) as response:
        assert response.status == 403
        assert not [name for name in response.headers if name.startswith("access-control")]


def test_health_needs_no_token_and_tells_nothing(client: Client) -> None:
    assert client.ask(None, "/health", Authorization=None) == (200, {"status": "ok"})


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "2001:db8::1"])
def test_other_machines_are_let_in_only_with_a_token_that_was_chosen(host: str) -> None:
    with pytest.raises(UsageError, match="LAGUNA_SERVE_TOKEN"):
        check_token(None, read_address(host, 0))
    check_token(TOKEN, read_address(host, 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.9"])
def test_loopback_needs_none(host: str) -> None:
    check_token(None, read_address(host, 0))


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in it here", "ümläut-ümläut-ümläut", "line\nline\nline\nline\nline"]
)
def test_tokens_that_protect_nothing_or_fit_no_header(token: str) -> None:
    with pytest.raises(UsageError, match="at least 16 characters"):
        check_token(token, read_address("127.0.0.1", 0))


@pytest.mark.parametrize("host", ["example.com", "", "127.0.0.1:80", "http://127.0.0.1"])
def test_a_host_that_is_no_address(host: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        read_address(host, 0)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none(port: int) -> None:
    with pytest.raises(UsageError, match="is no port"):
        read_address("127.0.0.1", port)
