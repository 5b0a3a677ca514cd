"""What belongs into a checkpoint, and what is left out."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from laguna_agent.checkpoints import housekeeping, looked, scan
from laguna_agent.checkpoints.housekeeping import forget
from laguna_agent.checkpoints.keep import Keep
from laguna_agent.checkpoints.plan import Span
from laguna_agent.checkpoints.scan import Scanner, TooLarge
from laguna_agent.checkpoints.store import CheckpointError, Store, store_directory, stores_directory
from laguna_agent.checkpoints.trees import table_of, written
from laguna_agent.sandbox.policy import policy_for
from tests.checkpoints.disks import git, make


def scanner(root: Path, *roots: Path) -> Scanner:
    return Scanner(Store(store_directory((root, *roots))), policy_for(root, roots))


def names(root: Path, *roots: Path) -> set[str]:
    """The files and links that one look at the workspace finds; directories end in a slash."""
    looking = scanner(root, *roots)
    table = table_of(looking.look().tree, looking.store.read)
    return {os.fsdecode(path) + "/" * each.is_directory for path, each in table.items() if b"/" in path}


def test_what_is_in_it(workspace: Path) -> None:
    make(workspace, nested=True)
    (workspace / "junk.o").touch()
    (workspace / "build").mkdir()
    (workspace / "build" / "x").touch()
    (workspace / "node_modules" / "x").mkdir(parents=True)
    (workspace / "empty").mkdir()
    (workspace / "link").symlink_to("/etc")
    (workspace / ".envrc").touch()
    (workspace / "sub" / "also.o").touch()
    os.mkfifo(workspace / "fifo")
    (workspace / os.fsdecode(b"\xff")).touch()
    assert names(workspace) == {
        "0/.gitignore", "0/.gitmodules", "0/a", "0/empty/", "0/link", "0/program", "0/secret", "0/staged", "0/sub/",
        "0/sub/also.o", "0/sub/inside", "0/tracked.o", "0/tree/", "0/tree/.gitignore", "0/tree/a", "0/tree/tracked.o",
        "0/" + os.fsdecode(b"\xff"),
    }  # fmt: skip


def test_git_directories_are_left_alone_whatever_their_name(workspace: Path) -> None:
    git(workspace, "init", "-q", "--bare", "bare")
    git(workspace, "init", "-q", "--separate-git-dir=elsewhere", "work")
    (workspace / "work" / "f").touch()
    assert names(workspace) == {"0/work/", "0/work/f"}
    assert scanner(workspace).look().left[b"0/bare"] == "git"


def test_a_git_file_that_lies_has_no_rules_and_no_index(workspace: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    make_other(elsewhere)
    (workspace / "nested").mkdir()
    (workspace / "nested" / ".git").write_text(f"gitdir: {elsewhere}/.git\n")
    (workspace / "nested" / "f.o").touch()
    assert names(workspace) == {"0/nested/", "0/nested/f.o"}


def make_other(directory: Path) -> None:
    directory.mkdir()
    make(directory, nested=False)
    (directory / ".git" / "info").mkdir(exist_ok=True)
    (directory / ".git" / "info" / "exclude").write_text("*\n")


def test_several_roots(workspace: Path, tmp_path: Path) -> None:
    other, inside = tmp_path / "other", workspace / "inside"
    for directory in (other, inside):
        directory.mkdir()
        (directory / "f").touch()
    assert names(workspace, other, inside) == {"0/inside/", "0/inside/f", "1/f"}


def test_what_was_kept_once_is_kept_on_though_it_is_ignored_now(workspace: Path) -> None:
    (workspace / "data").mkdir()
    (workspace / "data" / "f").write_text("kept")
    keep = Keep(policy_for(workspace), "session")
    first = keep.take()
    (workspace / ".gitignore").write_text("data\n")
    (workspace / "data" / "f").write_text("changed")
    (workspace / "data" / "new").write_text("ignored from the beginning")
    last = keep.take()
    proposal = keep.propose([Span(bytes.fromhex(first.tree), bytes.fromhex(last.tree))])
    assert set(proposal.changed) == {".gitignore", "data/f"}
    keep.carry_out(proposal)
    assert (workspace / "data" / "f").read_text() == "kept"
    assert (workspace / "data" / "new").exists()


def test_a_second_change_within_the_clocks_tick_is_seen(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same size, same inode, and a clock so coarse that no time tells: only the moment of the look does."""
    coarse = 1000 * 10**9

    def stamp(found: os.stat_result) -> looked.Stamp:
        real = looked.stamp_of(found)
        return (real[0] // coarse * coarse, real[1] // coarse * coarse, *real[2:])

    monkeypatch.setattr(scan, "stamp_of", stamp)
    monkeypatch.setattr(scan, "TICK", 2 * coarse)
    file = workspace / "f"
    file.write_text("one")
    keep = Keep(policy_for(workspace), "session")
    first = keep.take()
    with file.open("r+") as opened:
        opened.write("two")
    assert keep.take().tree != first.tree


def test_an_empty_directory_in_the_place_of_a_tracked_file_is_known_to_be_in_the_way(workspace: Path) -> None:
    make(workspace, nested=False)
    keep = Keep(policy_for(workspace), "session")
    first = keep.take()
    (workspace / "tracked.o").unlink()
    (workspace / "tracked.o").mkdir()
    span = Span(bytes.fromhex(first.tree), bytes.fromhex(keep.take().tree))
    proposal = keep.propose([span])
    assert proposal.conflicts == ("tracked.o",)
    assert not keep.carry_out(proposal).problems
    assert (workspace / "tracked.o").read_text() == "tracked although ignored\n"


@pytest.mark.parametrize("setting", ["FILES_CAP", "BYTES_CAP", "TIME_CAP", "DEPTH_CAP"])
def test_too_much_is_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    (workspace / "a" / "b" / "c").mkdir(parents=True)
    (workspace / "a" / "b" / "c" / "d").write_text("content")
    monkeypatch.setattr(scan, setting, 1 if setting != "TIME_CAP" else -1)
    with pytest.raises(TooLarge):
        Keep(policy_for(workspace), "session").take()


def test_large_files_are_left_out_and_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "FILE_BYTES", 100)
    (workspace / "small").write_text("x" * 100)
    (workspace / "large").write_text("x" * 101)
    assert Keep(policy_for(workspace), "session").take().left == ("large",)
    assert names(workspace) == {"0/small"}


def test_two_sessions_at_once(workspace: Path) -> None:
    for number in range(200):
        (workspace / f"f{number}").write_text(str(number))
    found: list[str] = []

    def work(session: str) -> None:
        for _ in range(3):
            found.append(Keep(policy_for(workspace), session).take().tree)

    threads = [threading.Thread(target=work, args=(f"s{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12 and len(set(found)) == 1
    store = Store(store_directory((workspace,)))
    assert len(table_of(bytes.fromhex(found[0]), store.read)) == 201


def test_what_no_session_needs_goes(workspace: Path) -> None:
    for number in range(150):
        (workspace / f"f{number}").write_text(f"{number}")
    first = Keep(policy_for(workspace), "first")
    old = bytes.fromhex(first.take().tree)
    for number in range(120):
        (workspace / f"f{number}").write_text(f"other {number}")
    second = Keep(policy_for(workspace), "second")
    new = bytes.fromhex(second.take().tree)
    store = Store(store_directory((workspace,)))
    assert git(store.directory, "fsck", "--strict", old.hex(), new.hex()) is not None
    forget("first")
    store = Store(store_directory((workspace,)))
    assert len(table_of(new, store.read)) == 151
    assert store.read(table_of(new, store.read)[b"0/f149"].id) == b"149"
    with pytest.raises(CheckpointError, match="the checkpoint is gone"):
        store.read(old)
    # A session that is open meanwhile goes on.
    (workspace / "f0").write_text("0")
    again = bytes.fromhex(second.take().tree)
    assert store.read(table_of(again, store.read)[b"0/f0"].id) == b"0"
    forget("second")
    assert not list((store.directory / "objects").rglob("*.pack"))


def test_the_oldest_sessions_go_where_there_are_many(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "MOST_SESSIONS", 4)
    monkeypatch.setattr(housekeeping, "KEPT_SESSIONS", 2)
    trees = {}
    store = Store(store_directory((workspace,)))
    for number in range(5):
        (workspace / "f").write_text(f"{number}")
        trees[number] = bytes.fromhex(Keep(policy_for(workspace), f"s{number}").take().tree)
        os.utime(store.pins(f"s{number}"), (number, number))
    assert sorted(path.name for path in (store.directory / "sessions").iterdir()) == ["s2", "s3", "s4"]
    store = Store(store.directory)
    assert len(table_of(trees[2], store.read)) == 2
    with pytest.raises(CheckpointError, match="gone"):
        store.read(trees[1])


def test_many_small_objects_become_a_pack(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "MOST_LOOSE", 20)
    keep, trees = Keep(policy_for(workspace), "session"), []
    for number in range(12):
        (workspace / "f").write_text(f"{number}")
        trees.append(keep.take().tree)
    store = Store(store_directory((workspace,)))
    assert len(list(store.objects.glob("??/*"))) > 20
    assert Keep(policy_for(workspace), "another").take().tree == trees[-1]
    assert not list(store.objects.glob("??/*"))
    for number, tree in enumerate(trees):
        # Also for a session that was open all along.
        assert keep.read(table_of(bytes.fromhex(tree), keep.read)[b"0/f"].id) == f"{number}".encode()


def test_too_much_is_not_kept(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace / "f").write_bytes(os.urandom(5000))
    Keep(policy_for(workspace), "first").take()
    monkeypatch.setattr(housekeeping, "MOST_BYTES", 4000)
    (workspace / "f").write_bytes(os.urandom(3000))
    second = Keep(policy_for(workspace), "second")
    # The first one's are let go for it.
    tree = second.take().tree
    assert Store(store_directory((workspace,))).pinned("first") == []
    (workspace / "g").write_bytes(os.urandom(3000))
    second.take()
    again = Keep(policy_for(workspace), "second")
    with pytest.raises(CheckpointError, match="take more than"):
        again.take()
    assert len(table_of(bytes.fromhex(tree), second.read)) == 2


def test_a_damaged_object_is_named_and_nothing_is_put_back(workspace: Path) -> None:
    (workspace / "f").write_text("old")
    keep = Keep(policy_for(workspace), "session")
    first = keep.take()
    (workspace / "f").write_text("new")
    last = keep.take()
    for path in (store_directory((workspace,)) / "objects").rglob("??/*"):
        if path.is_file():
            path.chmod(0o600)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = Keep(policy_for(workspace), "session")
    with pytest.raises(CheckpointError, match="damaged"):
        again.propose([Span(bytes.fromhex(first.tree), bytes.fromhex(last.tree))])
    assert (workspace / "f").read_text() == "new"


def test_only_its_owner_reads_the_store(workspace: Path) -> None:
    before = os.umask(0)
    try:
        for number in range(120):
            (workspace / "f").write_text(f"{number}")
            (workspace / f"f{number}").write_text(f"{number}")
        Keep(policy_for(workspace), "session").take()
        (workspace / "f").write_text("one more")
        Keep(policy_for(workspace), "another").take()
        forget("session")
    finally:
        os.umask(before)
    found = list(stores_directory().rglob("*"))
    assert {"lock", "config", "generation"} <= {path.name for path in found}
    for path in found:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_git_reads_what_was_written(workspace: Path) -> None:
    """The store is a repository: a person can look into it."""
    (workspace / "d").mkdir(mode=0o750)
    (workspace / "d" / "f").write_text("content\r\n")
    (workspace / "d.x").write_text("sorts between")
    (workspace / "link").symlink_to("d")
    tree = Keep(policy_for(workspace), "session").take().tree
    store = store_directory((workspace,))
    assert git(store, "cat-file", "blob", f"{tree}:0/d/f") == b"content\r\n"
    listed = git(store, "ls-tree", "-r", "--name-only", tree).split()
    assert listed == [b"0/d.x", b"0/d/f", b"0/link"]
    looking = Store(store)
    assert written(table_of(bytes.fromhex(tree), looking.read), looking.add).hex() == tree


def test_a_lost_memory_of_the_last_look_costs_time_alone(workspace: Path) -> None:
    (workspace / "f").write_text("content")
    tree = Keep(policy_for(workspace), "session").take().tree
    looked.save(store_directory((workspace,)) / "looked", looked.Looked("another generation"))
    assert Keep(policy_for(workspace), "session").take().tree == tree
    (store_directory((workspace,)) / "looked").write_bytes(b"\xff damaged")
    assert Keep(policy_for(workspace), "session").take().tree == tree


def test_no_program_is_run(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(workspace, nested=True)
    marker = workspace.parent / "ran"
    config = f'[core]\n\tfsmonitor = "touch {marker}; false"\n[filter "x"]\n\tclean = touch {marker}\n'
    with (workspace / ".git" / "config").open("a") as file:
        file.write(config)
    (workspace / ".gitattributes").write_text("* filter=x text eol=crlf\n")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", never)
    keep = Keep(policy_for(workspace), "session")
    first = keep.take()
    (workspace / "a").write_bytes(b"changed\r\n")
    span = Span(bytes.fromhex(first.tree), bytes.fromhex(keep.take().tree))
    keep.carry_out(keep.propose([span]))
    assert (workspace / "a").read_text() == "first\n"
    assert not marker.exists()
