"""The server as a process: its address, its token, and how it ends.

stdout carries one line, the base URL, once requests are answered; stderr says what is served and where the token is.
The first signal lets running requests finish for some seconds, the second ends them at once; both exit with 0.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import uvicorn
from starlette.types import ASGIApp

from laguna_agent.atomic import OWNER_ONLY, replace_file
from laguna_agent.backend.providers import open_backend
from laguna_agent.config import Settings, load
from laguna_agent.directories import state_directory
from laguna_agent.early_signals import STOPPING
from laguna_agent.errors import UsageError
from laguna_agent.held_keys import held
from laguna_agent.redaction import know
from laguna_agent.serve import DEFAULT_HOST
from laguna_agent.serve.application import Served, application
from laguna_agent.serve.delivery import Desk
from laguna_agent.serve.guard import LOOPBACK_NAMES

TOKEN_VARIABLE = "LAGUNA_SERVE_TOKEN"
SHORTEST_TOKEN = 16
FINISH_SECONDS = 5.0
"""What running requests get once a signal asked the server to stop."""
CLOSE_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection (httpx: 5 s), so that none sends into one that just closes."""


class Address(msgspec.Struct, frozen=True):
    """Where to listen. `hosts` are the names of a Host header that mean it, None where they cannot be known."""

    host: str
    port: int
    hosts: frozenset[str] | None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback


class Server(uvicorn.Server):
    """uvicorn, with the signals left to `Stopping`; `ready` is called when requests are answered."""

    def __init__(self, app: ASGIApp, desk: Desk, ready: Callable[[], None]) -> None:
        # log_level: a line for every malformed request is noise; what fails in the application is reported by it.
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=round(FINISH_SECONDS) + 3,
            )
        )
        self._desk = desk
        self._ready = ready

    def capture_signals(self) -> Any:
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_the_rest)
            await super().shutdown(sockets)
            group.cancel_scope.cancel()

    async def _end_the_rest(self) -> None:
        await anyio.sleep(FINISH_SECONDS)
        self._desk.end_all()


class Stopping:
    """What signals do: before there is a server they end its opening."""

    def __init__(self, desk: Desk) -> None:
        self.opening = anyio.CancelScope()
        self.server: Server | None = None
        self._desk = desk

    def listen(self) -> None:
        """Take the signals for as long as the event loop runs. What we were started to ignore (nohup) stays so."""
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, self._stop)

    def _stop(self) -> None:
        if self.server is None:
            self.opening.cancel()
        elif self.server.should_exit:
            self._desk.end_all()
        else:
            self.server.should_exit = True


def serve_until_stopped(flags: Mapping[str, object], *, host: str, port: int, token: str | None) -> int:
    """See `laguna_agent.serve.serve`."""
    settings = load(Path.cwd(), flags)
    given = token or held(TOKEN_VARIABLE) or None
    know(given or "", TOKEN_VARIABLE)
    address = read_address(host, port)
    check_token(given, address)
    with listening(address) as (sock, bound):
        anyio.run(_serve, settings, sock, bound, given)
    return 0


def read_address(host: str, port: int) -> Address:
    """Where `host` and `port` ask to listen. Raises UsageError."""
    written = host.strip().removeprefix("[").removesuffix("]")
    try:
        ip = ipaddress.ip_address(DEFAULT_HOST if written == "localhost" else written)
    except ValueError:
        raise UsageError(f"--host {host!r} is no address; write 127.0.0.1, or an address of this machine") from None
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is no port; it may be 0 (any free one) to 65535")
    return Address(str(ip), port, None if ip.is_unspecified else LOOPBACK_NAMES | {str(ip)})


def check_token(token: str | None, address: Address) -> None:
    """Raises UsageError for a token that protects nothing, and for a server open to others without one of their own."""
    if token is None:
        if not address.loopback:
            raise UsageError(
                f"--host {address.host} lets other machines ask; give a token that you chose, in {TOKEN_VARIABLE}"
            )
        return
    if len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError(
            f"the token must be at least {SHORTEST_TOKEN} characters of ASCII without spaces; "
            "leave it out and a good one is made"
        )


@contextmanager
def listening(address: Address) -> Iterator[tuple[socket.socket, Address]]:
    """A socket that listens, and where it really does. A taken port is found before a model is loaded, so it listens
    from now on: whoever connects early waits. Raises UsageError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    with sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address.host, address.port))
            sock.listen(128)
        except OSError as error:
            at = f"port {address.port} of {address.host}"
            if error.errno == errno.EADDRINUSE:
                raise UsageError(f"{at} is taken; choose another with --port (0: any free one)") from error
            raise UsageError(f"cannot listen on {at}: {error.strerror}") from error
        yield sock, msgspec.structs.replace(address, port=sock.getsockname()[1])


@contextmanager
def token_file(token: str, port: int) -> Iterator[Path]:
    """A file of the state directory that holds the token and only its owner reads, for as long as the block lasts."""
    path = state_directory() / "serve" / f"{port}.token"
    try:
        replace_file(path, token.encode() + b"\n", mode=OWNER_ONLY)
    except OSError as error:
        raise UsageError(f"cannot write the token to {path}: {error.strerror}; give one in {TOKEN_VARIABLE}") from error
    try:
        yield path
    finally:
        with suppress(OSError):
            if path.read_bytes().strip() == token.encode():
                path.unlink()


async def _serve(settings: Settings, sock: socket.socket, address: Address, given: str | None) -> None:
    desk = Desk()
    stopping = Stopping(desk)
    stopping.listen()
    opened = None
    with stopping.opening:
        opened = await open_backend(settings)
    if opened is None:
        return
    backend, model = opened
    try:
        if stopping.opening.cancel_called:
            return
        token = given or secrets.token_urlsafe(32)
        with nullcontext() if given else token_file(token, address.port) as path:
            also = frozenset({settings.model} if settings.model else ())
            app = application(Served(backend, model, also), desk, token=token, hosts=address.hosts)
            _say(f"serving {model} ({backend.name}); the token is " + (f"in {path}" if path else "the one you gave"))
            if not address.loopback:
                _say("requests and answers travel unencrypted; put a proxy with TLS in front of it")
            stopping.server = Server(app, desk, lambda: _announce(address))
            await stopping.server.serve([sock])
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await backend.aclose()


def _announce(address: Address) -> None:
    host = ipaddress.ip_address(address.host)
    if host.is_unspecified:
        host = ipaddress.ip_address("::1" if host.version == 6 else DEFAULT_HOST)
    name = f"[{host}]" if host.version == 6 else host
    sys.stdout.write(f"http://{name}:{address.port}/v1\n")
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(f"laguna-agent: {line}\n")
    sys.stderr.flush()
