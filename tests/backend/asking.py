"""One request put to a server by the HTTP backend, with a policy that keeps tests quick."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from laguna_agent.backend.assemble import Assembler, Reply
from laguna_agent.backend.base import Delta, Request
from laguna_agent.backend.openai_http import OpenAIBackend
from laguna_agent.backend.retry import RetryPolicy
from laguna_agent.config import Settings
from laguna_agent.errors import (
    ProviderError,
)
from laguna_agent.messages import ToolSpec, text_message
from tests.model_server import (
    ModelServer,
)

REQUEST = Request("m", (text_message("user", "Hi"),), (ToolSpec("read", "", {"type": "object"}),))
QUICK = RetryPolicy(budget=3.0, unreachable=0.2, first=0.01, longest=0.05)
KEY = "sk-secret-key-123456"


async def gather(url: str, settings: Settings, policy: RetryPolicy) -> list[Delta]:
    backend = OpenAIBackend("test", url, KEY, settings, key_env="TEST_KEY", policy=policy)
    try:
        return [delta async for delta in backend.stream(REQUEST)]
    finally:
        await backend.aclose()


def deltas_of(server: ModelServer | str, policy: RetryPolicy = QUICK, **settings: Any) -> list[Delta]:
    url = server if isinstance(server, str) else server.url
    return anyio.run(gather, url, Settings(**({"stall_timeout": 0.5, "connect_timeout": 2.0} | settings)), policy)


def reply_of(server: ModelServer, **settings: Any) -> Reply:
    assembler = Assembler(REQUEST)
    for delta in deltas_of(server, **settings):
        assembler.feed(delta)
    return assembler.reply()


def error_of(server: ModelServer | str, **settings: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        deltas_of(server, **settings)
    line = str(caught.value)
    assert "\n" not in line and KEY not in line and "test" not in line.split()[:1]
    return caught.value
