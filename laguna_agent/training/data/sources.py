"""The files of a folder or of a commit: which there are, and their bytes. What is not taken is counted by reason.

A folder or a repository may be anybody's: links are not followed, nothing of it is run, and nothing outside of it is
read. Knows files and git objects; must not know what a document is.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from fnmatch import translate
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from laguna_agent.errors import ConfigError, DatasetError

_SKIPPED_FOLDERS = frozenset({".git", ".hg", ".svn", "__pycache__", ".venv", "node_modules"})
"""Folders that are no part of a project's text, left out and counted as one each; a commit is taken as it is."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where documents come from: a folder, or a git repository and a commit of it. `name` is what documents are known
    by, whatever the place on this machine; globs are over paths with `/`, and `**` crosses folders."""

    name: str
    folder: str = ""
    git: str = ""
    commit: str = "HEAD"
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()


class File(NamedTuple):
    """A file that was found: its path in its source, a hash of its bytes, and how they are read."""

    path: str
    hash: str
    read: Callable[[], bytes]


class Listing(NamedTuple):
    """The files of a source by path, what was left out by reason, and the commit (empty for a folder)."""

    files: tuple[File, ...]
    left_out: Counter[str]
    commit: str


def list_files(source: Source, largest: int) -> Listing:
    """Every file of the source that its globs take and that has at most `largest` bytes. Raises ConfigError for a
    source that is none, DatasetError where it cannot be read."""
    if bool(source.folder) == bool(source.git):
        raise ConfigError(f"source {source.name!r} needs either folder = ... or git = ...")
    left_out: Counter[str] = Counter()
    commit, found = "", list[File]()
    if source.git:
        commit, found = _commit_files(source, largest, left_out)
    else:
        found = list(_folder_files(Path(source.folder), source, largest, left_out))
    files = sorted(found, key=lambda file: file.path)
    return Listing(tuple(files), left_out, commit)


def _wanted(path: str, source: Source, left_out: Counter[str]) -> bool:
    if any(_glob(pattern).fullmatch(path) for pattern in source.exclude):
        left_out["excluded"] += 1
        return False
    if not any(_glob(pattern).fullmatch(path) for pattern in source.include):
        left_out["not included"] += 1
        return False
    return True


@cache
def _glob(pattern: str) -> re.Pattern[str]:
    """A glob over whole paths: `*` and `?` stay within a folder, `**/` is any number of them."""
    parts = re.split(r"(\*\*/|\*\*)", pattern)
    spelled = {"**/": "(?:.*/)?", "**": ".*"}
    return re.compile("(?s:" + "".join(spelled[part] if part in spelled else _within(part) for part in parts) + ")")


def _within(part: str) -> str:
    # What `translate` makes of a star crosses folders.
    plain = re.sub(r"^\(\?s:(.*)\)\\[Zz]$", r"\1", translate(part.replace("*", "\0").replace("?", "\1")), flags=re.S)
    return plain.replace("\\\0", "\0").replace("\\\1", "\1").replace("\0", "[^/]*").replace("\1", "[^/]")


def _folder_files(root: Path, source: Source, largest: int, left_out: Counter[str]) -> Iterator[File]:
    if not root.is_dir():
        raise DatasetError(f"source {source.name!r}: {root} is no folder")
    for path, found in _walk(root, "", left_out):
        if stat.S_ISLNK(found.st_mode):
            left_out["symbolic link"] += 1
        elif not stat.S_ISREG(found.st_mode):
            left_out["not a regular file"] += 1
        elif _wanted(path, source, left_out):
            if found.st_size > largest:
                left_out["too large"] += 1
                continue
            try:
                data = _read(root / path, largest)
            except OSError:
                left_out["unreadable"] += 1
                continue
            hash = hashlib.sha256(data).hexdigest()
            yield File(path, f"sha256:{hash}", _again(root / path, hash, largest))


def _walk(root: Path, below: str, left_out: Counter[str]) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(root / below) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        left_out["unreadable"] += 1
        return
    for entry in found:
        path = f"{below}/{entry.name}" if below else entry.name
        try:
            path.encode()
            what = entry.stat(follow_symlinks=False)
        except UnicodeEncodeError:
            left_out["name is not UTF-8"] += 1
            continue
        except OSError:
            left_out["unreadable"] += 1
            continue
        if not stat.S_ISDIR(what.st_mode):
            yield path, what
        elif entry.name in _SKIPPED_FOLDERS:
            left_out["whole folder"] += 1
        else:
            yield from _walk(root, path, left_out)


def _read(path: Path, largest: int) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise OSError("it grew")
    return data


def _again(path: Path, hash: str, largest: int) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            data = _read(path, largest)
        except OSError as error:
            raise DatasetError(f"{path} cannot be read any more ({error.strerror or error}); ingest again") from error
        if hashlib.sha256(data).hexdigest() != hash:
            raise DatasetError(f"{path} changed while it was ingested; ingest again")
        return data

    return read


def _commit_files(source: Source, largest: int, left_out: Counter[str]) -> tuple[str, list[File]]:
    """Read from the object database alone: no git is run, and so no hook and no filter of the repository's."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import git
    import gitdb.exc

    try:
        with warnings.catch_warnings():
            # The other backend runs git in a repository that may be anybody's.
            warnings.simplefilter("ignore", DeprecationWarning)
            repository = git.Repo(source.git, odbt=git.GitDB)
            commit = repository.commit(source.commit)
        entries: Iterator[Any] = iter(commit.tree.traverse(visit_once=False))
        files = [
            File(entry.path, f"git:{entry.hexsha}", _blob(repository, entry.binsha, entry.path))
            for entry in entries
            if _is_taken(entry, source, largest, left_out)
        ]
    except (git.GitError, gitdb.exc.ODBError, OSError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DatasetError(
            f"source {source.name!r}: commit {source.commit} of {source.git} cannot be read: {reason}"
        ) from error
    return str(commit.hexsha), files


def _is_taken(entry: Any, source: Source, largest: int, left_out: Counter[str]) -> bool:
    if entry.type == "tree":
        return False
    reason = "submodule" if entry.type == "submodule" else "symbolic link" if stat.S_ISLNK(entry.mode) else ""
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        reason = "name is not UTF-8"
    # A tree is what somebody wrote: no path may look like one that leads elsewhere.
    if not reason and any(part in ("", ".", "..") for part in entry.path.split("/")):
        reason = "unsafe name"
    if reason:
        left_out[reason] += 1
        return False
    if not _wanted(entry.path, source, left_out):
        return False
    if entry.size > largest:
        left_out["too large"] += 1
        return False
    return True


def _blob(repository: Any, sha: bytes, path: str) -> Callable[[], bytes]:
    def read() -> bytes:
        data = bytes(repository.odb.stream(sha).read())
        if hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest() != sha:
            raise DatasetError(f"{path} is damaged in the repository: object {sha.hex()}")
        return data

    return read
