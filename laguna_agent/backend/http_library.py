"""httpx without its command line.

`import httpx` loads httpx's own command line too where click and rich are installed, as they are here for ours: 47 of
the import's 63 ms, and 8 MB, at the first prompt of every process. httpx does without where that import fails, so it is
made to fail.
"""

from __future__ import annotations

import sys


def import_httpx() -> None:
    """Load httpx and what its first client would load, so that a later `import httpx` finds it. Threads may race."""
    if "httpx" not in sys.modules:
        sys.modules["httpx._main"] = None  # type: ignore[assignment]
    try:
        import httpcore  # noqa: F401
        import httpx  # noqa: F401
    finally:
        if sys.modules.get("httpx._main", sys) is None:
            sys.modules.pop("httpx._main", None)
