"""What differs between two checkpoints, for people and programs: a list, and the text of a patch.

Knows trees and text; must not know sessions.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from typing import Literal

import msgspec

from laguna_agent.checkpoints.trees import Entry, Read, differences

LONGEST = 1 << 20
"""Bytes of a file whose change is shown line by line."""


class FileChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """One path that differs. Modes are as git writes them, empty where there is no file; `added` and `removed` count
    lines, and are None for what is no text or too long."""

    path: str
    change: Literal["added", "deleted", "changed"]
    old_mode: str
    new_mode: str
    added: int | None
    removed: int | None
    patch: tuple[str, ...] = ()


def changes(before: bytes, after: bytes, read: Read) -> Iterator[FileChange]:
    """Every file or link that differs, by path; directories alone are passed over."""
    for path, (old, new) in sorted(differences(before, after, read).items()):
        if all(each is None or each.is_directory for each in (old, new)):
            continue
        old = None if old is None or old.is_directory else old
        new = None if new is None or new.is_directory else new
        yield _change(os.fsdecode(path.partition(b"/")[2]), old, new, read)


def _change(path: str, old: Entry | None, new: Entry | None, read: Read) -> FileChange:
    header = [f"diff --git a/{path} b/{path}"]
    if old is None and new is not None:
        header.append(f"new file mode {_mode(new)}")
    elif new is None and old is not None:
        header.append(f"deleted file mode {_mode(old)}")
    elif old is not None and new is not None and old.mode != new.mode:
        header += [f"old mode {_mode(old)}", f"new mode {_mode(new)}"]
    names = ("/dev/null" if old is None else f"a/{path}", "/dev/null" if new is None else f"b/{path}")
    one, other = _lines(old, read), _lines(new, read)
    body: list[str] = []
    added: int | None = None
    removed: int | None = None
    if one is None or other is None:
        body = [f"Binary files {names[0]} and {names[1]} differ"]
    else:
        body = list(_marked(difflib.unified_diff(one, other, *names, lineterm="\n")))
        added = sum(line.startswith("+") for line in body[2:])
        removed = sum(line.startswith("-") for line in body[2:])
    change: Literal["added", "deleted", "changed"] = "added" if old is None else "deleted" if new is None else "changed"
    return FileChange(path, change, _mode(old), _mode(new), added, removed, (*header, *body))


def _marked(lines: Iterator[str]) -> Iterator[str]:
    """Without line ends, and with git's word for a last line that has none."""
    for line in lines:
        yield line.removesuffix("\n")
        if not line.endswith("\n"):
            yield "\\ No newline at end of file"


def _mode(entry: Entry | None) -> str:
    if entry is None:
        return ""
    return "120000" if entry.is_link else f"{stat.S_IFREG | stat.S_IMODE(entry.mode):06o}"


def _lines(entry: Entry | None, read: Read) -> list[str] | None:
    if entry is None:
        return []
    content = read(entry.id)
    if b"\0" in content or len(content) > LONGEST:
        return None
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    # Not `splitlines`: a character that ends lines elsewhere belongs to its line.
    return [f"{line}\n" for line in text.split("\n")[:-1]] + [last for last in [text.rpartition("\n")[2]] if last]
