"""What a backend keeps beside a session, so that its next run, or a copy of it, reads nothing twice.

Knows where that lies and how long it may take; what is in the folder is the backend's own. To lose it costs time and
nothing else, so whatever goes wrong here is a line in the program's log.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from laguna_agent.agent.store import Opened, iterate_log, session_directory, sessions_directory
from laguna_agent.backend.base import Remembering
from laguna_agent.errors import LagunaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from laguna_agent.backend.base import Backend

PATIENCE = 20.0
"""Seconds that keeping and taking back may take."""
HURRIED = 2.0
"""Seconds for keeping it when the program was told to end: whoever told it soon tells it again, and harder."""
ROOM = 4 << 30
"""Bytes that all sessions' folders may take together; the least recently written go first."""
GENERATIONS = 16
"""Copies of copies that are looked through for one that ever ran."""
log = logging.getLogger(__name__)


def cache_folder(session_id: str) -> Path:
    """Where a session's backend keeps its state; deleted with the session."""
    return session_directory(session_id) / "cache"


async def remember(backend: Backend, session_id: str, *, hurried: bool) -> None:
    """Let the backend keep what a later run of the session can use. Never fails."""
    if isinstance(backend, Remembering):
        keeping = backend.remember(cache_folder(session_id))
        await _patiently(keeping, HURRIED if hurried else PATIENCE, f"kept beside session {session_id}")
        await anyio.to_thread.run_sync(make_room, ROOM)


async def recall(backend: Backend, session_id: str) -> None:
    """Let the backend take back what was kept of the session, else of the one that it is a copy of. Never fails."""
    if isinstance(backend, Remembering):
        folder = await anyio.to_thread.run_sync(_kept, session_id)
        await _patiently(backend.recall(folder), PATIENCE, f"taken back from {folder}")


def make_room(room: int) -> None:
    """Delete folders of sessions, the least recently written first, until all together take no more than `room` bytes.

    The newest stays, whatever it takes. A session that is running elsewhere loses nothing but time.
    """
    kept = []
    for folder in sessions_directory().glob("*/cache"):
        # Another process may be deleting the session, or replacing the file, right now.
        with suppress(OSError):
            found = [file.stat() for file in folder.iterdir()]
            kept.append(
                (max((each.st_mtime for each in found), default=0.0), sum(each.st_size for each in found), folder)
            )
    taken = sum(size for _, size, _ in kept)
    for _, size, folder in sorted(kept)[:-1]:
        if taken <= room:
            return
        shutil.rmtree(folder, ignore_errors=True)
        taken -= size


def _kept(session_id: str) -> Path:
    """The parent's folder and not a copy of it: it may be large, and the parent may just be writing it."""
    own = folder = cache_folder(session_id)
    for _ in range(GENERATIONS):
        if folder.is_dir():
            return folder
        try:
            opened = next(iterate_log(session_directory(session_id) / "log.jsonl"), None)
        except (OSError, UsageError):
            break
        if not isinstance(opened, Opened) or not opened.copy_of:
            break
        session_id = opened.copy_of
        folder = cache_folder(session_id)
    return own


async def _patiently(work: Awaitable[None], patience: float, what: str) -> None:
    try:
        with anyio.fail_after(patience):
            await work
    except TimeoutError:
        log.warning("the model's state was not %s: it took longer than %g s", what, patience)
    except (LagunaError, OSError) as error:
        log.warning("the model's state was not %s: %s", what, error)
    except Exception:
        log.exception("the model's state was not %s; this is a bug", what)
