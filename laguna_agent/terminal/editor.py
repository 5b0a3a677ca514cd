"""The person's own editor, for a prompt that wants more room than the input line.

The text goes through a file that only its owner may read, in the program's state, and that is gone afterwards. Knows
one text; must not know where it is shown. Whoever calls has given the terminal away before.
"""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from laguna_agent.directories import open_private, private_directory, state_directory
from laguna_agent.errors import UsageError

_USUAL = ("sensible-editor", "editor", "nano", "vim", "vi", "emacs")
_MOST = 4 * 1024 * 1024
"""Bytes of the longest text that is taken back."""


def edited(text: str, *, environment: Mapping[str, str] | None = None) -> str:
    """The text as the person leaves it, without the line end that editors put last. Blocks until the editor ends.

    Raises UsageError where there is no editor, or it fails: then the text counts as unchanged.
    """
    outer = os.environ if environment is None else environment
    command = _editor(outer)
    path = state_directory() / "drafts" / f"{secrets.token_hex(6)}.md"
    try:
        try:
            private_directory(path.parent)
            with os.fdopen(open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                file.write(text.encode("utf-8", "replace"))
        except OSError as error:
            raise UsageError(f"the text cannot be handed to an editor: {error}") from error
        try:
            code = subprocess.call([*command, str(path)], env=outer)
        except OSError as error:
            raise UsageError(f"the editor {command[0]!r} cannot be started: {error.strerror}; set $EDITOR") from error
        if code:
            raise UsageError(f"the editor {command[0]!r} ended with code {code}; the text stays as it was")
        return _read(path)
    finally:
        # Some editors leave a copy of what was there before.
        for each in (path, path.with_name(path.name + "~")):
            each.unlink(missing_ok=True)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"what the editor wrote cannot be read: {error}") from error
    if len(data) > _MOST:
        raise UsageError(f"the editor wrote {len(data):,} bytes; at most {_MOST:,} are a prompt")
    return data.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n")


def _editor(environment: Mapping[str, str]) -> list[str]:
    for name in ("VISUAL", "EDITOR"):
        if chosen := environment.get(name, "").strip():
            try:
                return shlex.split(chosen)
            except ValueError as error:
                raise UsageError(f"${name} cannot be read as a command ({error}): {chosen!r}") from error
    found = next((path for name in _USUAL if (path := shutil.which(name, path=environment.get("PATH")))), None)
    if found is None:
        raise UsageError("there is no editor; set $EDITOR to one")
    return [found]
