"""httpx without its command line.

`import httpx` loads httpx's own command line too where click and rich are installed, as they are here for ours: 47 of
the import's 63 ms, and 8 MB, at the first prompt of every process. httpx does without where that import fails, so it is
made to fail.
"""

from __future__ import annotations

import sys


def import_httpx() -> None:
    """Load httpx, so that a later `import httpx` finds it."""
    if "httpx" in sys.modules:
        return
    sys.modules["httpx._main"] = None  # type: ignore[assignment]
    try:
        import httpx  # noqa: F401
    finally:
        del sys.modules["httpx._main"]
