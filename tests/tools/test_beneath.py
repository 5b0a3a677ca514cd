"""Directories below a root: both ways of opening them refuse what leads out, also while it is being swapped."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.errors import ToolError
from laguna_agent.sandbox import beneath
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.tools.files import Files

PARTS = st.lists(st.sampled_from(["a", "b", "in", "out", "loop", "up", "file", "none", "..", "é", "a."]), max_size=5)


@pytest.fixture(params=["by_kernel", "by_walking"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> beneath.Opener:
    """Each of the two ways in turn, in the place of the one for this system."""
    chosen: beneath.Opener = getattr(beneath, request.param)
    if chosen is beneath.by_kernel and not _has_openat2():
        pytest.skip("no openat2 here")
    monkeypatch.setattr(beneath, "opener", lambda: chosen)
    return chosen


def _has_openat2() -> bool:
    handle = os.open("/", os.O_RDONLY)
    try:
        os.close(beneath.by_kernel(handle, (), os.O_RDONLY))
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    finally:
        os.close(handle)
    return True


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with links that stay inside, lead out, up, and to themselves."""
    root = tmp_path / "root"
    (root / "a" / "b" / "a").mkdir(parents=True)
    (root / "a" / "é").mkdir()
    (root / "a.").mkdir()
    (tmp_path / "outside" / "a").mkdir(parents=True)
    (root / "file").touch()
    (root / "a" / "in").symlink_to("b")
    (root / "a" / "out").symlink_to(tmp_path / "outside")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    return root


def test_this_system_is_asked_which_way_there_is() -> None:
    assert beneath.opener() is (beneath.by_kernel if _has_openat2() else beneath.by_walking)


@given(PARTS)
def test_a_directory_opens_exactly_where_no_link_is_on_the_way(
    way: beneath.Opener, tree: Path, parts: list[str]
) -> None:
    path = Path(tree, *parts)
    real = os.path.realpath(path)
    honest = real == str(path) and os.path.isdir(real) and ".." not in parts
    try:
        with beneath.directory(tree, path) as handle:
            opened = os.fstat(handle)
    except OSError as error:
        assert not honest
        if ".." in parts:
            assert error.errno == errno.EXDEV
        elif any(Path(tree, *parts[:end]).is_symlink() for end in range(1, len(parts) + 1)):
            # Or something before the link is not there, or is no directory.
            assert error.errno in (errno.ELOOP, errno.ENOENT, errno.ENOTDIR)
        return
    assert honest
    assert (opened.st_dev, opened.st_ino) == (os.stat(real).st_dev, os.stat(real).st_ino)


def test_a_link_is_named_as_the_reason(way: beneath.Opener, tree: Path) -> None:
    for name in ("a/in", "a/out", "a/out/a", "up", "loop"):
        with pytest.raises(OSError) as refused, beneath.directory(tree, tree / name):
            pass
        assert refused.value.errno == errno.ELOOP, name


def test_what_is_missing_is_made_below_the_root_only(way: beneath.Opener, tree: Path, tmp_path: Path) -> None:
    with beneath.directory(tree, tree / "x" / "y" / "z", make=True) as handle:
        assert os.path.samestat(os.fstat(handle), os.stat(tree / "x/y/z"))
    with pytest.raises(OSError), beneath.directory(tree, tree / "a" / "out" / "new", make=True):
        pass
    with pytest.raises(NotADirectoryError), beneath.directory(tree, tree / "file" / "new", make=True):
        pass
    assert sorted(os.listdir(tmp_path / "outside")) == ["a"]


def test_no_descriptor_is_lost(way: beneath.Opener, tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for name in ("a/b", "a/out/a", "none/none", "file/x", "a/b/new"):
        with suppress(OSError), beneath.directory(tree, tree / name, make="new" in name):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


@contextmanager
def _swapping(swap: Callable[[], None]) -> Iterator[None]:
    """`swap` in a loop beside the block; its errors count."""
    over = threading.Event()
    problems: list[BaseException] = []

    def loop() -> None:
        try:
            while not over.is_set():
                swap()
        except BaseException as problem:
            problems.append(problem)
            raise

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not problems


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(-100, bytes(one), -100, bytes(other), 2) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="swaps with renameat2")
def test_a_directory_that_becomes_a_link_again_and_again_lets_nothing_out(way: beneath.Opener, tmp_path: Path) -> None:
    root, outside, below = tmp_path / "root", tmp_path / "outside", Path("d/d")
    (root / "victim" / below).mkdir(parents=True)
    (outside / below).mkdir(parents=True)
    secret = outside / below / "secret"
    secret.write_text("CANARY")
    (root / "victim" / below / "secret").write_text("harmless")
    before = _everything(outside)
    files = Files(policy_for(root))
    (root / "link").symlink_to(outside)

    outcomes = {"written": 0, "refused": 0, "read": 0}
    with _swapping(lambda: _exchange(root / "victim", root / "link")):
        for number in range(2_000):
            try:
                files.write(root / "victim" / below / f"new{number % 7}", b"x")
                outcomes["written"] += 1
            except ToolError:
                outcomes["refused"] += 1
            try:
                assert files.read(root / "victim" / below / "secret", 100) == b"harmless"
                outcomes["read"] += 1
            except ToolError:
                outcomes["refused"] += 1
    assert _everything(outside) == before
    # It was a race, and honest work went on in it.
    assert all(outcomes.values()), outcomes


def test_a_file_that_becomes_a_link_again_and_again_lets_nothing_out(way: beneath.Opener, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("CANARY")
    (root / "file").write_text("harmless")
    before = _everything(outside)
    files = Files(policy_for(root))

    def swap() -> None:
        (root / "link").symlink_to(outside / "secret")
        os.rename(root / "link", root / "file")
        (root / "plain").write_text("harmless")
        os.rename(root / "plain", root / "file")

    refused = 0
    with _swapping(swap):
        for _ in range(1_000):
            try:
                assert files.read(root / "file", 100) in (b"harmless", b"x")
            except ToolError:
                refused += 1
            with suppress(ToolError):
                files.write(root / "file", b"x")
    assert _everything(outside) == before
    assert refused


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="swaps with renameat2")
def test_a_file_that_becomes_a_fifo_again_and_again_is_read_whole_or_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("harmless")
    os.mkfifo(tmp_path / "fifo")
    files = Files(policy_for(tmp_path))
    outcomes = {"read": 0, "refused": 0}
    with _swapping(lambda: _exchange(tmp_path / "file", tmp_path / "fifo")):
        for _ in range(3_000):
            try:
                assert files.read(tmp_path / "file", 100) == b"harmless"
                outcomes["read"] += 1
            except ToolError:
                outcomes["refused"] += 1
    assert all(outcomes.values()), outcomes


def test_what_is_no_file_is_not_even_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    opened = threading.Event()

    def write() -> None:
        # Waits until somebody opens the other end.
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
        opened.set()

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(20):
        with pytest.raises(ToolError, match="not a regular file"):
            Files(policy_for(tmp_path)).read(tmp_path / "fifo", 100)
        assert not opened.wait(0.01)
    os.close(os.open(tmp_path / "fifo", os.O_RDONLY))
    thread.join(10)
    assert opened.is_set()


def test_a_link_at_the_end_is_neither_looked_through_nor_replaced(way: beneath.Opener, tree: Path) -> None:
    files = Files(policy_for(tree))
    (tree / "link").symlink_to(tree.parent / "outside" / "new")
    for name in ("link", "loop", "up", "a/out"):
        for attempt in (files.entry, files.stat, files.prepare, lambda path: files.write(path, b"x")):
            with pytest.raises(ToolError, match="symbolic links"):
                attempt(tree / name)
        assert (tree / name).is_symlink()
    assert os.listdir(tree.parent / "outside") == ["a"]


def _everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}
