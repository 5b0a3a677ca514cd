"""The files that a run leaves when asked: the patch and the trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from laguna_agent.atomic import OWNER_ONLY, UNLESS_TOLD, replacing
from laguna_agent.errors import UsageError

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session


def write_artifacts(session: Session, patch_out: Path | None, trajectory: Path | None) -> None:
    """Write what was asked for, after any outcome; raises UsageError where a file cannot be written."""
    if patch_out is not None:
        write_whole(patch_out, session.patch())
    if trajectory is not None:
        from laguna_agent.agent.store import find_session
        from laguna_agent.agent.trajectory import atif

        write_private(trajectory, msgspec.json.format(msgspec.json.encode(atif(find_session(session.id)))) + b"\n")


def write_private(path: Path, data: bytes) -> None:
    """Write what was said in a session, for its owner alone."""
    write_whole(path, data, mode=OWNER_ONLY)


def write_whole(path: Path, data: bytes, *, mode: int = UNLESS_TOLD) -> None:
    """Write a file so that it is seen whole or not at all; devices and pipes are simply written to."""
    target = path.resolve()
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        with replacing(target, mode) as file:
            file.write(data)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
