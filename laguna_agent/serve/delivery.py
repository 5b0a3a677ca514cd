"""One generation on its way to one client, and how many there may be at once.

Knows ASGI and deltas. A client that goes away ends its generation at once, and so does one that stops reading; while
nothing comes of the model the client gets comments, so that nobody in between takes the silence for an end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from typing import Any

import anyio
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from starlette.types import Receive, Scope, Send

from laguna_agent.backend.base import Delta, NoticeDelta, ProgressDelta
from laguna_agent.errors import LagunaError, ProviderUnavailable
from laguna_agent.serve.answers import DONE, ChunkWriter, WholeAnswer, comment, event
from laguna_agent.serve.chat_request import ChatRequest
from laguna_agent.serve.refusals import Refusal, Refused

REQUEST_LIMIT = 64
"""Requests under way; each may hold a body, and the engine's queue is not endless."""
BODY_BYTES = 32 * 1024 * 1024
BODY_SECONDS = 60.0
HEAD_SECONDS = 2.0
"""How long nothing but progress keeps the status open: an error that comes by then is an HTTP error."""
SILENCE_SECONDS = 10.0
WRITE_SECONDS = 120.0
LAST_SECONDS = 1.0
"""For a backend to put its things away once its answer is complete."""

_EVENT_STREAM = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold the events back
}


class ClientGone(LagunaError):
    """There is nobody left to tell anything."""


class Desk:
    """The requests under way."""

    def __init__(self, limit: int = REQUEST_LIMIT) -> None:
        self._limit = limit
        self._scopes: set[anyio.CancelScope] = set()

    @property
    def busy(self) -> int:
        """How many requests are under way."""
        return len(self._scopes)

    @contextmanager
    def seat(self) -> Iterator[anyio.CancelScope]:
        """A place for one request. Raises Refused where there is none; `end_all` cancels what is inside."""
        if len(self._scopes) >= self._limit:
            raise Refused(
                f"{self._limit} requests are under way; try again when one is done",
                status=429,
                code="rate_limit_exceeded",
                headers={"retry-after": "1"},
            )
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def end_all(self) -> None:
        """Cancel every request; each tells its client that the server stops."""
        for scope in self._scopes:
            scope.cancel()


class Reply:
    """The HTTP answer to one request; its head goes out with the first bytes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def put(self, data: bytes, *, last: bool = False) -> None:
        """Send a piece of an event stream. Raises ClientGone where the client does not read it."""
        if not self.begun:
            await self._begin(200, _EVENT_STREAM)
        await self._give({"type": "http.response.body", "body": data, "more_body": not last})

    async def whole(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Send one JSON document."""
        await self._begin(status, {"content-type": "application/json", "content-length": str(len(body))} | headers)
        await self._give({"type": "http.response.body", "body": body})

    async def fail(self, refusal: Refusal) -> None:
        """End with an error: as the status where there is still one to give, else as the stream's last event."""
        if self.begun:
            await self.put(refusal.event, last=True)
        else:
            await self.whole(refusal.status, refusal.headers, refusal.body)

    async def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.begun = True
        pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await self._give({"type": "http.response.start", "status": status, "headers": pairs})

    async def _give(self, message: dict[str, Any]) -> None:
        with anyio.move_on_after(WRITE_SECONDS) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            raise ClientGone(f"the client has read nothing for {WRITE_SECONDS:.0f} s")


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The request's body. Raises Refused where it is too large, too slow or packed, ClientGone where it breaks off."""
    headers = dict(scope["headers"])
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused("the body must not be compressed (it has a Content-Encoding)", status=415)
    announced = headers.get(b"content-length", b"0")
    parts, size = [], 0
    with anyio.move_on_after(BODY_SECONDS):
        while True:
            if size > BODY_BYTES or (announced.isdigit() and int(announced) > BODY_BYTES):
                raise Refused(f"the body is larger than {BODY_BYTES // 2**20} MiB", status=413)
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client went away within its request")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if not message.get("more_body"):
                return b"".join(parts)
    raise Refused(f"the body did not come within {BODY_SECONDS:.0f} s", status=408)


async def deliver(chat: ChatRequest, answer: AsyncIterator[Delta], receive: Receive, reply: Reply) -> None:
    """Send the answer as it comes, until it is complete or the client is gone. Raises what the backend raises."""
    sender, deltas = anyio.create_memory_object_stream[Delta | Exception](0)
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_pump, answer, sender)
        group.start_soon(_end_with_client, receive, group.cancel_scope)
        try:
            await (_deliver_stream if chat.stream else _deliver_whole)(chat, deltas, reply)
        except Exception as error:  # noqa: BLE001 - it is raised below, where no group wraps it
            failure = error
        group.cancel_scope.cancel()
    deltas.close()
    if failure is not None:
        raise failure


async def _pump(answer: AsyncIterator[Delta], sender: ObjectSendStream[Delta | Exception]) -> None:
    """Run the backend's stream in one task, as its cancel scopes need it. An error is an item like any other."""
    async with sender:
        try:
            async with aclosing(answer) if isinstance(answer, AsyncGenerator) else nullcontext():
                async for delta in answer:
                    await sender.send(delta)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other task answers for it
            await sender.send(error)


async def _end_with_client(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _next(deltas: ObjectReceiveStream[Delta | Exception]) -> Delta:
    try:
        item = await deltas.receive()
    except anyio.EndOfStream:
        raise ProviderUnavailable("the answer ended before it was complete", retryable=True) from None
    if isinstance(item, Exception):
        raise item
    return item


async def _drain(deltas: ObjectReceiveStream[Delta | Exception]) -> None:
    with anyio.move_on_after(LAST_SECONDS):
        async for _ in deltas:
            pass


async def _deliver_stream(chat: ChatRequest, deltas: ObjectReceiveStream[Delta | Exception], reply: Reply) -> None:
    writer = ChunkWriter(chat.request.model, include_usage=chat.include_usage)
    aside: NoticeDelta | ProgressDelta | None = None
    open_until = anyio.current_time() + HEAD_SECONDS
    while not writer.finished:
        patience = SILENCE_SECONDS if reply.begun else max(0.0, open_until - anyio.current_time())
        delta: Delta | None = None
        with anyio.move_on_after(patience):
            delta = await _next(deltas)
        if delta is None:
            await reply.put(comment(aside))
        elif isinstance(delta, NoticeDelta | ProgressDelta):
            aside = delta
            if reply.begun:
                await reply.put(_aside(chat, writer, delta))
        else:
            for chunk in writer.write(delta):
                await reply.put(event(chunk))
    await _drain(deltas)
    await reply.put(DONE, last=True)


def _aside(chat: ChatRequest, writer: ChunkWriter, delta: NoticeDelta | ProgressDelta) -> bytes:
    if chat.return_progress and isinstance(delta, ProgressDelta) and delta.stage == "reading":
        return event(writer.progress(delta))
    return comment(delta)


async def _deliver_whole(chat: ChatRequest, deltas: ObjectReceiveStream[Delta | Exception], reply: Reply) -> None:
    answer = WholeAnswer(chat.request.model)
    while not answer.finished:
        answer.add(await _next(deltas))
    await _drain(deltas)
    await reply.whole(200, {}, answer.completion())
