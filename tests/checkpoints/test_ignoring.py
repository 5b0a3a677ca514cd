"""Ignore files, held against git itself."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.checkpoints.ignoring import joined
from laguna_agent.checkpoints.repositories import repository_above, repository_at, tracked_by

NAMES = ["a", "b", "ab", ".x", "b ", "\\a", "a\\"]
GLOBS = ["*", "**", "***", "?", "a*", "*b", "[ab]", "[!a]", "[a-b]*", "[[:alpha:]]", "[", "[]a]"]
parts = st.sampled_from([*NAMES, *GLOBS])
patterns = st.builds(
    lambda bang, lead, middle, tail: bang + lead + "/".join(middle) + tail,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(parts, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", " ", "\\ ", "\r"]),
)
names = st.sampled_from(["a", "b", "ab", "ba", "x", ".x", "aab", "b "])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


def git(directory: Path, *arguments: str, given: bytes = b"") -> bytes:
    done = subprocess.run(["git", *arguments], cwd=directory, input=given, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@settings(max_examples=40, deadline=None)
@given(st.lists(patterns, max_size=4), st.lists(patterns, max_size=3), st.sets(paths, min_size=1, max_size=30))
def test_as_git_does(upper: list[str], lower: list[str], wanted: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        git(top, "init", "-q")
        (top / ".gitignore").write_bytes("\n".join(upper).encode())
        (top / "a").mkdir()
        (top / "a" / ".gitignore").write_bytes("\n".join(lower).encode())
        given = b"".join(path.encode() + b"\0" for path in sorted(wanted))
        told = git(top, "check-ignore", "--no-index", "--verbose", "--non-matching", "-z", "--stdin", given=given)
        fields = told.split(b"\0")[:-1]
        theirs = {}
        for _, _, pattern, path in zip(*[iter(fields)] * 4, strict=True):
            theirs[path] = bool(pattern) and not pattern.startswith(b"!")
        above = joined([(b"\n".join(p.encode() for p in upper), b"")])
        inside = joined([(b"\n".join(p.encode() for p in upper), b""), (b"\n".join(p.encode() for p in lower), b"a/")])
        assert above is not None and inside is not None
        for path in wanted:
            # git says of a path what the walk finds out on its way there: an ignored directory is not entered.
            steps = path.encode().split(b"/")
            ignored = False
            for depth in range(1, len(steps) + 1):
                at = b"/".join(steps[:depth])
                is_directory = depth < len(steps) or at == b"a"
                ignored = (inside if at.startswith(b"a/") else above).ignores(at, directory=is_directory)
                if ignored:
                    break
            assert ignored == theirs[path.encode()], (path, upper, lower)


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("form", ["sha1", "sha256"])
def test_what_an_index_tracks(workspace: Path, version: int, form: str) -> None:
    git(workspace, "init", "-q", f"--object-format={form}")
    wanted = ["a.txt", "deep/er/b.txt", "deep/er/c.txt", "d\u00e9j\u00e0.txt", "deep/d.txt"]
    for name in wanted:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(name)
    git(workspace, "add", ".")
    if version == 3:
        git(workspace, "rm", "-q", "--cached", "a.txt")
        git(workspace, "add", "-N", "a.txt")
    else:
        git(workspace, "update-index", "--index-version", str(version))
    repository = repository_above(workspace / "deep")
    assert repository is not None
    tracked = tracked_by(repository)
    assert tracked.paths == {name.encode() for name in wanted}
    assert tracked.directories == {b"deep", b"deep/er"}


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_an_index_that_lies_tracks_nothing_or_something_and_never_fails(junk: bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        git(top, "init", "-q")
        (top / "a").write_text("a")
        git(top, "add", "a")
        whole = (top / ".git" / "index").read_bytes()
        (top / ".git" / "index").write_bytes(whole[:cut] + junk)
        repository = repository_at(top)
        assert repository is not None
        tracked_by(repository)
