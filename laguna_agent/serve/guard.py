"""Who may ask: whoever has the token, at a Host that is ours, and no page in a browser.

A page that a person visits can make their browser send requests to loopback, and a name of the page's own can be made
to mean 127.0.0.1 (DNS rebinding). The token alone keeps such pages out; the other two checks hold where it leaked.
Works before anything of a body is read. Knows HTTP headers and no route but the one that is open.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from laguna_agent.serve.refusals import Refused, refusal_of

OPEN_PATH = "/health"
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class Guard:
    """ASGI middleware. `hosts` are the names in a Host header that mean this server; None allows any, for a server
    that listens on every address cannot know them all."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except Refused as refused:
                refusal = refusal_of(refused)
                answer = Response(refusal.body, refusal.status, refusal.headers, "application/json")
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._check_host([value for name, value in headers if name == b"host"])
        if any(name == b"origin" for name, _ in headers):
            raise Refused("requests from web pages are not answered (the request has an Origin)", status=403)
        if scope["path"] == OPEN_PATH:
            return
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, secret = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(secret.strip(), self._token):
            what = "is not this server's" if given else "is missing"
            raise Refused(
                f"the token {what}; send it as `Authorization: Bearer TOKEN` (what an OpenAI client calls its API key)",
                status=401,
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _check_host(self, given: list[bytes]) -> None:
        try:
            names = {urlsplit(b"//" + value).hostname or b"" for value in given}
        except ValueError:
            names = set()
        if len(given) != 1 or not names:
            raise Refused("the request has no Host header, or no valid one", status=400)
        name = names.pop().decode("latin-1")
        if self._hosts is not None and name not in self._hosts:
            raise Refused(f"the Host {name[:80]!r} is not this server", status=403)
