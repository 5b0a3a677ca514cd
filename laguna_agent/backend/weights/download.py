"""A download into a file that goes on where the last one was cut.

The file's length is the only state: what is on disk is a prefix of what the server has, and the next request asks for
the rest (RFC 9110, section 14, Range). Knows no model and no store; whether the bytes are right is the caller's
question, answered by a hash.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from laguna_agent import __version__
from laguna_agent.errors import ProviderUnavailable

if TYPE_CHECKING:
    import httpx

_CHUNK = 128 << 10
# A firewall that swallows packets must cost seconds, not the minutes that a system's own timeout takes.
_CONNECT_SECONDS = 4.0
_SILENCE_SECONDS = 20.0


def open_client(*, certificates: str | None = None, proxy: str | None = None) -> httpx.AsyncClient:
    """A client that trusts the system's certificate authorities, certifi's, and the file `certificates`."""
    import certifi
    import httpx

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if certificates and Path(certificates).is_file():
        context.load_verify_locations(certificates)
    return httpx.AsyncClient(
        timeout=httpx.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS),
        follow_redirects=True,
        verify=context,
        proxy=proxy,
        headers={"user-agent": f"laguna-agent/{__version__}", "accept-encoding": "identity"},
    )


async def download(
    client: httpx.AsyncClient,
    url: str,
    target: Path,
    size: int | None,
    retries: int,
    progress: Callable[[int], None],
    most: int | None = None,
) -> None:
    """Bring `target` to `size` bytes (None: as many as the server has, but not more than `most`), keeping the prefix
    that is there.

    `progress` gets the file's length as it grows. A cut connection is taken up again as long as each attempt brings
    bytes, and `retries` times where it does not; then, or where the server refuses, ProviderUnavailable.
    """
    import httpx

    fruitless = 0
    while True:
        before = _length(target)
        if before == size:
            return
        trouble: Exception = EOFError("the connection closes before the end")
        try:
            await _append_rest(client, url, target, before, size, progress, most if size is None else size)
            if size is None or _length(target) == size:
                return
        except httpx.TransportError as error:
            trouble = error
        fruitless = 0 if _length(target) > before else fruitless + 1
        if fruitless > retries:
            raise ProviderUnavailable(f"{httpx.URL(url).host}: {trouble or type(trouble).__name__}") from trouble
        await anyio.sleep(min(8.0, 0.25 * 2**fruitless))


async def _append_rest(
    client: httpx.AsyncClient,
    url: str,
    target: Path,
    offset: int,
    size: int | None,
    progress: Callable[[int], None],
    most: int | None,
) -> None:
    headers = {"range": f"bytes={offset}-"} if offset else {}
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416 and response.headers.get("content-range") == f"bytes */{offset}":
            return  # a file of unknown size that was already complete
        if response.status_code not in {200, 206}:
            raise ProviderUnavailable(f"{response.url.host} answers HTTP {response.status_code} for {url}")
        # A server without Range support sends the whole file again.
        start = offset if response.status_code == 206 else 0
        announced = int(response.headers.get("content-length", -1))
        if size is not None and announced >= 0 and start + announced != size:
            raise ProviderUnavailable(f"{url} has {start + announced} bytes, expected {size}: it is another file")
        async with await anyio.open_file(target, "r+b" if start else "wb") as out:
            await out.seek(start)
            await out.truncate()
            done = start
            async for chunk in response.aiter_raw(_CHUNK):
                if most is not None and done + len(chunk) > most:
                    # Nothing of it can be right, and the next attempt would go on behind it.
                    await out.seek(0)
                    await out.truncate()
                    raise ProviderUnavailable(f"{url} sends more than the {most} bytes that were expected")
                done += await out.write(chunk)
                progress(done)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
