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
from math import ceil
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio

from laguna_agent import __version__
from laguna_agent.backend.address import is_loopback
from laguna_agent.backend.base import (
    Delta,
    ModelInfo,
    NoticeDelta,
    ProgressDelta,
    Request,
    RetryDelta,
    Usage,
    UsageDelta,
)
from laguna_agent.backend.completion import HEAD_LIMIT, deltas_of, read_up_to
from laguna_agent.backend.faults import Origin, http_error, network_error, no_connection
from laguna_agent.backend.http_library import import_httpx
from laguna_agent.backend.lookup import look_up
from laguna_agent.backend.probe import ServerKind, list_models, probe_model
from laguna_agent.backend.proxy import proxy_for
from laguna_agent.backend.retry import Retries, RetryPolicy
from laguna_agent.backend.sse import LINE_LIMIT
from laguna_agent.backend.timer import Timer
from laguna_agent.backend.wire import Dialect, encode_request, spelling
from laguna_agent.config import Settings
from laguna_agent.errors import AuthenticationFailed, ProviderError, ProviderUnavailable, Unreachable, UsageError

if TYPE_CHECKING:
    import httpx

PROBE_TIMEOUT = 5.0
GATHERING, LASTING = 0.04, 10
"""Pieces of a stream that follow one another within so many seconds are gathered, once so many have."""
AT_HAND = 0.001
"""A piece that took longer was waited for: nothing more of the stream is here."""

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
        self._sought = "" if self._local else urlsplit(f"//{self._proxy or parts.netloc}").hostname or ""
        """The host to be found by name before the first connection."""
        self._dialect = dialect
        self._spelled = spelling(dialect)
        self._kind = kind
        self._policy = policy or RetryPolicy(settings.retry_budget)
        self._connect_timeout = settings.connect_timeout
        self._stall, self._keep_alive = settings.stall_timeout, settings.keep_alive_timeout
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
            timer = Timer(self._stall, self._stall * 10 if self._local else self._stall, self._keep_alive)
            begun = False
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
            async for progress in _countdown(wait):
                yield progress

    async def _attempt(self, body: bytes, timer: Timer, origin: Origin) -> AsyncGenerator[Delta]:
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        async with self._exchange("POST", "/chat/completions", body, headers, timer) as response:
            chunks = _bytes_of(response, timer, origin, self._proxy)
            async with aclosing(chunks):
                if response.status_code != 200:
                    refusal = await read_up_to(chunks, HEAD_LIMIT)
                    raise http_error(response.status_code, response.headers, refusal, origin)
                media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                async with aclosing(deltas_of(chunks, media_type, timer, origin)) as deltas:
                    async for delta in deltas:
                        yield delta

    @asynccontextmanager
    async def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], timer: Timer
    ) -> AsyncIterator[httpx.Response]:
        """Send a request and lend its response, closed afterwards whatever happens."""
        client = self._open()
        await self._find()
        import httpx

        url = self.target + path if path.startswith("/") else path
        response: httpx.Response | None = None
        # httpx bounds each step to a connection; this bounds them together, with the proxy's own answer among them.
        scope, connected = anyio.CancelScope(deadline=anyio.current_time() + self._connect_timeout), False

        async def trace(step: str, info: dict[str, Any]) -> None:
            nonlocal connected
            if step.endswith("send_request_headers.started") and info["request"].method != b"CONNECT":
                connected, scope.deadline = True, anyio.current_time() + timer.left()

        try:
            with scope:
                request = client.build_request(method, url, content=body, headers=headers, extensions={"trace": trace})
                response = await client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise network_error(error, self._origin, self._proxy) from error
        if response is None:
            if not connected:
                raise no_connection(self._origin, self._proxy)
            raise ProviderUnavailable(f"{self._origin.host} gave no answer in time", retryable=True)
        try:
            yield response
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
            # A response and its stream hold each other, and through them the body: a whole conversation.
            response.stream = httpx.ByteStream(b"")

    async def _find(self) -> None:
        if self._sought:
            try:
                await look_up(self._sought, self._connect_timeout)
            except OSError as error:
                raise network_error(error, self._origin, self._proxy) from error
            self._sought = ""

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
        timer = Timer(PROBE_TIMEOUT, PROBE_TIMEOUT, PROBE_TIMEOUT)
        try:
            url = self.target + path.removeprefix("/v1") if path.startswith("/v1/") else root + path
            async with self._exchange(method, url, sent, headers, timer) as response:
                chunks = _bytes_of(response, timer, self._origin, self._proxy)
                async with aclosing(chunks):
                    answer = await read_up_to(chunks, LINE_LIMIT)
        except Unreachable:
            raise
        except ProviderError:
            return None
        if response.status_code in {401, 403} and path.startswith("/v1/"):
            raise http_error(response.status_code, response.headers, answer[:HEAD_LIMIT], self._origin)
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


async def _countdown(wait: float) -> AsyncGenerator[Delta]:
    """Wait, and say so each second; what is not worth a second is not worth a word."""
    until, total = monotonic() + wait, ceil(wait)
    while (left := until - monotonic()) > 0:
        if total > 1:
            yield ProgressDelta("retrying", total - ceil(left), total)
        await anyio.sleep(min(1.0, left))
    if total > 1:
        yield ProgressDelta("retrying", total, total)


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
    quick = 0
    while True:
        chunk: bytes | None = None
        asked_at = monotonic()
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
        quick = quick + 1 if lent_at - asked_at < GATHERING else 0
        if quick > LASTING and lent_at - asked_at > AT_HAND:
            # The pieces of a fast stream cost more one by one than together, and nobody sees a moment as short. What
            # was gathered comes piece by piece too: each is at hand, and waiting behind it would slow down the stream.
            await anyio.sleep(GATHERING)
