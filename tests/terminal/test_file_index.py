"""Which files are offered: those that git would list and the policy shows."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.sandbox.policy import policy_for
from laguna_agent.terminal.completion import Completer
from laguna_agent.terminal.file_index import FileIndex, with_directories
from laguna_agent.tools.files import Files

names = st.sampled_from(["a", "b.py", "c.log", "d e", "build", ".hidden", "e.py"])
trees = st.sets(st.lists(names, min_size=1, max_size=3).map("/".join), min_size=1, max_size=12)
rules = st.lists(st.sampled_from(["*.log", "build/", "/a", "!c.log", "b.py", "a/*.py", "d e", "**/build"]), max_size=4)


def listed(root: Path, **policy: object) -> list[str]:
    index = FileIndex(lambda: Files(policy_for(root, **policy)))  # type: ignore[arg-type]
    return asyncio.run(index.search("", limit=1000))


def made(root: Path, tree: set[str]) -> None:
    for name in sorted(tree):
        path = root / name
        if not any((root / part).is_file() for part in map(str, Path(name).parents)) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


@settings(max_examples=12)
@given(tree=trees, top=rules, below=rules)
def test_what_git_would_list(
    tmp_path_factory: pytest.TempPathFactory, tree: set[str], top: list[str], below: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    made(root, tree)
    (root / ".gitignore").write_text("\n".join(top))
    if (root / "a").is_dir():
        (root / "a" / ".gitignore").write_text("\n".join(below))
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", "init", "-q", str(root)], check=True, env=environment)
    command = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
    wanted = subprocess.run(command, check=True, capture_output=True, env=environment).stdout.decode().split("\0")
    assert sorted(each for each in listed(root) if not each.endswith("/")) == sorted(filter(None, wanted))


def test_what_nobody_may_see_is_not_offered(workspace: Path) -> None:
    for name in (".env", "src/secret.txt", "src/plain.txt", "keys/a"):
        (workspace / name).parent.mkdir(exist_ok=True)
        (workspace / name).touch()
    assert listed(workspace, denied=["secret.*", "keys"]) == [".env", "src/", "src/plain.txt"]


def test_names_that_cannot_be_said_are_left_out(workspace: Path) -> None:
    for name in (
        "plain",
        "two\nlines",
        "esc\x1b[31m",
        "rtl\u202egnp.exe",
        "caf\u00e9 \u65e5\u672c",
        "x" * 250,
        'q"uote',
        'q" space',
    ):
        (workspace / name).touch()
    (workspace / os.fsdecode(b"latin\xe9")).touch()
    assert sorted(listed(workspace)) == sorted(["plain", "caf\u00e9 \u65e5\u672c", "x" * 250, 'q"uote', 'q" space'])

    async def offered() -> list[str]:
        offers = await Completer(FileIndex(lambda: Files(policy_for(workspace)))).files_for("see @")
        assert offers is not None
        return [offer.text for offer in offers.items]

    assert sorted(asyncio.run(offered())) == sorted(["@plain", '@"caf\u00e9 \u65e5\u672c"', "@" + "x" * 250])


def test_it_is_looked_at_again_behind_the_answer(workspace: Path) -> None:
    (workspace / "one").touch()

    async def work() -> None:
        index = FileIndex(lambda: Files(policy_for(workspace)))
        assert not index.known
        assert await index.search("") == ["one"]
        (workspace / "two").touch()
        assert await index.search("") == ["one"]
        index.outdated()
        async with asyncio.timeout(20):
            while await index.search("") != ["one", "two"]:
                await asyncio.sleep(0.01)

    asyncio.run(work())


def test_a_workspace_that_is_gone_is_said(tmp_path: Path) -> None:
    async def work() -> None:
        index = FileIndex(lambda: Files(policy_for(tmp_path / "gone")))
        assert await index.search("a") == []
        assert "gone" in index.note

    asyncio.run(work())


def test_directories_come_before_what_is_in_them() -> None:
    assert list(with_directories(["a/b/c", "a/d", "e"])) == ["a/", "a/b/", "a/b/c", "a/d", "e"]


@pytest.mark.parametrize(
    ("before", "start"),
    [
        ("@", 0),
        ("see @src/a", 4),
        ("(@x", 1),
        ("one\n@two", 4),
        ('see @"a b', 4),
        ("a@b.org", None),
        ("@a ", None),
        ("x", None),
    ],
)
def test_where_a_mention_begins(before: str, start: int | None) -> None:
    completer = Completer(FileIndex(lambda: Files(policy_for(Path("/")))))
    assert completer.begun(before) == start
    assert completer.mentions(before) == (start is not None)
