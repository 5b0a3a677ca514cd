"""What an answered request leaves behind: nothing, for its body is a whole conversation."""

from __future__ import annotations

import gc

import anyio
import httpx

from laguna_agent.backend.base import Request
from laguna_agent.backend.openai_http import OpenAIBackend
from laguna_agent.messages import text_message
from tests.model_server import MODEL, ModelServer, text


def test_a_request_is_let_go_of_without_the_collector(model_server: ModelServer) -> None:
    model_server.always(text("Yes."))

    async def ask() -> int:
        backend = OpenAIBackend("test", model_server.url)
        request = Request(MODEL, (text_message("user", "word " * 1_000),))
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                assert [delta async for delta in backend.stream(request)]
            return sum(isinstance(each, httpx.Request) for each in gc.get_objects())
        finally:
            gc.enable()
            await backend.aclose()

    assert anyio.run(ask) <= 1


def test_a_message_is_worked_out_once() -> None:
    from laguna_agent.messages import Message, PerMessage

    seen: list[str] = []

    def work_out(message: Message) -> str:
        seen.append(message.text)
        return message.text.upper()

    sizes, history = PerMessage(work_out), [text_message("user", each) for each in "abc"]
    assert sizes.of(history) == ["A", "B", "C"]
    history.append(text_message("user", "d"))
    assert sizes.of(tuple(history)) == ["A", "B", "C", "D"]
    assert seen == ["a", "b", "c", "d"]
    history[1:3] = [text_message("user", "x")]
    assert sizes.of(history) == ["A", "X", "D"]
    assert sizes.of(history[:1]) == ["A"]
    assert sizes.of(()) == []
