"""Which proxy of the environment stands between here and a server, so that errors can name it."""

from __future__ import annotations

import urllib.request
from urllib.parse import urlsplit


def proxy_for(url: str) -> str | None:
    """The address of the proxy that requests to `url` take, without its password; None where there is none."""
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    proxies = urllib.request.getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found:
        return None
    return urlsplit(found if "//" in found else f"//{found}").netloc.rpartition("@")[2]
