"""Addresses of servers: what a person may write, and when two of them are the same server.

A key goes to one server only, so everything rests on reading a host as those do who connect to it: what two parsers
could read in two ways (backslashes, control characters, letters outside ASCII, several @) is no address here. Knows
URLs; must not know providers or keys.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit, urlunsplit

from laguna_agent.errors import UsageError

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
# Letters, digits, hyphens (RFC 1123), and the underscore that container networks use.
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_PLAIN = re.compile(r"[!-\[\]-~]*")
_USUAL_PORTS = {"http": 80, "https": 443}
LONGEST_HOST = 253


def normal_url(written: str, source: str) -> str:
    """A base URL from what people write: host:port, a URL without a path (then /v1), or one that was copied with
    /chat/completions at its end. Raises UsageError for anything that is no HTTP address."""
    text = written.strip()
    if "://" not in text:
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{source} {written!r} is no address: {error}") from None
    host = parts.hostname or ""
    if parts.scheme not in _USUAL_PORTS or not _PLAIN.fullmatch(text) or not _is_host(host, parts.netloc):
        raise UsageError(f"{source} {written!r} is no HTTP address; write http://HOST:PORT/v1")
    netloc = parts.netloc
    if host == "0.0.0.0":  # what OLLAMA_HOST says to listen everywhere is no address to call
        netloc = f"127.0.0.1:{port}" if port else "127.0.0.1"
    if source == "OLLAMA_HOST" and port is None and parts.scheme == "http":
        netloc += ":11434"
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return urlunsplit((parts.scheme, netloc, path or "/v1", "", ""))


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host in lower case, and port: URLs with the same three lead to the same server, and no others do."""
    parts = urlsplit(url)
    port = _USUAL_PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
    return parts.scheme, parts.hostname or "", port


def spelled(url: str) -> str:
    """The server that a URL leads to, without user, password and path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def is_loopback(host: str) -> bool:
    """Whether what goes to `host` stays on this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_host(host: str, netloc: str) -> bool:
    if netloc.count("@") > 1 or len(host) > LONGEST_HOST:
        return False
    if "[" not in netloc:
        return _HOST.fullmatch(host) is not None
    try:
        return not ipaddress.IPv6Address(host).scope_id
    except ValueError:
        return False
