"""The local sockets of other programs that lie in the open, outside the directories that are hidden whole.

Connecting needs no writable mount, so a socket such as a container engine's has to be covered by name. One that is made
later, or bound by a relative name, is not found. Knows /proc/net/unix; must not know mounts.
"""

from __future__ import annotations

import os
from pathlib import Path

from laguna_agent.sandbox.policy import Policy
from laguna_agent.sandbox.presence import is_socket

_TABLE = Path("/proc/net/unix")
_PATH_COLUMN = 7
MOST_SOCKETS = 500


def sockets_outside(policy: Policy) -> tuple[Path, ...]:
    """The real paths of the sockets outside the workspace that somebody has bound and that nothing else hides."""
    try:
        lines = _TABLE.read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:
        return ()
    bound = {
        each[_PATH_COLUMN] for each in (line.split(None, _PATH_COLUMN) for line in lines) if len(each) > _PATH_COLUMN
    }
    found = (Path(os.path.realpath(path)) for path in sorted(bound) if path.startswith("/"))
    ours = (policy.temporary,) if policy.temporary else ()
    return tuple(
        dict.fromkeys(
            path
            for path in found
            if is_socket(path)
            and policy.root_of(path) is None
            and not policy.is_hidden(path)
            and not any(path.is_relative_to(each) for each in (*ours, Path("/run")))
        )
    )[:MOST_SOCKETS]
