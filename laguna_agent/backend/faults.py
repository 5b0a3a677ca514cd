"""What a server's refusal means: HTTP answers, error objects and network faults as the exception tree of `errors`.

Every message is one line: which server, what it said in its own words, what to do. Keys never appear in one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from laguna_agent.backend.retry import RETRYABLE_STATUSES
from laguna_agent.backend.retry_after import wished_wait
from laguna_agent.errors import (
    AuthenticationFailed,
    BadRequest,
    ContentFiltered,
    ContextTooLong,
    ModelNotFound,
    ProviderError,
    ProviderUnavailable,
    QuotaExceeded,
    Unreachable,
)

WORDS_LIMIT = 300

# In the words of OpenAI, OpenRouter, vLLM, SGLang, LM Studio, llama.cpp, Anthropic, Gemini, Mistral, Bedrock, xAI,
# Groq, Ollama, TGI, Cohere, Copilot, Moonshot, Qwen, GLM and MiniMax.
_CONTEXT = re.compile(
    r"context[_ ]length|context[_ ]window|maximum model length|max_model_len|max_tokens_exceeded"
    r"|(available|model'?s?|max\w*|exceeds?( the)?) context( size| limit)?\b|exceed_context_size|context (size|limit)"
    r"|prompt (is )?too long|input is too long|input token count|too large for model|maximum prompt length"
    r"|reduce the length of the|max_new_tokens`? must be|too many tokens"
    r"|greater than the context|context the overflows"
    r"|prompt exceeds max|token count of \d+ exceeds|exceeded model token limit|range of input length should be"
    r"|`?inputs`? must have less than|requested tokens \(\d+\) exceed|model_context_window_exceeded"
    r"|input length exceeds|too many input tokens",
    re.IGNORECASE,
)
# A limit of tokens per minute that one request alone is above: no waiting helps, a shorter request does.
_NEVER_FITS = re.compile(r"request too large|input or output tokens must be reduced", re.IGNORECASE)
_FILTERED = re.compile(
    r"content[_ ]filter|content management policy|content[_ ]policy[_ ]violation|requires moderation|was flagged"
    r"|data_inspection_failed|prohibited content|responsible ai",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"not a valid model|no such model|unknown model|model_not_found|unsupported model"
    r"|model\b.{0,120}\b(does not exist|not found|is not available|not exist)",
    re.IGNORECASE,
)
_WILL_NOT_PASS = re.compile(
    r"per[- ]day|daily|insufficient_quota|exceeded your current quota|insufficient credit|out of credit|billing",
    re.IGNORECASE,
)
# Error names without a number, as they stand in `code`, `type` and OpenRouter's `error_type`.
_STATUS_OF: dict[str, int] = {
    "authentication": 401,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "payment_required": 402,
    "insufficient_quota": 402,
    "permission_denied": 403,
    "permission_error": 403,
    "not_found": 404,
    "not_found_error": 404,
    "model_not_found": 404,
    "timeout": 408,
    "invalid_request": 400,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "server_error": 500,
    "internal_server_error": 500,
    "provider_unavailable": 503,
    "provider_overloaded": 503,
    "overloaded_error": 529,
    "content_filter": 400,
    "content_policy_violation": 400,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")
_SECRET = re.compile(r"\b(sk|pk|rk|gsk|xai)-[\w-]{8,}|(?i:bearer)\s+[\w.~+/=-]{8,}")


class Origin(msgspec.Struct, frozen=True):
    """Who answers: the provider's name, its host, the model asked for, the key and the name it came from."""

    name: str
    host: str
    model: str = ""
    key: str | None = None
    key_env: str = ""

    def words(self, text: str) -> str:
        """`text` as one short printable line without any key."""
        line = _CONTROL.sub(" ", text).strip()
        if self.key:
            line = line.replace(self.key, "[key]")
        line = _SECRET.sub("[key]", line)
        return line if len(line) <= WORDS_LIMIT else line[: WORDS_LIMIT - 1] + "…"


def http_error(status: int, headers: Mapping[str, str], body: bytes, origin: Origin) -> ProviderError:
    """The error that an HTTP answer other than 200 stands for."""
    payload, words = _read_body(body)
    if status in range(300, 400):
        place = origin.words(headers.get("location", "elsewhere"))
        return BadRequest(f"{origin.host} redirects to {place}; set the base URL to where it really is", status=status)
    error = _error(status, words, _names(payload), origin, wished_wait(status, headers, payload, words))
    if headers.get("x-should-retry") == "false":  # OpenAI's and our own server's word on what a status leaves open
        error.retryable = False
    return error


def error_object(payload: Any, origin: Origin) -> ProviderError:
    """The error that an object inside an answer with status 200 stands for; unknown kinds may be tried again."""
    words, names = _words(payload), _names(payload)
    numbers = [int(name) for name in names if name.isdigit()]
    known = [_STATUS_OF[name.lower()] for name in names if name.lower() in _STATUS_OF]
    status = next((n for n in (*numbers, *known) if 400 <= n < 600), 500)
    return _error(status, words, names, origin, wished_wait(status, {}, payload, words))


def _error(status: int, words: str, names: list[str], origin: Origin, retry_after: float | None) -> ProviderError:
    host, said = origin.host, origin.words(words)
    told = f" ({status}): {said}" if said else f" ({status})"
    everything = f"{words} {' '.join(names)}"
    if status in {400, 403, 422, 451} and _FILTERED.search(everything):
        return ContentFiltered(f"{host}: the provider's content filter refuses this conversation{told}", status=status)
    too_long = status == 429 and _NEVER_FITS.search(everything)
    if status == 413 or too_long or (status in {400, 422, 500} and _CONTEXT.search(everything)):
        return ContextTooLong(f"{host}: the request does not fit the model's context window{told}", status=status)
    if status in {401, 403}:
        where = f"check {origin.key_env}" if origin.key_env else "check the key"
        return AuthenticationFailed(f"{host} refuses the key{told}; {where}", status=status)
    if status == 402:
        return QuotaExceeded(f"{host}: the credit is spent{told}; add credit or choose another model", status=status)
    if status == 429:
        passing = not _WILL_NOT_PASS.search(everything)
        return QuotaExceeded(
            f"{host} limits how much may be asked{told}; wait, or choose another model",
            status=status,
            retryable=passing,
            retry_after=retry_after,
        )
    if status == 404 or (status in {400, 422} and _NO_MODEL.search(everything)):
        asked = f"model {origin.model}" if origin.model else "this path"
        return ModelNotFound(
            f"{host} does not know {asked}{told}; check the model's name and the base URL", status=status
        )
    if status >= 500 or status in RETRYABLE_STATUSES:
        retryable = status in RETRYABLE_STATUSES or 520 <= status <= 527
        return ProviderUnavailable(f"{host} failed{told}", status=status, retryable=retryable, retry_after=retry_after)
    return BadRequest(f"{host} refuses the request{told}", status=status)


def _read_body(body: bytes) -> tuple[Any, str]:
    text = body.decode("utf-8", "replace")
    try:
        payload = json.loads(text)
    except (ValueError, RecursionError):
        if text.lstrip()[:1] == "<":
            title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
            return None, title[1] if title else "it answered with an HTML page"
        return None, text
    return payload, _words(payload)


def _words(payload: Any) -> str:
    """The sentence in an error body: OpenAI's error.message, FastAPI's detail, RFC 9457's title and detail, or text."""
    if isinstance(payload, list):
        payload = payload[0] if payload else {}
    if isinstance(payload, str):
        return payload
    if not isinstance(payload, dict):
        return ""
    error = payload.get("error")
    if isinstance(error, dict):
        return _words(error | {"error": None})
    if isinstance(error, str) and error:
        return error
    parts = [payload.get("message") or payload.get("title"), payload.get("detail")]
    words = " ".join(part if isinstance(part, str) else json.dumps(part) for part in parts if part)
    metadata = payload.get("metadata")
    if isinstance(metadata, dict) and metadata.get("raw"):
        # OpenRouter says "Provider returned error" and puts the provider's own answer here.
        raw = metadata["raw"]
        inner = _read_body(raw.encode("utf-8", "replace"))[1] if isinstance(raw, str) else _words(raw)
        words = f"{words}: {metadata.get('provider_name') or ''} {inner}".replace(":  ", ": ")
    return words


def _names(payload: Any) -> list[str]:
    """Everything that names the error's kind."""
    if isinstance(payload, list):
        payload = payload[0] if payload else {}
    if not isinstance(payload, dict):
        return []
    error = payload["error"] if isinstance(payload.get("error"), dict) else payload
    metadata = error["metadata"] if isinstance(error.get("metadata"), dict) else {}
    found = [error.get("code"), error.get("status"), error.get("type"), metadata.get("error_type")]
    return [str(name) for name in found if isinstance(name, str | int) and not isinstance(name, bool)]


def no_connection(origin: Origin, proxy: str | None) -> ProviderError:
    """The error for a connection that came about too slowly, TLS and the proxy's answer included."""
    through = f" through the proxy {proxy}" if proxy else ""
    return Unreachable(f"no connection to {origin.host}{through} came about in time; check the address and the network")


def network_error(error: Exception, origin: Origin, proxy: str | None) -> ProviderError:
    """The error that an exception of httpx, or of a look-up by name, stands for. `proxy` is the proxy's address, where
    there is one."""
    import socket
    import ssl

    import httpx

    chain, seen = [error], error
    while (seen := seen.__cause__ or seen.__context__) is not None and len(chain) < 12:  # type: ignore[assignment]
        chain.append(seen)
    through = f" through the proxy {proxy}" if proxy else ""
    host, words = origin.host, origin.words(str(error))
    if isinstance(error, httpx.ConnectTimeout):
        return no_connection(origin, proxy)
    if any(isinstance(link, ssl.SSLError) for link in chain):
        return Unreachable(f"TLS with {host}{through} failed: {words}")
    name = f"the proxy {proxy}" if proxy else host
    if isinstance(error, TimeoutError):
        return Unreachable(f"{name} cannot be found by name in time; check the address and the network")
    if any(isinstance(link, socket.gaierror) for link in chain):
        return Unreachable(f"cannot find {name} by name; check the address and the network", retryable=True)
    if isinstance(error, httpx.ProxyError):
        return Unreachable(f"{host} cannot be reached{through}: {words}")
    if isinstance(error, httpx.ConnectError):
        return Unreachable(f"nothing answers at {host}{through}; is the server running?", retryable=True)
    return ProviderUnavailable(
        f"the connection to {host}{through} broke: {words or type(error).__name__}", retryable=True
    )
