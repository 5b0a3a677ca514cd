"""A workspace with a repository in it, random changes of it, and what it is: every byte, mode and link.

The model of the property tests. It walks the disk by itself and knows nothing of the code under test.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

State = dict[bytes, tuple[str, int, bytes]]
NAMES = ["a", "b.txt", "\u00e9t\u00e9", b"\xff\xfe".decode("utf-8", "surrogateescape"), "c.py"]
CONTENTS = [b"", b"one\n", b"one\r\ntwo\r\n", b"\0\1\2binary", "\u00fcml\u00e4ut\n".encode(), b"x" * 5000, b"no end"]
IGNORED = ["junk.o", "build"]


def git(directory: Path, *arguments: str) -> bytes:
    """What git says, in a repository of the person."""
    settings = ["-c", "user.name=P", "-c", "user.email=p@example.com", "-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *settings, *arguments], cwd=directory, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make(root: Path, *, nested: bool) -> None:
    """A repository with a stash, and (`nested`) a submodule and a linked worktree inside it."""
    git(root, "init", "-q", "-b", "main")
    (root / ".gitignore").write_text("*.o\nbuild/\n")
    (root / "a").write_text("first\n")
    (root / "tracked.o").write_text("tracked although ignored\n")
    git(root, "add", "-f", ".gitignore", "a", "tracked.o")
    git(root, "commit", "-qm", "first")
    (root / "a").write_text("stashed\n")
    git(root, "stash", "-q")
    if nested:
        other = root.with_name(f"{root.name}-other")
        other.mkdir()
        git(other, "init", "-q", "-b", "main")
        (other / "inside").write_text("inside\n")
        git(other, "add", ".")
        git(other, "commit", "-qm", "other")
        git(root, "submodule", "--quiet", "add", str(other), "sub")
        git(root, "worktree", "add", "-q", "tree", "-b", "side")
        git(root, "commit", "-qam", "nested")
    (root / "program").write_text("#!/bin/sh\n")
    (root / "program").chmod(0o755)
    (root / "secret").write_text("mine\n")
    (root / "secret").chmod(0o600)
    (root / "staged").write_text("in the index\n")
    git(root, "add", "staged")


def state_of(root: Path, *, ignored: Callable[[bytes], bool] = lambda path: False) -> State:
    """Everything below `root` but `.git` and what is `ignored`."""
    found: State = {}

    def walk(directory: bytes, below: bytes) -> None:
        for name in sorted(os.listdir(directory)):
            path, relative = directory + b"/" + name, below + name
            if name == b".git" or ignored(relative):
                continue
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                found[relative] = ("directory", stat.S_IMODE(status.st_mode), b"")
                walk(path, relative + b"/")
            elif stat.S_ISLNK(status.st_mode):
                found[relative] = ("link", 0, os.readlink(path))
            else:
                with open(path, "rb") as file:
                    found[relative] = ("file", stat.S_IMODE(status.st_mode), file.read())

    walk(os.fsencode(root), b"")
    return found


def is_ignored(path: bytes) -> bool:
    """What the ignore file of `make` names, the tracked one aside."""
    parts = path.split(b"/")
    if parts[0] == b"sub":
        return False  # A repository of its own, without an ignore file.
    return path != b"tracked.o" and (any(part.endswith(b".o") for part in parts) or b"build" in parts)


def repository_of(root: Path) -> dict[str, bytes]:
    """What of the person's repository must stay as it is."""
    facts = {
        "refs": b"\n".join(path.read_bytes() for path in sorted((root / ".git" / "refs").rglob("*")) if path.is_file()),
        "stash": (root / ".git" / "logs" / "refs" / "stash").read_bytes(),
        "head": (root / ".git" / "HEAD").read_bytes(),
        "index": (root / ".git" / "index").read_bytes(),
        "config": (root / ".git" / "config").read_bytes(),
        "objects": b"\n".join(sorted(os.fsencode(path) for path in (root / ".git" / "objects").rglob("*"))),
    }
    for nested in ("sub", "tree"):
        if (root / nested / ".git").exists():
            facts[nested] = (root / nested / ".git").read_bytes()
    return facts


def edit(root: Path, random: Random, preferred: Sequence[bytes] = ()) -> None:
    """One change that a tool, a command or a person might make, somewhere; none of what git keeps for itself. Mostly of
    what is there, or of what is `preferred`."""
    directories = [path for path in _walk(root) if path.is_dir() and not path.is_symlink()]
    where, name = random.choice([root, root, *directories]), random.choice(NAMES)
    path = where / name
    if preferred and random.random() < 0.7:
        path = root / os.fsdecode(random.choice(preferred))
    elif random.random() < 0.5:
        path = random.choice([each for each in _walk(root) if not each.name.startswith(".git")])
    where, name = path.parent, path.name
    if not where.is_dir() or where.is_symlink() or not where.resolve().is_relative_to(root.resolve()):
        return
    kind = random.randrange(10)
    if kind <= 6 and not _clear(path):
        return
    match kind:
        case 0 | 1 | 2:
            path.write_bytes(random.choice(CONTENTS) + str(random.random()).encode())
        case 3:
            path.write_bytes(random.choice(CONTENTS))
            path.chmod(random.choice([0o644, 0o755, 0o600, 0o444]))
        case 4:
            path.symlink_to(random.choice(["a", "nowhere", "..", "/etc/passwd"]))
        case 5:
            path.mkdir()
            if random.random() < 0.7:
                (path / "deep").mkdir()
                (path / "deep" / name).write_bytes(random.choice(CONTENTS))
        case 7:
            other = where / random.choice(NAMES)
            if path.exists() and not path.is_symlink() and other != path and not _holds_git(path) and _clear(other):
                path.rename(other)
        case 8:
            if path.exists() and not path.is_symlink():
                path.chmod(random.choice([0o755, 0o700]) if path.is_dir() else random.choice([0o644, 0o755]))
        case 9:
            ignored = where / random.choice(IGNORED)
            if not ignored.exists():
                ignored.write_bytes(b"ignored") if ignored.suffix else ignored.mkdir()


def _walk(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if ".git" not in path.relative_to(root).parts]


def _holds_git(path: Path) -> bool:
    return path.is_dir() and any(each.name == ".git" for each in path.rglob(".git"))


def _clear(path: Path) -> bool:
    """Remove it, but for git directories in it; whether it is gone."""
    if path.is_dir() and not path.is_symlink():
        if not _holds_git(path):
            shutil.rmtree(path)
            return True
        for each in path.iterdir():
            if each.name != ".git":
                _clear(each)
        return False
    path.unlink(missing_ok=True)
    return True
