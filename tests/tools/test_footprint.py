"""What a command changed on disk: found, told to every face, bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from laguna_agent.messages import FileDiff, Location
from laguna_agent.tools import footprint as module
from laguna_agent.tools.base import ToolContext
from laguna_agent.tools.footprint import Change, Footprint, Look
from tests.tools.conftest import Call

pytestmark = pytest.mark.anyio


async def test_a_command_s_changes_are_part_of_its_result(call: Call, root: Path) -> None:
    (root / "seen.py").write_text("a = 1\nb = 1\n")
    (root / "unseen.py").write_text("x\n")
    (root / "gone.py").write_text("y\n")
    (root / "kept.py").write_text("z\n")
    await call("read", path="seen.py")
    await call("read", path="gone.py")
    await call("read", path="kept.py")
    command = "sed -i s/b/c/ seen.py; echo more >> unseen.py; rm gone.py; mkdir sub; echo n > sub/new.py; touch kept.py"
    result = await call("shell", command=command)
    assert result.text == "(no output)\n[exit code 0]"
    assert result.diffs == (
        FileDiff("gone.py", "y\n", None),
        FileDiff("seen.py", "a = 1\nb = 1\n", "a = 1\nc = 1\n"),
    )
    assert result.locations == (Location("seen.py", 2), Location("sub/new.py"), Location("unseen.py"))
    assert (await call("shell", command="cat seen.py; ls")).locations == ()


async def test_what_nobody_wants_to_hear_of_is_left_out(call: Call, root: Path) -> None:
    (root / ".gitignore").write_text("*.log\nbuild/\n")
    folders = "build .git node_modules __pycache__"
    command = f"mkdir {folders}; for d in {folders}; do echo x > $d/f; done; echo x > a.log; echo x > told.txt"
    result = await call("shell", command=command)
    assert result.locations == (Location("told.txt"),)


async def test_an_ignored_file_that_the_model_has_seen_counts(call: Call, root: Path) -> None:
    (root / ".gitignore").write_text("*.env\n")
    (root / "a.env").write_bytes(b"A=1\r\n")
    await call("read", path="a.env")
    result = await call("shell", command="echo B=2 >> a.env")
    assert result.diffs == (FileDiff("a.env", "A=1\n", "A=1\nB=2\n"),)


async def test_a_command_that_hides_files_has_not_deleted_them(call: Call, root: Path) -> None:
    (root / "a.log").write_text("x\n")
    result = await call("shell", command="echo '*.log' > .gitignore")
    assert result.locations == (Location(".gitignore"),)


async def test_binary_and_long_files_have_a_location_and_no_diff(call: Call, root: Path) -> None:
    (root / "long.txt").write_text("x\n" * module.KNOWN_BYTES)
    (root / "turned.txt").write_text("text\n")
    for name in ("long.txt", "turned.txt"):
        await call("read", path=name, limit=1)
    result = await call("shell", command="echo y >> long.txt; head -c 99 /dev/zero > turned.txt")
    assert result.diffs == ()
    assert result.locations == (Location("long.txt"), Location("turned.txt", 1))


async def test_further_roots_are_looked_at_too(context: ToolContext, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    context.workspace.roots = (other,)
    look = await context.footprint.before(context.workspace, context.ledger)
    (other / "a.txt").write_text("x\n")
    assert await context.footprint.changes(context.workspace, look) == [Change(other / "a.txt")]


async def test_a_tree_that_is_too_large_is_looked_at_once_and_what_was_seen_always(
    call: Call, context: ToolContext, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILES_CAP", 3)
    for number in range(5):
        (root / f"{number}.txt").write_text("x\n")
    await call("read", path="0.txt")
    result = await call("shell", command="echo y >> 0.txt; echo y >> 1.txt")
    assert result.locations == (Location("0.txt", 1),)
    monkeypatch.setattr(module, "ripgrep", None)
    assert (await context.footprint.before(context.workspace, context.ledger)).stamps is None


async def test_a_look_that_takes_too_long_is_given_up(
    context: ToolContext, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a.txt").write_text("x\n")
    monkeypatch.setattr(module, "TIME_CAP", 0)
    assert (await Footprint().before(context.workspace, context.ledger)) == Look(None, {})


async def test_thousands_of_changes_are_cut_and_the_seen_ones_kept(call: Call, root: Path) -> None:
    (root / "z.txt").write_text("x\n")
    await call("read", path="z.txt")
    result = await call("shell", command="for i in $(seq 200); do echo $i > f$i; done; echo y > z.txt")
    assert len(result.locations) == module.CHANGES_CAP
    assert result.locations[-1] == Location("z.txt", 1)


async def test_the_next_edit_is_held_against_what_the_command_did(call: Call, root: Path) -> None:
    (root / "a.py").write_text("a = 1\n")
    await call("read", path="a.py")
    await call("shell", command="echo 'b = 2' >> a.py")
    with pytest.raises(Exception, match=r"\+b = 2"):
        await call("write", path="a.py", content="a = 3\n")
    assert (root / "a.py").read_text() == "a = 1\nb = 2\n"
