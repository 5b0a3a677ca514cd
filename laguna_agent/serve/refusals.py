"""Every error as OpenAI's error object and an HTTP status. Knows the exception tree and no route.

    401  the token of this server is missing or wrong          404  no such model, no such path
    400  the request cannot be understood or honoured; also ContextTooLong (code context_length_exceeded)
    403  a browser, or a Host that is not ours                 405, 408, 411, 413, 415  what HTTP says they are
    429  too many requests wait, or the provider's quota       500  a bug of ours
    502  the provider refuses our key, or failed for good      503  no answer now; the same may succeed later
    507  the model does not fit this machine, or its files are damaged

`x-should-retry` says of each whether to ask again, as OpenAI's own servers do and its clients heed.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from laguna_agent.backend.wire import encode_json
from laguna_agent.crash import describe_crash
from laguna_agent.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextTooLong,
    DoesNotFit,
    LagunaError,
    ModelNotFound,
    ProviderError,
    QuotaExceeded,
    UsageError,
    WeightsError,
)

_INVALID = "invalid_request_error"
_SERVER = "server_error"


class Refused(LagunaError):
    """This server's own no. `param` names the field that is meant, as a path such as messages[2].content."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers or {}


class Refusal(msgspec.Struct, frozen=True):
    """What goes to the client: `error` is the content of the JSON body's `error`, without a status of its own."""

    status: int
    error: dict[str, Any]
    headers: dict[str, str]

    @property
    def body(self) -> bytes:
        """The JSON body of an answer that is nothing but this error."""
        return encode_json({"error": self.error})

    @property
    def event(self) -> bytes:
        """The server-sent event that ends a stream in the middle; the number is for clients that read no status."""
        return b"data: " + encode_json({"error": self.error | {"status": self.status}}) + b"\n\n"


def refusal_of(error: Exception) -> Refusal:
    """What the client is told of an error. One that is no LagunaError is a bug: a report of it is kept,
    its line to stderr, and the client learns neither."""
    if not isinstance(error, LagunaError):
        sys.stderr.write(f"laguna-agent: {describe_crash(error)}\n")
        return _refusal(500, "internal error; the server's stderr says more", _SERVER, "internal_error", retry=False)
    message = " ".join(str(error).split())
    if isinstance(error, Refused):
        kind = _SERVER if error.status >= 500 else _INVALID
        retry = error.status in {408, 429, 503}
        refusal = _refusal(error.status, message, kind, error.code, retry=retry, param=error.param)
        return msgspec.structs.replace(refusal, headers=refusal.headers | error.headers)
    status, kind, code = _classify(error)
    retry = isinstance(error, ProviderError) and error.retryable
    refusal = _refusal(status, message, kind, code, retry=retry)
    if isinstance(error, ProviderError) and error.retry_after:
        return msgspec.structs.replace(
            refusal, headers=refusal.headers | {"retry-after": str(max(1, round(error.retry_after)))}
        )
    return refusal


def _refusal(
    status: int, message: str, kind: str, code: str | None, *, retry: bool, param: str | None = None
) -> Refusal:
    error = {"message": message, "type": kind, "param": param, "code": code}
    return Refusal(status, error, {"x-should-retry": "true" if retry else "false"})


def _classify(error: LagunaError) -> tuple[int, str, str | None]:
    """(status, type, code) of an error that a backend raised."""
    if isinstance(error, ContextTooLong):
        return 400, _INVALID, "context_length_exceeded"
    if isinstance(error, ModelNotFound):
        return 404, _INVALID, "model_not_found"
    if isinstance(error, QuotaExceeded):
        # 402 and a quota that will not pass are the same to a client of ours: asking again is of no use.
        code = "rate_limit_exceeded" if error.retryable else "insufficient_quota"
        return 429, code, code
    if isinstance(error, AuthenticationFailed):
        # Not 401: that would blame the client's token, and it is ours for the provider that is refused.
        return 502, _SERVER, "provider_refuses_key"
    if isinstance(error, DoesNotFit | WeightsError):
        return 507, _SERVER, "model_unusable"
    if isinstance(error, BadRequest | UsageError):
        return 400, _INVALID, None
    if isinstance(error, ProviderError):
        return (503 if error.retryable else 502), _SERVER, "provider_unavailable"
    return 500, _SERVER, None
