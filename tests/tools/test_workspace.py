"""The workspace knows what lies inside it, and writes whole files or none."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laguna_agent.errors import ToolError
from laguna_agent.tools.workspace import LocalWorkspace

pytestmark = pytest.mark.anyio

PARTS = st.lists(st.sampled_from(["a", "b", "in", "out", "loop", "..", ".", "", "a b", "é"]), max_size=7)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with links that stay inside (`in`), lead out (`out`) and lead to themselves (`loop`)."""
    base = tmp_path_factory.mktemp("tree")
    root = base / "root"
    (root / "a" / "b").mkdir(parents=True)
    (base / "root-not").mkdir()
    (root / "in").symlink_to(root / "a")
    (root / "a" / "out").symlink_to(base)
    (root / "out").symlink_to("../root-not")
    (root / "loop").symlink_to("loop")
    return root


@given(PARTS, st.booleans())
def test_containment(tree: Path, parts: list[str], absolute: bool) -> None:
    workspace = LocalWorkspace(tree)
    place = workspace.resolve("/".join([str(tree), *parts] if absolute else [".", *parts]))
    truth = os.path.realpath(os.path.join(tree, *[part for part in parts if part]))
    assert str(place.path) == truth
    inside = truth == str(tree) or truth.startswith(f"{tree}/")
    assert place.outside != inside
    assert os.path.realpath(tree / place.shown) == truth


def test_a_sibling_with_the_same_beginning_is_outside(tree: Path) -> None:
    workspace = LocalWorkspace(tree)
    assert workspace.resolve("../root-not/x").outside
    assert workspace.resolve("out").outside
    assert workspace.resolve("~").outside
    assert workspace.resolve("/etc/passwd").shown == "/etc/passwd"
    with pytest.raises(ToolError, match="NUL"):
        workspace.resolve("a\0b")


def test_a_root_that_is_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    workspace = LocalWorkspace(tmp_path / "link")
    assert workspace.resolve(str(tmp_path / "link" / "x")).shown == "x"
    assert workspace.resolve(str(tmp_path / "real" / "x")).shown == "x"


async def test_writing_keeps_mode_and_link_and_leaves_no_temporary_file(root: Path) -> None:
    workspace = LocalWorkspace(root)
    (root / "script").write_bytes(b"old")
    (root / "script").chmod(0o751)
    (root / "link").symlink_to("script")
    await workspace.write_bytes(workspace.resolve("link").path, b"new")
    assert (root / "link").is_symlink()
    assert (root / "script").read_bytes() == b"new"
    assert stat.S_IMODE((root / "script").stat().st_mode) == 0o751
    await workspace.write_bytes(workspace.resolve("deep/er/new").path, b"x")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((root / "deep/er/new").stat().st_mode) == 0o666 & ~umask
    assert sorted(path.name for path in root.rglob("*")) == ["deep", "er", "link", "new", "script"]


async def test_what_cannot_be_written(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"")
    for name in ("fifo", "."):
        with pytest.raises(ToolError, match="not a regular file"):
            await workspace.write_bytes(tmp_path / name, b"x")
    with pytest.raises(ToolError, match="Cannot write"):
        await workspace.write_bytes(tmp_path / "file" / "below", b"x")
    with pytest.raises(ToolError, match="Cannot write"):
        await workspace.write_bytes(tmp_path / ("x" * 300), b"x")


async def test_what_cannot_be_read(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(5 * 2**30)
    with pytest.raises(ToolError, match="not a regular file"):
        await workspace.read_bytes(tmp_path / "fifo", 10)
    with pytest.raises(ToolError, match=r"5,368,709,120 bytes, more than the 1,000"):
        await workspace.read_bytes(tmp_path / "huge", 1000)
    with pytest.raises(ToolError, match="more than the 4 that"):
        # Files of /proc claim to be empty.
        await workspace.read_bytes(Path(f"/proc/{os.getpid()}/status"), 4)
    with pytest.raises(ToolError, match="No such file"):
        await workspace.read_bytes(tmp_path / "none", 4)


async def test_entries(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path)
    (tmp_path / "b").write_bytes(b"xyz")
    (tmp_path / "a").mkdir()
    (tmp_path / "c").symlink_to("nowhere")
    found = [(entry.name, entry.kind) for entry in await workspace.list(tmp_path) if entry.name != "home"]
    assert found == [("a", "directory"), ("b", "file"), ("c", "symlink")]
    assert await workspace.entry(workspace.resolve("c").path) is None
    assert await workspace.entry(tmp_path / "b" / "below") is None


async def test_kept_output_is_not_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    workspace = LocalWorkspace(tmp_path / "root", spool=tmp_path / "spool")
    place = workspace.resolve(str(tmp_path / "spool" / "command-1.log"))
    assert (place.scope, place.outside) == ("spool", False)


async def test_a_change_within_the_second_is_not_hidden_by_cached_bytecode(tmp_path: Path) -> None:
    workspace = LocalWorkspace(tmp_path)
    module = tmp_path / "sign.py"
    for number in range(6):
        # All of one length, and as quick as they can be.
        await workspace.write_bytes(module, f"ANSWER = {number}\n".encode())
        result = await workspace.run(f"{sys.executable} -c 'import sign; print(sign.ANSWER)'", timeout=60)
        assert result.output.text(100).strip() == str(number)
    assert list((tmp_path / "__pycache__").iterdir()), "nothing was cached, so nothing was shown"
    await workspace.aclose()
