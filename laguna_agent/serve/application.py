"""The routes. Knows one backend and the one model that it serves.

POST /v1/chat/completions      GET /v1/models      GET /v1/models/{id}      GET /health (without a token)
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from laguna_agent.backend.base import Backend, ModelInfo
from laguna_agent.backend.wire import encode_json
from laguna_agent.errors import LagunaError
from laguna_agent.serve.chat_request import read_chat_request
from laguna_agent.serve.delivery import ClientGone, Desk, Reply, deliver, read_body
from laguna_agent.serve.guard import OPEN_PATH, Guard
from laguna_agent.serve.refusals import Refused, refusal_of


class Served(msgspec.Struct, frozen=True):
    """What is served: `model` is its name to the backend, and `also` are other names that mean it."""

    backend: Backend
    model: str
    also: frozenset[str] = frozenset()
    since: int = 0

    def require(self, name: str) -> None:
        """Raises Refused for the name of any other model."""
        if name != self.model and name not in self.also:
            raise Refused(
                f"there is no model {name[:200]!r} here; this server has {self.model}",
                status=404,
                param="model",
                code="model_not_found",
            )


class ChatCompletions:
    """POST /v1/chat/completions, as an ASGI application: it must see the client go while the model still works."""

    def __init__(self, served: Served, desk: Desk) -> None:
        self._served = served
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        reply = Reply(send)
        try:
            try:
                with self._desk.seat() as seat:
                    await self._answer(scope, receive, reply)
                if seat.cancelled_caught:
                    raise Refused("the server is shutting down", status=503, code="server_stopping")
            except ClientGone:
                raise
            except Exception as error:  # noqa: BLE001 - a request that fails must not end the server
                await reply.fail(refusal_of(error))
        except ClientGone:
            return  # the connection closes, for the answer is not complete

    async def _answer(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        chat = read_chat_request(await read_body(scope, receive))
        self._served.require(chat.request.model)
        request = msgspec.structs.replace(chat.request, model=self._served.model)
        await deliver(chat, self._served.backend.stream(request), receive, reply)


def application(served: Served, desk: Desk, *, token: str, hosts: frozenset[str] | None) -> Starlette:
    """The ASGI application; see `Guard` for `token` and `hosts`."""
    models = _Models(served)
    routes = [
        Route(OPEN_PATH, _health, methods=["GET"]),
        Route("/v1/models", models.all, methods=["GET"]),
        Route("/v1/models/{id:path}", models.one, methods=["GET"]),
        Route("/v1/chat/completions", ChatCompletions(served, desk), methods=["POST"]),
        Route("/v1/completions", _no_completions, methods=["GET", "POST"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, hosts=hosts)],
        exception_handlers={HTTPException: _failed, LagunaError: _failed, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return app


class _Models:
    def __init__(self, served: Served) -> None:
        self._served = served
        self._since = served.since or int(time.time())

    async def all(self, _: HTTPRequest) -> Response:
        return _json({"object": "list", "data": [await self._listed()]})

    async def one(self, request: HTTPRequest) -> Response:
        self._served.require(request.path_params["id"])
        return _json(await self._listed())

    async def _listed(self) -> dict[str, Any]:
        info = await self._served.backend.describe(self._served.model)
        owner = self._served.backend.name
        entry = {"id": self._served.model, "object": "model", "created": self._since, "owned_by": owner}
        return entry | _described(info)


def _described(info: ModelInfo) -> dict[str, Any]:
    """What is known of a model beyond OpenAI's fields, spelled as at OpenRouter, which our own client reads."""
    entry: dict[str, Any] = {} if info.context_length is None else {"context_length": info.context_length}
    entry |= {
        "supported_parameters": [
            *(["tools"] if info.supports_tools else []),
            *(["response_format", "structured_outputs"] if info.supports_schema else []),
        ],
    }
    if info.max_output_tokens is not None:
        entry["top_provider"] = {"max_completion_tokens": info.max_output_tokens}
    prices = {"prompt": info.input_price, "completion": info.output_price, "input_cache_read": info.cached_price}
    known = {name: str(price) for name, price in prices.items() if price is not None}
    return entry | ({"pricing": known} if known else {})


async def _health(_: HTTPRequest) -> Response:
    return _json({"status": "ok"})


async def _no_completions(_: HTTPRequest) -> Response:
    raise Refused("/v1/completions is not offered; send messages to /v1/chat/completions", status=404)


async def _failed(request: HTTPRequest, error: Exception) -> Response:
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        what = f"{request.method} {request.url.path[:200]}"
        known = "/v1/chat/completions (POST), /v1/models, /v1/models/ID, /health"
        error = Refused(f"{what}: {error.detail}; this server has {known}", status=error.status_code)
    refusal = refusal_of(error)
    return Response(refusal.body, refusal.status, refusal.headers | headers, "application/json")


def _json(value: Any) -> Response:
    return Response(encode_json(value), media_type="application/json")
