"""Files from a Python package index, as pip is configured to reach it.

Speaks the simple repository API (packaging.python.org: PEP 503 in HTML, PEP 691 in JSON) and reads pip's settings by
asking pip. Nothing is installed and no package code runs: a wheel is a zip file whose bytes are wanted.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import msgspec

from laguna_agent.backend.address import origin
from laguna_agent.errors import ProviderUnavailable

if TYPE_CHECKING:
    import httpx

_PYPI = "https://pypi.org/simple"
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


class PipSettings(msgspec.Struct, frozen=True):
    """Where this machine gets its packages: index URLs in order, a CA file and a proxy where pip has them."""

    indexes: tuple[str, ...]
    certificates: str | None = None
    proxy: str | None = None


class RemoteWheel(msgspec.Struct, frozen=True):
    """A wheel that an index offers; `sha256` is empty where the index does not say."""

    url: str
    sha256: str


def pip_settings() -> PipSettings:
    """pip's own view of its files and environment; the environment alone where there is no pip (as under uv)."""
    # -P: without it a `pip` that lies in the directory where we were started would be run.
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "config", "list"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    listed: dict[str, str] = {}
    for line in answer.stdout.splitlines() if answer.returncode == 0 else ():
        key, _, value = line.partition("=")
        listed[key] = ast.literal_eval(value) if value[:1] in {"'", '"'} else value

    def setting(name: str) -> str:
        environment = os.environ.get(f"PIP_{name.upper().replace('-', '_')}", "")
        return environment or listed.get(f"install.{name}", "") or listed.get(f"global.{name}", "")

    main = setting("index-url") or os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL") or _PYPI
    urls = [url.rstrip("/") for url in (main, *setting("extra-index-url").split())]
    indexes = tuple(dict.fromkeys(url for url in urls if url.startswith(("https://", "http://"))))
    return PipSettings(indexes, setting("cert") or None, setting("proxy") or None)


async def find_wheel(client: httpx.AsyncClient, indexes: Sequence[str], project: str, version: str) -> RemoteWheel:
    """The wheel of that release, from the first index that has it; ProviderUnavailable where none does."""
    import httpx

    troubles: list[str] = []
    prefix = f"{project.replace('-', '_')}-{version}-".lower()
    for index in indexes:
        host = httpx.URL(index).host
        try:
            response = await client.get(f"{index}/{project}/", headers={"accept": _ACCEPT})
        except httpx.TransportError as error:
            troubles.append(f"{host}: {error or type(error).__name__}")
            continue
        if response.status_code != 200:
            troubles.append(f"{host} answers HTTP {response.status_code} for {project}")
            continue
        for wheel in _listed(response, index):
            name = httpx.URL(wheel.url).path.rpartition("/")[2].lower()
            if name.startswith(prefix) and name.endswith(".whl"):
                return wheel
        troubles.append(f"{host} has no wheel of {project} {version}")
    raise ProviderUnavailable("; ".join(troubles) or "pip has no index that can be reached over HTTP")


def _listed(response: httpx.Response, index: str) -> list[RemoteWheel]:
    if "json" in response.headers.get("content-type", ""):
        try:
            links = [(file["url"], file.get("hashes", {}).get("sha256", "")) for file in response.json()["files"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProviderUnavailable(f"{response.url.host} sends no valid file list: {error}") from error
    else:
        page = _Anchors()
        page.feed(response.text)
        links = [(href.partition("#")[0], href.partition("#sha256=")[2]) for href in page.hrefs]
    return [RemoteWheel(_with_credentials(response.url.join(url), index), sha256) for url, sha256 in links]


def _with_credentials(url: httpx.URL, index: str) -> str:
    """A private index writes its file links without the user and password that its own URL carries."""
    import httpx

    home = httpx.URL(index)
    if home.userinfo and not url.userinfo and origin(str(url)) == origin(index):
        url = url.copy_with(username=home.username, password=home.password)
    return str(url)


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        if tag == "a":
            self.hrefs += [value for name, value in attrs if name == "href" and value]
