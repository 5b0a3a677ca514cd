"""A backend that speaks OpenAI chat.completions over HTTP, to any server that does.

It owns the connection, the timers and the retries. What the bytes mean is `wire`'s, what an error means is `faults`',
which server wants what is `providers`'. An answer counts only when the server said why it ended: a stream that merely
stops is asked for again, after a RetryDelta that voids what had come of it.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from laguna_agent import __version__
from laguna_agent.backend.address import is_loopback
from laguna_agent.backend.base import Delta, ModelInfo, NoticeDelta, Request, RetryDelta, Usage, UsageDelta
from laguna_agent.backend.faults import Origin, Unreachable, error_object, http_error, network_error
from laguna_agent.backend.http_library import import_httpx
from laguna_agent.backend.probe import ServerKind, list_models, probe_model
from laguna_agent.backend.proxy import proxy_for
from laguna_agent.backend.retry import Retries, RetryPolicy
from laguna_agent.backend.sse import LINE_LIMIT, SSEParser
from laguna_agent.backend.timer import Timer
from laguna_agent.backend.wire import ChunkDecoder, Dialect, encode_request, parse_json, spelling
from laguna_agent.config import Settings
from laguna_agent.errors import AuthenticationFailed, ProviderError, ProviderUnavailable, UsageError

if TYPE_CHECKING:
    import httpx

ERROR_BODY_LIMIT = 64 * 1024
PROBE_TIMEOUT = 5.0

_DEFAULT_DIALECT = Dialect()
_DEFAULT_SETTINGS = Settings()


class OpenAIBackend:
    """See the module. `base_url` ends before /chat/completions and names its version (usually /v1).

    Of `settings` it reads the timeouts and the retry budget. `key_env` is only named in errors, `policy` only set where
    the defaults are too patient.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str | None = None,
        settings: Settings = _DEFAULT_SETTINGS,
        *,
        key_env: str = "",
        dialect: Dialect = _DEFAULT_DIALECT,
        kind: ServerKind = "unknown",
        policy: RetryPolicy | None = None,
    ) -> None:
        self.name = name
        self.target = base_url.rstrip("/")
        parts = urlsplit(self.target)
        self._origin = Origin(name, parts.netloc.rpartition("@")[2], key=api_key, key_env=key_env)
        self._local = is_loopback(parts.hostname or "")
        self._bare = bool(api_key) and parts.scheme == "http" and not self._local
        """Whether the key is going to be read by everybody on the way, and nobody was told yet."""
        self._proxy = None if self._local else proxy_for(self.target)
        self._dialect = dialect
        self._spelled = spelling(dialect)
        self._kind = kind
        self._policy = policy or RetryPolicy(settings.retry_budget)
        self._connect_timeout = settings.connect_timeout
        self._stall = settings.stall_timeout
        self._client: httpx.AsyncClient | None = None
        self._infos: dict[str, ModelInfo] = {}

    async def describe(self, model: str) -> ModelInfo:
        """See `Backend.describe`; asked once per model."""
        if model not in self._infos:
            info, lasting = await probe_model(model, self._kind, self._ask)
            if not lasting:
                return info
            self._infos[model] = info
        return self._infos[model]

    async def models(self) -> list[ModelInfo]:
        """See `Backend.models`."""
        return await list_models(self._kind, self._ask)

    async def check_key(self) -> list[ModelInfo]:
        """The models that the key opens, as far as the server lists any. Raises ProviderError for a refused key."""
        if self._kind == "openrouter":
            await self._ask("GET", "/v1/key")  # anybody gets its list of models
        return await self.models()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        """See `Backend.stream`."""
        body = encode_request(request, self._dialect, self._spelled)
        origin = Origin(self.name, self._origin.host, request.model, self._origin.key, self._origin.key_env)
        retries = Retries(self._policy)
        self._open()  # the import is none of the server's silence
        if self._bare:
            self._bare = False
            yield NoticeDelta(f"the key is sent to {self._origin.host} unencrypted; use https:// where the server can")
        while True:
            timer, begun = Timer(self._stall, self._stall * 10 if self._local else self._stall), False
            try:
                async with aclosing(self._attempt(body, timer, origin)) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield self._priced(delta, request.model)
                return
            except ProviderError as error:
                reached = not isinstance(error, Unreachable)
                wait = retries.wait_after(error, timer.silence(), begun=begun, reached=reached)
                if wait is None:
                    raise _final(error, retries.attempts) from error
                failed = error
            yield RetryDelta(retries.attempts - 1, round(wait, 3), str(failed))
            await anyio.sleep(wait)

    async def _attempt(self, body: bytes, timer: Timer, origin: Origin) -> AsyncGenerator[Delta]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        async with self._exchange("POST", "/chat/completions", body, headers, timer) as response:
            chunks = _bytes_of(response, timer, origin, self._proxy)
            async with aclosing(chunks):
                if response.status_code != 200:
                    refusal = await _read(chunks, ERROR_BODY_LIMIT)
                    raise http_error(response.status_code, response.headers, refusal, origin)
                head = await _first_text(chunks)
                media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                decoder = ChunkDecoder()
                if head.lstrip()[:1] == b"{":
                    for delta in _whole_answer(head + await _read(chunks, LINE_LIMIT), decoder, origin):
                        yield delta
                elif media_type == "text/event-stream" or head.lstrip(b"\xef\xbb\xbf\r\n ").startswith(
                    (b"data:", b":")
                ):
                    async with aclosing(_events(head, chunks, decoder, timer, origin)) as deltas:
                        async for delta in deltas:
                            yield delta
                else:
                    raise _no_completion(head, media_type, origin)

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], timer: Timer
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and lend its response, closed afterwards whatever happens."""
        client = self._open()
        import httpx

        url = self.target + path if path.startswith("/") else path
        response: httpx.Response | None = None
        try:
            with anyio.move_on_after(timer.left()):
                response = await client.send(
                    client.build_request(method, url, content=body, headers=headers), stream=True
                )
        except httpx.HTTPError as error:
            raise network_error(error, self._origin, self._proxy) from error
        if response is None:
            raise ProviderUnavailable(f"{self._origin.host} gave no answer in time", retryable=True)
        try:
            yield response
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
            # A response and its stream hold each other, and through them the body: a whole conversation.
            response.stream = httpx.ByteStream(b"")

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            import_httpx()
            import httpx

            headers = {"User-Agent": f"laguna-agent/{__version__}"} | self._authorization()
            timeout = httpx.Timeout(None, connect=self._connect_timeout)
            # To a server on this machine goes no TLS, so the authorities need not be read; this context trusts none.
            plain = self._local and self.target.startswith("http:")
            trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else True
            try:
                # A proxy from the environment is for the network, never for a server on this machine.
                self._client = httpx.AsyncClient(
                    headers=headers, timeout=timeout, trust_env=not self._local, verify=trust
                )
                httpx.URL(self.target)
            except (ImportError, OSError, ValueError, httpx.InvalidURL) as error:
                said = self._origin.words(str(error))
                raise UsageError(
                    f"cannot call {self._origin.host}: {said}; check the URL, *_PROXY and SSL_CERT_FILE"
                ) from error
        return self._client

    def _authorization(self) -> dict[str, str]:
        key = (self._origin.key or "").strip()
        if not (key.isascii() and key.isprintable() and " " not in key):
            source = self._origin.key_env or "the key"
            raise AuthenticationFailed(f"{source} holds characters that no key has; set it anew")
        return {"Authorization": f"Bearer {key}"} if key else {}

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """One JSON answer of the server's own interface; None for anything but a 200 with JSON. `path` is relative to
        the server's root. Raises ProviderError when there is no connection or the key is refused."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        root = self.target.removesuffix("/v1")
        timer = Timer(PROBE_TIMEOUT, PROBE_TIMEOUT)
        try:
            url = self.target + path.removeprefix("/v1") if path.startswith("/v1/") else root + path
            async with self._exchange(method, url, sent, headers, timer) as response:
                chunks = _bytes_of(response, timer, self._origin, self._proxy)
                async with aclosing(chunks):
                    answer = await _read(chunks, LINE_LIMIT)
        except Unreachable:
            raise
        except ProviderError:
            return None
        if response.status_code in {401, 403} and path.startswith("/v1/"):
            raise http_error(response.status_code, response.headers, answer[:ERROR_BODY_LIMIT], self._origin)
        try:
            return json.loads(answer) if response.status_code == 200 else None
        except (ValueError, RecursionError):
            return None

    def _priced(self, delta: Delta, model: str) -> Delta:
        """The delta, its cost worked out where the server names prices but no sum."""
        info = self._infos.get(model)
        if not isinstance(delta, UsageDelta) or delta.usage.cost is not None or info is None:
            return delta
        usage = delta.usage
        if info.input_price is None or info.output_price is None:
            return delta
        cached = info.input_price if info.cached_price is None else info.cached_price
        cost = (usage.input_tokens - usage.cached_tokens) * info.input_price
        cost += usage.cached_tokens * cached + usage.output_tokens * info.output_price
        return UsageDelta(
            Usage(usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens, cost)
        )


def _final(error: ProviderError, attempts: int) -> ProviderError:
    """The same error for the person who has to deal with it."""
    notes = [f"gave up after {attempts} attempts"] if attempts > 1 else []
    if error.retryable and error.retry_after:
        notes.append(f"it asks to wait {error.retry_after:.0f} s")
    if not notes:
        return error
    return type(error)(f"{error} [{', '.join(notes)}]", status=error.status, retry_after=error.retry_after)


async def _bytes_of(response: httpx.Response, timer: Timer, origin: Origin, proxy: str | None) -> AsyncGenerator[bytes]:
    import httpx

    body = response.aiter_bytes()
    while True:
        chunk: bytes | None = None
        try:
            with anyio.move_on_after(timer.left()):
                chunk = await anext(body)
        except StopAsyncIteration:
            return
        except httpx.HTTPError as error:
            raise network_error(error, origin, proxy) from error
        if chunk is None:
            raise ProviderUnavailable(f"{origin.host} stalled: nothing new for {timer.silence():.0f} s", retryable=True)
        timer.took_bytes()
        lent_at = monotonic()
        yield chunk
        timer.pause(monotonic() - lent_at)


async def _first_text(chunks: AsyncIterator[bytes]) -> bytes:
    """The bytes up to the chunk that holds the first one that is no white space."""
    head = b""
    async for chunk in chunks:
        head += chunk
        if head.strip() or len(head) > ERROR_BODY_LIMIT:
            break
    return head


async def _read(chunks: AsyncIterator[bytes], limit: int) -> bytes:
    """At most `limit` bytes, and whatever the last chunk holds beyond."""
    parts, size = [], 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size >= limit:
            break
    return b"".join(parts)


async def _events(
    head: bytes, chunks: AsyncIterator[bytes], decoder: ChunkDecoder, timer: Timer, origin: Origin
) -> AsyncGenerator[Delta]:
    parser, piece = SSEParser(), head
    while True:
        for event in parser.feed(piece):
            if event.data.strip() == "[DONE]":
                if decoder.reason is None:
                    raise ProviderUnavailable(f"{origin.host} ended its stream without a finish reason", retryable=True)
                for delta in decoder.end():
                    yield delta
                return
            deltas = decoder.decode(_chunk(event.data, event.event, origin))
            if deltas or decoder.reason is not None:
                timer.took_event()
            if decoder.reason is not None:
                timer.ended()
            for delta in deltas:
                yield delta
        try:
            following = await anext(chunks, None)
        except ProviderError:
            if decoder.reason is None:
                raise
            following = None  # the answer itself was complete
        if following is None:
            break
        piece = following
    if decoder.reason is None:
        raise ProviderUnavailable(f"{origin.host} broke off in the middle of its answer", retryable=True)
    for delta in decoder.end():
        yield delta


def _chunk(data: str, event: str, origin: Origin) -> dict[str, Any]:
    chunk = parse_json(data)
    if not isinstance(chunk, dict):
        said = origin.words(data[:80])
        raise ProviderUnavailable(f"{origin.host} sent an event that is no JSON object: {said}", retryable=True)
    if chunk.get("error") or event == "error" or chunk.get("object") == "error":
        raise error_object(chunk, origin)
    return chunk


def _whole_answer(body: bytes, decoder: ChunkDecoder, origin: Origin) -> list[Delta]:
    """A completion that came in one piece, though a stream was asked for. JSON that closes is complete."""
    chunk = _chunk(body.decode("utf-8", "replace"), "message", origin)
    if not isinstance(chunk.get("choices"), list) or not chunk["choices"]:
        raise error_object(chunk, origin)
    return [*decoder.decode(chunk), *decoder.end()]


def _no_completion(head: bytes, media_type: str, origin: Origin) -> ProviderError:
    if not head.strip():
        return ProviderUnavailable(f"{origin.host} gave an empty answer", retryable=True)
    kind = "an HTML page" if head.lstrip()[:1] == b"<" else f"{media_type or 'something without a content type'}"
    return ProviderError(
        f"{origin.host} answered with {kind} where a completion was due; check the base URL (it usually ends in /v1)",
        status=200,
    )
