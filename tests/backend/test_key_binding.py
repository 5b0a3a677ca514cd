"""A key goes to one server: the provider's own, or the one that the person named for it."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from laguna_agent.backend.address import is_loopback, normal_url, origin
from laguna_agent.backend.base import NoticeDelta, Request
from laguna_agent.backend.openai_http import OpenAIBackend
from laguna_agent.backend.providers import PROVIDERS, key_state, open_backend
from laguna_agent.backend.weights.wheel_index import find_wheel
from laguna_agent.config import Settings
from laguna_agent.errors import ConfigError, LagunaError, ProviderError, UsageError
from laguna_agent.messages import text_message
from tests.model_server import ModelServer, http

SECRET = "sk-for-the-provider-alone"


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for every provider."""
    for row in PROVIDERS.values():
        monkeypatch.setenv(row.key_env, SECRET)


def key_for(url: str, **settings: Any) -> str | None:
    """The key that a server at this base URL is sent."""
    state = key_state(Settings(base_url=url, model="m", **settings))
    return state.key.secret if state.key else None


@pytest.mark.parametrize(
    "url",
    [
        "https://openrouter.ai/api/v1",
        "https://openrouter.ai:443/api/v1",
        "https://OpenRouter.AI/api/v1",
        "https://openrouter.ai/another/path",
        "https://inference.poolside.ai/v1",
    ],
)
def test_the_providers_own_server_gets_its_key(url: str) -> None:
    assert key_for(url) == SECRET


@pytest.mark.parametrize(
    "url",
    [
        "https://openrouter.ai.evil.invalid/api/v1",
        "https://evilopenrouter.ai/api/v1",
        "https://openrouter.ai@evil.invalid/api/v1",
        "https://openrouter.ai:443@evil.invalid/api/v1",
        "https://openrouter.ai%2f@evil.invalid/",
        "https://evil.invalid/openrouter.ai",
        "https://evil.invalid/?openrouter.ai",
        "https://evil.invalid#openrouter.ai",
        "https://openrouter.ai./api/v1",
        "https://openrouter.ai:8443/api/v1",
        "https://openrouter.ai:0/api/v1",
        "http://openrouter.ai/api/v1",
        "http://openrouter.ai:443/api/v1",
        "openrouter.ai",
        "https://api.openrouter.ai/v1",
        "https://[::1]/v1",
        "http://127.0.0.1:1/v1",
        "http://localhost:1/v1",
    ],
)
def test_no_other_server_does(url: str) -> None:
    assert key_for(url) is None
    with pytest.raises(ConfigError, match=r"OPENROUTER_API_KEY is the key for openrouter at https://openrouter\.ai"):
        key_for(url, api_key_env="OPENROUTER_API_KEY")


@pytest.mark.parametrize(
    "url",
    [
        "https://openrouter.ai\\@evil.invalid/",
        "https://evil.invalid\\@openrouter.ai/",
        "https://evil.invalid\\.openrouter.ai/",
        "https://openrouter.ai\0.evil.invalid/",
        "https://evil.invalid\0openrouter.ai/",
        "https://openrouter.ai%00.evil.invalid/",
        "https://openrouter%2eai/",
        "https://openrouter.ai\t/",
        "https://openrouter.ai\r\nHost: evil.invalid/",
        "https://a@b@openrouter.ai/",
        "https://оpenrouter.ai/",  # a Cyrillic o
        "https://openrouter\uff0eai/",
        "https://openrouter。ai/",
        "https://openrouter.ai\u200b/",
        "https://evil.invalid／openrouter.ai/",
        "https://[::1%25eth0]/",
        "https://[openrouter.ai]/",
        "https://-openrouter.ai/",
        "https://openrouter..ai/",
        "https://.openrouter.ai/",
        "https:///openrouter.ai",
        "https://" + "a." * 200 + "ai/",
        "javascript://openrouter.ai/",
        "file://openrouter.ai/etc/passwd",
    ],
)
def test_what_could_be_read_in_two_ways_is_no_address(url: str) -> None:
    with pytest.raises(UsageError, match="address"):
        key_for(url)


@given(
    st.one_of(
        st.text(alphabet="abo.:/@\\[]%?#-_0\0\t 。K", max_size=20),
        st.builds(
            "{}{}openrouter.ai{}".format,
            st.sampled_from(["https://", "http://", "", "HTTPS://"]),
            st.text(max_size=5),
            st.text(max_size=8),
        ),
        st.text(max_size=20),
    )
)
@example("https://openrouter.ai")
def test_whoever_connects_reads_the_address_as_we_do(written: str) -> None:
    try:
        url = normal_url(written, "x")
    except UsageError:
        return
    scheme, host, port = origin(url)
    connects = httpx.URL(url)
    assert (connects.scheme, connects.host) == (scheme, host)
    assert port == ({"http": 80, "https": 443}[scheme] if connects.port is None else connects.port)
    assert (key_for(written) == SECRET) == (
        (scheme, host, port) in {("https", "openrouter.ai", 443), ("https", "inference.poolside.ai", 443)}
    )


def test_every_row_binds_its_key() -> None:
    for row in PROVIDERS.values():
        with pytest.raises(ConfigError) as caught:
            key_for("http://other.invalid/v1", api_key_env=row.key_env)
        assert row.base_env in str(caught.value)
        assert "variable of its own" in str(caught.value)
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert key_for(row.base_url, api_key_env=row.key_env) == SECRET


def test_where_the_person_put_the_provider_its_key_goes_too(
    model_server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENROUTER_BASE_URL", model_server.url)
    assert key_for(model_server.url, api_key_env="OPENROUTER_API_KEY") == SECRET
    with pytest.raises(ConfigError):
        key_for("http://127.0.0.1:1/v1", api_key_env="OPENROUTER_API_KEY")


def test_a_variable_of_its_own_goes_where_it_was_named_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "mine")
    assert key_for("http://127.0.0.1:1/v1", api_key_env="MY_KEY") == "mine"


def test_nothing_is_sent_where_the_key_is_refused(model_server: ModelServer) -> None:
    with pytest.raises(ConfigError):
        anyio.run(open_backend, Settings(base_url=model_server.url, api_key_env="OPENROUTER_API_KEY"))
    assert model_server.requests == []


# -- on the way --------------------------------------------------------------------------------------------------------


async def ask(backend: OpenAIBackend) -> list[object]:
    deltas: list[object] = []
    try:
        async for delta in backend.stream(Request("m", (text_message("user", "x"),))):
            deltas.append(delta)
    except ProviderError as error:
        deltas.append(error)
    finally:
        await backend.aclose()
    return deltas


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_key_anywhere(model_server: ModelServer, status: int) -> None:
    elsewhere = ModelServer()
    try:
        model_server.reply(http(status, "", {"Location": f"{elsewhere.url}/chat/completions"}))
        settings = Settings(retry_budget=0.0)
        (error,) = anyio.run(ask, OpenAIBackend("x", model_server.url, SECRET, settings))
        assert isinstance(error, ProviderError)
        assert elsewhere.requests == []
        assert SECRET not in str(error)
    finally:
        elsewhere.close()


def test_a_key_in_the_open_is_told_once() -> None:
    backend = OpenAIBackend("x", "http://host.invalid/v1", SECRET, Settings(retry_budget=0.0, connect_timeout=0.5))

    async def twice() -> list[list[object]]:
        return [await ask(backend), await ask(backend)]

    first, second = anyio.run(twice)
    assert first[0] == NoticeDelta("the key is sent to host.invalid unencrypted; use https:// where the server can")
    assert [type(each) for each in second] == [type(first[1])]


@pytest.mark.parametrize(("url", "key"), [("https://host.invalid/v1", SECRET), ("http://host.invalid/v1", None)])
def test_nothing_is_told_where_nothing_is_in_the_open(url: str, key: str | None) -> None:
    deltas = anyio.run(ask, OpenAIBackend("x", url, key, Settings(retry_budget=0.0, connect_timeout=0.5)))
    assert not any(isinstance(each, NoticeDelta) for each in deltas)


def test_loopback() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["localhost.evil.invalid", "127.0.0.1.evil.invalid", "10.0.0.1", "::2", ""]))


def test_an_index_gives_its_password_to_its_own_server_alone() -> None:
    """A page of a private index may link to another port, or without TLS."""
    links = ["http://index.invalid:81/", "https://index.invalid:8443/", "http://index.invalid/", "https://o.invalid/"]

    async def wheels(link: str) -> str:
        page = f'<a href="{link}x-1-py3-none-any.whl">x</a>'
        transport = httpx.MockTransport(lambda _: httpx.Response(200, text=page))
        async with httpx.AsyncClient(transport=transport) as client:
            return (await find_wheel(client, ["https://user:pass@index.invalid/simple"], "x", "1")).url

    assert not any("pass" in anyio.run(wheels, link) for link in links)
    assert "user:pass@" in anyio.run(wheels, "https://index.invalid/files/")


def test_a_redirect_takes_no_password_of_an_index_elsewhere() -> None:
    seen: list[tuple[str, bool]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, "authorization" in request.headers))
        if request.url.host == "index.invalid":
            return httpx.Response(302, headers={"location": "https://evil.invalid/simple/x/"})
        return httpx.Response(404)

    async def look() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), follow_redirects=True) as client:
            with pytest.raises(LagunaError):
                await find_wheel(client, ["https://user:pass@index.invalid/simple"], "x", "1")

    anyio.run(look)
    assert seen == [("index.invalid", True), ("evil.invalid", False)]
