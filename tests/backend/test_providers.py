"""From settings to a backend, and what servers tell of their models."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Any

import anyio
import pytest

from laguna_agent.backend.address import normal_url
from laguna_agent.backend.base import Backend, ModelInfo, Request, Sampling, UsageDelta
from laguna_agent.backend.openai_http import OpenAIBackend
from laguna_agent.backend.probe import ServerKind
from laguna_agent.backend.providers import open_backend
from laguna_agent.config import Settings
from laguna_agent.errors import AuthenticationFailed, ProviderUnavailable, UsageError
from laguna_agent.messages import Message, TextBlock, text_message
from tests.model_server import MODEL, ModelServer, http, text


def opened(**settings: Any) -> tuple[Backend, str]:
    return anyio.run(open_backend, Settings(**settings))


def test_nothing_configured_is_said_in_three_lines() -> None:
    with pytest.raises(UsageError) as caught:
        opened()
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    for line, offer in zip(lines, ("models pull", "OPENROUTER_API_KEY", "--base-url"), strict=True):
        assert offer in line


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("gpt", "names no provider; write PROVIDER/NAME, such as ollama/gpt"),
        ("ollama/", "names no provider"),
        ("nobody/gpt", "unknown provider 'nobody'.*openrouter, poolside, ollama, llamacpp, vllm and local"),
    ],
)
def test_a_model_nobody_serves(model: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        opened(model=model)


@pytest.mark.parametrize(
    ("model", "name"), [("openrouter/a/b:free", "OPENROUTER_API_KEY"), ("poolside/x", "POOLSIDE_API_KEY")]
)
def test_a_key_that_is_needed(model: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AuthenticationFailed, match=f"set {name}"):
        opened(model=model)
    monkeypatch.setenv(name, "k")
    backend, wire_model = opened(model=model)
    assert wire_model == model.partition("/")[2]
    assert backend.target.startswith("https://")


def test_a_key_alone_chooses_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLSIDE_API_KEY", "k")
    backend, model = opened()
    assert (backend.name, model) == ("poolside", "poolside/laguna-xs-2.1")


@pytest.mark.parametrize(
    ("model", "variable", "value", "target"),
    [
        ("ollama/q", None, "", "http://127.0.0.1:11434/v1"),
        ("ollama/q", "OLLAMA_HOST", "0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("ollama/q", "OLLAMA_HOST", "gpu:1234", "http://gpu:1234/v1"),
        ("ollama/q", "OLLAMA_HOST", "https://gpu.invalid/", "https://gpu.invalid/v1"),
        ("llama.cpp/q", None, "", "http://127.0.0.1:8080/v1"),
        ("vllm/org/q", "VLLM_BASE_URL", "http://gpu:8000/v1/", "http://gpu:8000/v1"),
        (
            "poolside/q",
            "POOLSIDE_STANDALONE_BASE_URL",
            "https://api.invalid/openai/v1",
            "https://api.invalid/openai/v1",
        ),
    ],
)
def test_where_a_provider_is(
    model: str, variable: str | None, value: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSIDE_API_KEY", "k")
    if variable:
        monkeypatch.setenv(variable, value)
    assert opened(model=model)[0].target == target


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("localhost:8080", "http://localhost:8080/v1"),
        ("http://h", "http://h/v1"),
        ("http://h/v1/chat/completions", "http://h/v1"),
        ("https://h/api/v3/", "https://h/api/v3"),
        ("http://[::1]:8080", "http://[::1]:8080/v1"),
    ],
)
def test_base_urls_as_people_write_them(written: str, url: str) -> None:
    assert normal_url(written, "x") == url


@pytest.mark.parametrize(
    "written", ["", "ftp://h", "http://", "http://h:99999", "http://h:x", "ht tp://h", "http://a b"]
)
def test_what_is_no_address(written: str) -> None:
    with pytest.raises(UsageError, match="address"):
        normal_url(written, "--base-url")


def test_a_base_url_keeps_keys_to_their_hosts(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", "for-openrouter")
    monkeypatch.setenv("MY_KEY", "mine")
    model_server.always(text("hi"))

    async def ask(settings: Settings) -> None:
        backend, model = await open_backend(settings)
        [delta async for delta in backend.stream(Request(model, (text_message("user", "x"),)))]
        await backend.aclose()

    anyio.run(ask, Settings(base_url=model_server.url, model="m"))
    anyio.run(ask, Settings(base_url=model_server.url, model="m", api_key_env="MY_KEY"))
    assert [r.headers.get("authorization") for r in model_server.requests] == [None, "Bearer mine"]
    with pytest.raises(AuthenticationFailed, match="set NO_SUCH"):
        opened(base_url=model_server.url, model="m", api_key_env="NO_SUCH")


def test_a_base_url_without_a_model_takes_the_only_one(model_server: ModelServer) -> None:
    assert opened(base_url=model_server.url)[1] == MODEL
    model_server.models = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(UsageError, match="needs a --model; it offers a, b"):
        opened(base_url=model_server.url)


def test_the_dialect_follows_the_provider(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model_server.always(text("hi"))
    monkeypatch.setenv("OPENROUTER_API_KEY", "k")
    monkeypatch.setenv("OPENROUTER_BASE_URL", model_server.url)
    monkeypatch.setenv("VLLM_BASE_URL", model_server.url)
    history = (Message("assistant", (TextBlock("a"),), reasoning="r"),)

    async def ask(model: str) -> None:
        backend, name = await open_backend(Settings(model=model))
        [d async for d in backend.stream(Request(name, history, sampling=Sampling(reasoning_effort="off")))]
        await backend.aclose()

    anyio.run(ask, "openrouter/m")
    anyio.run(ask, "vllm/m")
    first, second = model_server.chats
    assert first["reasoning"] == {"enabled": False} and first["messages"][0]["reasoning"] == "r"
    assert second["chat_template_kwargs"] == {"enable_thinking": False}
    assert second["messages"][0]["reasoning_content"] == "r"


def described(server: ModelServer, model: str = "m", kind: ServerKind = "unknown") -> ModelInfo:
    async def ask() -> ModelInfo:
        backend = OpenAIBackend("test", server.url, "k", kind=kind)
        try:
            info = await backend.describe(model)
            asked = len(server.requests)
            assert await backend.describe(model) == info
            assert len(server.requests) == asked or kind == "ollama"
            return info
        finally:
            await backend.aclose()

    return anyio.run(ask)


OPENROUTER = {
    "id": "poolside/laguna-s-2.1",
    "context_length": 1048576,
    "pricing": {"prompt": "0.0000001", "completion": "0.0000002", "input_cache_read": "0.00000001", "image": "0"},
    "top_provider": {"context_length": 262144, "max_completion_tokens": 33000},
    "supported_parameters": ["tools", "structured_outputs", "max_tokens"],
}


def test_openrouter_names_prices_and_limits(model_server: ModelServer) -> None:
    model_server.models = [OPENROUTER, {"id": "other", "pricing": {"prompt": "-1"}}]
    expected = ModelInfo("poolside/laguna-s-2.1", 262144, 33000, 1e-7, 2e-7, 1e-8, True, True)
    assert described(model_server, "poolside/laguna-s-2.1", "openrouter") == expected
    routed = described(model_server, "poolside/laguna-s-2.1:nitro", "openrouter")
    assert (routed.id, routed.context_length) == ("poolside/laguna-s-2.1:nitro", 262144)
    assert described(model_server, "other", "openrouter") == ModelInfo("other")


def test_prices_become_costs(model_server: ModelServer) -> None:
    model_server.models = [OPENROUTER]
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}

    async def ask() -> list[float | None]:
        backend, costs = OpenAIBackend("test", model_server.url, kind="openrouter"), []
        await backend.describe(OPENROUTER["id"])
        for _ in range(2):
            request = Request(OPENROUTER["id"], (text_message("user", "x"),))
            costs += [d.usage.cost async for d in backend.stream(request) if isinstance(d, UsageDelta)]
        await backend.aclose()
        return costs

    from tests.model_server import stream

    model_server.reply(stream(text("a"), usage=usage), stream(text("a"), usage=usage | {"cost": 0.5}))
    assert anyio.run(ask) == [pytest.approx(600e-7 + 400e-8 + 200e-7), 0.5]


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        ({"max_model_len": 40960}, 40960),
        ({"context_window": 131072}, 131072),
        ({"meta": {"n_ctx": 8192, "n_ctx_train": 32768}}, 8192),
        ({"context_length": "many"}, None),
        ({}, None),
    ],
)
def test_a_context_length_in_the_list(model_server: ModelServer, entry: dict[str, Any], length: int | None) -> None:
    model_server.models = [{"id": "m", **entry}]
    assert described(model_server).context_length == length


def test_llama_cpp_tells_the_room_of_a_slot(model_server: ModelServer) -> None:
    model_server.models = [{"id": "/models/q.gguf", "meta": {"n_ctx": 32768}}]
    model_server.props = {"default_generation_settings": {"n_ctx": 16384}}
    for kind in ("llamacpp", "unknown"):
        info = described(model_server, "any-name", kind)
        assert (info.id, info.context_length, info.supports_schema) == ("any-name", 16384, True)


def test_ollamas_room_is_what_it_will_really_use(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model_server.models = [{"id": "q:latest"}]
    show = {"model_info": {"qwen2.context_length": 32768}, "parameters": "stop x", "capabilities": ["completion"]}
    model_server.ollama_show = show
    info = described(model_server, "q", "ollama")
    assert (info.context_length, info.supports_schema, info.supports_tools) == (4096, True, False)
    monkeypatch.setenv("OLLAMA_CONTEXT_LENGTH", "65536")
    assert described(model_server, "q", "ollama").context_length == 32768
    model_server.routes["GET", "/api/ps"] = http(200, {"models": [{"name": "q:latest", "context_length": 8192}]})
    assert described(model_server, "q", "ollama").context_length == 8192
    model_server.ollama_show = show | {
        "parameters": 'stop "x"\nnum_ctx                        24576\n',
        "capabilities": ["tools"],
    }
    info = described(model_server, "q", "ollama")
    assert (info.context_length, info.supports_tools) == (24576, True)


def test_a_server_that_tells_nothing_is_no_error(model_server: ModelServer) -> None:
    model_server.models = None
    assert described(model_server) == ModelInfo("m")
    model_server.routes["GET", "/v1/models"] = http(200, "<html>", {"Content-Type": "text/html"})
    assert described(model_server) == ModelInfo("m")


def test_a_refused_key_and_a_missing_server_are_errors(model_server: ModelServer) -> None:
    model_server.routes["GET", "/v1/models"] = http(401, {"error": {"message": "who are you"}})
    with pytest.raises(AuthenticationFailed, match="who are you"):
        described(model_server)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        backend = OpenAIBackend("test", f"http://127.0.0.1:{held.getsockname()[1]}/v1")
        with pytest.raises(ProviderUnavailable, match="nothing answers"):
            anyio.run(backend.describe, "m")


def test_a_silent_server_is_left_soon(model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laguna_agent.backend.openai_http.PROBE_TIMEOUT", 0.1)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(8)
        backend = OpenAIBackend("test", f"http://127.0.0.1:{deaf.getsockname()[1]}/v1")
        started = time.monotonic()
        assert anyio.run(backend.describe, "m") == ModelInfo("m")
        assert time.monotonic() - started < 3


def test_the_table_loads_without_httpx() -> None:
    code = (
        "import sys, laguna_agent.backend.providers, laguna_agent.backend.openai_http; sys.exit('httpx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_http_library_comes_without_its_command_line() -> None:
    code = """
import sys
from laguna_agent.backend.http_library import import_httpx
import_httpx()
import_httpx()
import httpx
assert httpx.Client().build_request("GET", "http://127.0.0.1").url.host == "127.0.0.1"
assert not {"rich", "click", "pygments"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
