"""JSON-RPC 2.0 over newline-delimited JSON: one connection, both directions. https://www.jsonrpc.org/specification

Whatever comes in, the connection lives: a fault is answered with the right error, a faulty notification with silence.
Knows nothing of ACP but `$/cancel_request`, and nothing of sessions: methods are given as a table.

A request's handler is called at once, in the order of arrival, and returns the awaitable that does the work; so what
it does before its first await is done before the next message is looked at. Notifications are handled at once too.

What is held in memory is bounded: requests in flight by number and size, until their answer is queued; answers and
notifications by the outbox. Reading goes on while the outbox is full, for else no cancel would be read; only a client
that provokes errors by the thousand and does not read them is not read either.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from laguna_agent.acp.decoding import decode
from laguna_agent.acp.encoding import encode
from laguna_agent.acp.schema import CancelRequestNotification
from laguna_agent.acp.streams import LINE_LIMIT, Lines, LineTooLong, Outbox, Sink, Source
from laguna_agent.errors import LagunaError

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REQUEST_CANCELLED = -32800
AUTH_REQUIRED = -32000
RESOURCE_NOT_FOUND = -32002

MAX_IN_FLIGHT = 1024
MAX_HELD = 4 * LINE_LIMIT
MAX_MESSAGE = 1000
CLOSE_GRACE = 5.0
FLUSH_GRACE = 1.0
CANCEL_REQUEST = "$/cancel_request"

T = TypeVar("T")
log = logging.getLogger(__name__)


class RpcError(LagunaError):
    """An error object of JSON-RPC: a handler raises it to answer so, `Peer.request` when it was answered so."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class ConnectionClosed(LagunaError):
    """The other side is gone, so its answer will not come."""


class Call:
    """A request of the other side while it is worked on."""

    def __init__(self, id: Any, size: int) -> None:
        self.id = id
        self.size = size
        self.scope = anyio.CancelScope()
        self.ended = False
        self._on_cancel: Callable[[], None] = self.scope.cancel
        self.hooks: list[Callable[[], Awaitable[None]]] = []

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this on `$/cancel_request`, instead of cancelling the work and answering -32800."""
        self._on_cancel = callback

    def after_response(self, hook: Callable[[], Awaitable[None]]) -> None:
        """Await this once the result is on its way, so that nothing it sends can overtake the answer."""
        self.hooks.append(hook)

    def cancel(self) -> None:
        """The other side lost interest; too late where only the sending of the answer is left."""
        if not self.ended:
            self._on_cancel()


RequestHandler = Callable[[Any, Call], Awaitable[Any]]
NotificationHandler = Callable[[Any], None]


class Cancelled(msgspec.Struct):
    """Params of a `$/cancel_request` that comes in: like the official ones, but for any id that a request can have."""

    request_id: Any = msgspec.field(name="requestId")


class Answer:
    """The place where the answer to a request of ours will arrive; `take` is given it at once."""

    def __init__(self, take: Callable[[dict[str, Any]], None] | None) -> None:
        self.arrived = anyio.Event()
        self.message: dict[str, Any] | None = None
        self.take = take


class Peer:
    """One connection, made on a running event loop.

    `requests` and `notifications` map a method to the Struct of its params and its handler.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        requests: Mapping[str, tuple[type, RequestHandler]],
        notifications: Mapping[str, tuple[type, NotificationHandler]],
    ) -> None:
        self._lines = Lines(source)
        self._outbox = Outbox(sink)
        self._requests = requests
        self._notifications = {CANCEL_REQUEST: (Cancelled, self._cancel_request), **notifications}
        self._calls: dict[str, Call] = {}
        self._held = 0
        self._answers: dict[str, Answer] = {}
        self._late: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._last_id = 0
        self._reading = anyio.CancelScope()
        self._closed = False

    async def run(self, on_close: Callable[[], None]) -> None:
        """Serve until the other side closes or `close` is called.

        Then `on_close` is called, which should make the calls still running end; they get 5 s for it, and what they
        answer is still sent if anyone reads.
        """
        async with anyio.create_task_group() as sending:
            sending.start_soon(self._send)
            async with anyio.create_task_group() as working:
                with self._reading:
                    await self._read(working)
                self._closed = True
                for answer in self._answers.values():
                    answer.arrived.set()
                on_close()
                working.cancel_scope.deadline = anyio.current_time() + CLOSE_GRACE
            self._outbox.close()
            sending.cancel_scope.deadline = anyio.current_time() + FLUSH_GRACE

    def close(self) -> None:
        """Stop reading; `run` winds up."""
        self._reading.cancel()

    async def notify(self, method: str, params: msgspec.Struct) -> None:
        """Send a notification."""
        await self._outbox.put(encode({"jsonrpc": "2.0", "method": method, "params": params}))

    def post(self, method: str, params: msgspec.Struct) -> None:
        """Send a small request whose answer nobody needs, at once; for giving back what the other side holds."""
        self._last_id += 1
        self._outbox.post(encode({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}))

    async def request(
        self,
        method: str,
        params: msgspec.Struct,
        kind: type[T],
        *,
        late: Callable[[T], None] | None = None,
        at_once: Callable[[T], None] | None = None,
    ) -> T:
        """Send a request and wait for its result; raises RpcError, ConnectionClosed.

        When the waiting is cancelled, the other side is told by `$/cancel_request`. A result that comes all the same is
        given to `late`, else dropped. `at_once` gets the result before the message behind it is looked at.
        """
        self._last_id += 1
        number = self._last_id
        answer = self._answers[id_key(number)] = Answer(at_once and taker(at_once, method, kind))
        sent = False
        try:
            await self._outbox.put(encode({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))
            sent = True
            if not self._closed:
                await answer.arrived.wait()
        except anyio.get_cancelled_exc_class():
            if late is not None and sent:
                take = taker(late, method, kind)
                if answer.message is None:
                    self._late[id_key(number)] = take
                else:
                    take(answer.message)
            if sent and answer.message is None:
                cancel = CancelRequestNotification(request_id=number)
                self._outbox.post(encode({"jsonrpc": "2.0", "method": CANCEL_REQUEST, "params": cancel}))
            raise
        finally:
            del self._answers[id_key(number)]
        return result_of(answer.message, method, kind)

    async def _send(self) -> None:
        await self._outbox.drain()
        self.close()

    async def _read(self, working: anyio.abc.TaskGroup) -> None:
        while True:
            fault = None
            try:
                line = await self._lines.next()
                if line is None:
                    return
                if line.strip():
                    message = parse(line)
                    if self._is_full():
                        # The rest of a burst may find those before it answered.
                        await anyio.lowlevel.checkpoint()
                    fault = self._receive(message, len(line), working)
            except (LineTooLong, RpcError) as error:
                fault = error_line(None, error if isinstance(error, RpcError) else RpcError(PARSE_ERROR, str(error)))
            if fault is not None:
                await self._outbox.put_first(fault)

    def _is_full(self) -> bool:
        return len(self._calls) >= MAX_IN_FLIGHT or self._held >= MAX_HELD

    def _receive(self, message: Any, size: int, working: anyio.abc.TaskGroup) -> bytes | None:
        """Dispatch one message; the line to answer with at once, where there is something wrong with it."""
        if not isinstance(message, dict):
            batch = "; batches are not part of the protocol" if isinstance(message, list) else ""
            return error_line(None, RpcError(INVALID_REQUEST, f"A message must be a JSON object{batch}"))
        if "method" not in message and "id" in message and ("result" in message or "error" in message):
            self._receive_answer(message)
        elif "id" not in message and isinstance(message.get("method"), str):
            self._receive_notification(message)
        else:
            return self._receive_request(message, size, working)
        return None

    def _receive_answer(self, message: dict[str, Any]) -> None:
        key = id_key(message["id"])
        if key in self._late:
            self._late.pop(key)(message)
        answer = self._answers.get(key)
        if answer is not None and answer.message is None:
            answer.message = message
            answer.arrived.set()
            if answer.take is not None:
                answer.take(message)

    def _receive_notification(self, message: dict[str, Any]) -> None:
        known = self._notifications.get(message["method"])
        if known is None or message.get("jsonrpc") != "2.0":
            return
        kind, handler = known
        try:
            handler(decode(message.get("params") or {}, kind))
        except (msgspec.ValidationError, RecursionError, LagunaError) as error:
            # Not louder: a storm of these must not fill a stderr that nobody reads.
            log.debug("%s ignored: %s", message["method"], error)
        except Exception:
            log.exception("a notification could not be handled; this is a bug")

    def _receive_request(self, message: dict[str, Any], size: int, working: anyio.abc.TaskGroup) -> bytes | None:
        id = message.get("id")
        if "id" not in message or isinstance(id, bool | dict | list):
            return error_line(None, RpcError(INVALID_REQUEST, "A request needs a string or number as its id"))
        call = Call(id, size)
        try:
            kind, handler = self._route(message)
            if id_key(id) in self._calls:
                raise RpcError(INVALID_REQUEST, f"The id {id!r} belongs to a request that is still being answered")
            if self._is_full():
                raise RpcError(INTERNAL_ERROR, "Too many or too large requests are being answered; wait for some")
            work = handler(read_params(message, kind), call)
        except Exception as error:  # noqa: BLE001 - a handler's bug costs its request, never the connection
            return error_line(id, answerable(error))
        self._calls[id_key(id)] = call
        self._held += size
        working.start_soon(self._work, call, work, name=message["method"])
        return None

    def _route(self, message: dict[str, Any]) -> tuple[type, RequestHandler]:
        method = message.get("method")
        if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
            raise RpcError(INVALID_REQUEST, 'A request needs "jsonrpc": "2.0" and a string "method"')
        if method not in self._requests:
            raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")
        return self._requests[method]

    async def _work(self, call: Call, work: Awaitable[Any]) -> None:
        try:
            await self._outbox.put(await self._answer(call, work))
        finally:
            del self._calls[id_key(call.id)]
            self._held -= call.size
        try:
            for hook in call.hooks:
                await hook()
        except Exception:
            log.exception("what should follow an answer failed; this is a bug")

    async def _answer(self, call: Call, work: Awaitable[Any]) -> bytes:
        """The line that answers a request; without a result its hooks are dropped."""
        error: Exception = RpcError(REQUEST_CANCELLED, "Request cancelled")
        try:
            with call.scope:
                return encode({"jsonrpc": "2.0", "id": call.id, "result": await work})
        except Exception as caught:  # noqa: BLE001 - as above
            error = caught
        except anyio.get_cancelled_exc_class() as caught:
            await anyio.lowlevel.checkpoint_if_cancelled()
            # Not ours: some library cancelled a task of its own, which must not leave the request unanswered.
            error = RuntimeError(f"stray cancellation: {caught!r}")
        finally:
            call.ended = True
        call.hooks.clear()
        return error_line(call.id, answerable(error))

    def _cancel_request(self, params: Cancelled) -> None:
        call = self._calls.get(id_key(params.request_id))
        if call is not None:
            call.cancel()


def parse(line: bytes) -> Any:
    """The JSON of a line; raises RpcError. A byte order mark, as Windows puts it before text, is no fault."""
    try:
        return msgspec.json.decode(line.removeprefix(codecs.BOM_UTF8))
    except (ValueError, RecursionError) as error:
        # Beside msgspec's own errors: invalid UTF-8, numbers of thousands of digits, nesting without end.
        raise RpcError(PARSE_ERROR, f"Parse error: {error}") from None


def id_key(id: Any) -> str:
    """Tells 1 from "1", but not from 1.0: in JSON that is the same number, and some clients send it so."""
    number = int(id) if isinstance(id, float) and id.is_integer() else id
    return f"{type(number).__name__}:{number}"


def answerable(error: Exception) -> RpcError:
    """The error to answer with; for a bug, which is logged, it says no more than that."""
    if isinstance(error, LagunaError):
        return error if isinstance(error, RpcError) else RpcError(INTERNAL_ERROR, str(error))
    log.error("a request could not be answered; this is a bug", exc_info=error)
    return RpcError(INTERNAL_ERROR, "Internal error; the agent's stderr has the details")


def read_params(message: dict[str, Any], kind: type[T]) -> T:
    """The decoded params; absent or null ones count as an empty object."""
    params = message.get("params")
    try:
        return decode({} if params is None else params, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise RpcError(INVALID_PARAMS, f"Invalid params of {message['method']}: {error}") from None


def result_of(message: dict[str, Any] | None, method: str, kind: type[T]) -> T:
    """The result that an answer holds; raises RpcError for an error or a malformed one."""
    if message is None:
        raise ConnectionClosed(f"the connection closed before {method} was answered")
    error = message.get("error")
    if error is not None:
        error = error if isinstance(error, dict) else {}
        code, text = error.get("code"), error.get("message")
        if type(code) is not int or not -(1 << 31) <= code < 1 << 31:
            code = INTERNAL_ERROR
        said = text if isinstance(text, str) else f"{method} failed, and the other side does not say why"
        raise RpcError(code, said, error.get("data"))
    try:
        return decode(message.get("result"), kind)
    except (msgspec.ValidationError, RecursionError) as fault:
        raise RpcError(INVALID_PARAMS, f"Malformed answer to {method}: {fault}") from None


def taker(take: Callable[[T], None], method: str, kind: type[T]) -> Callable[[dict[str, Any]], None]:
    """`take` for the answer itself; what holds no result is not given to it."""

    def given(message: dict[str, Any]) -> None:
        with contextlib.suppress(RpcError):
            take(result_of(message, method, kind))

    return given


def error_line(id: Any, error: RpcError) -> bytes:
    """An error answer as a line; `data` only where there is some, and never a whole message quoted back."""
    text = str(error)
    text = text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."
    body = {"code": error.code, "message": text} | ({} if error.data is None else {"data": error.data})
    return encode({"jsonrpc": "2.0", "id": id, "error": body})
