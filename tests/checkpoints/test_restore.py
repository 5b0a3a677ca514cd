"""Putting back on a real disk: cut off anywhere, a full disk, changes at the last moment, links on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.checkpoints import restore
from laguna_agent.checkpoints.keep import Keep, Proposal
from laguna_agent.checkpoints.plan import Span
from laguna_agent.checkpoints.restore import Restorer
from laguna_agent.checkpoints.store import CheckpointError
from laguna_agent.sandbox.policy import policy_for
from tests.checkpoints.disks import State, state_of


class Killed(BaseException):
    """The process is gone here."""


def before(root: Path) -> None:
    """Something of everything."""
    (root / "same").write_text("same")
    (root / "changed").write_text("old")
    (root / "mode").write_text("mode")
    (root / "mode").chmod(0o644)
    (root / "gone").mkdir()
    (root / "gone" / "inside").write_text("inside")
    (root / "gone" / "empty").mkdir(mode=0o700)
    (root / "file then directory").write_text("file")
    (root / "directory then file").mkdir()
    (root / "directory then file" / "x").write_text("x")
    (root / "link").symlink_to("same")
    (root / "link then file").symlink_to("nowhere")


def change(root: Path) -> None:
    """What the agent does."""
    (root / "changed").write_text("new")
    (root / "mode").chmod(0o755)
    (root / "gone" / "inside").unlink()
    (root / "gone" / "empty").rmdir()
    (root / "gone").rmdir()
    (root / "file then directory").unlink()
    (root / "file then directory" / "deep").mkdir(parents=True)
    (root / "file then directory" / "deep" / "y").write_text("y")
    (root / "directory then file" / "x").unlink()
    (root / "directory then file").rmdir()
    (root / "directory then file").write_text("file")
    (root / "link").unlink()
    (root / "link").symlink_to("changed")
    (root / "link then file").unlink()
    (root / "link then file").write_text("now a file")
    (root / "new").mkdir()
    (root / "new" / "file").write_text("new")


def turn(root: Path) -> tuple[Keep, Span, State, State]:
    keep = Keep(policy_for(root), "session")
    before(root)
    first, state = keep.take(), state_of(root)
    change(root)
    last = keep.take()
    return keep, Span(bytes.fromhex(first.tree), bytes.fromhex(last.tree)), state, state_of(root)


def killing(monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """The process ends before its nth step on the disk; what was called until then."""
    called: list[str] = []
    for name in ("rename", "mkdir", "rmdir", "unlink", "symlink", "fchmod", "chmod"):
        real = getattr(os, name)

        def step(*arguments: object, name: str = name, real: Callable[..., object] = real, **named: object) -> object:
            if len(called) == at:
                raise Killed
            called.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(restore.os, name, step)
    return called


def test_cut_off_anywhere_it_can_be_finished_and_taken_back(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, span, old, new = turn(workspace)
    steps = 0
    while True:
        proposal = keep.propose([span])
        with monkeypatch.context() as patch:
            called = killing(patch, steps)
            # What is tidied up after an exception would not be after a kill.
            patch.setattr(restore, "_remove_staging", lambda root, name: None)
            try:
                keep.carry_out(proposal)
            except Killed:
                cut_off = True
            else:
                cut_off = False
        for path, each in state_of(workspace).items():
            known = path.startswith(b".laguna-restore-") or each in (old.get(path), new.get(path))
            assert known or each[0] == "directory", f"{path!r} is half done"
        if steps % 2 or not cut_off:
            # Another process finishes it.
            again = Keep(policy_for(workspace), "session")
            proposal = again.propose([span], unfinished=True)
            assert not proposal.conflicts
            assert not again.carry_out(proposal).problems
            assert state_of(workspace) == old
            back = again.propose([Span(span.before, span.after)])
            assert back.plan.is_nothing
            forward = again.propose([Span(bytes.fromhex(proposal_now(span)), span.before)])
            assert not forward.conflicts
            again.carry_out(forward)
        else:
            # Another process takes it back.
            again = Keep(policy_for(workspace), "session")
            undone = again.propose([Span(bytes.fromhex(proposal.now), bytes.fromhex(proposal.target))], unfinished=True)
            assert not undone.conflicts
            assert not again.carry_out(undone).problems
        assert state_of(workspace) == new
        assert keep.take().tree == proposal_now(span)
        if not cut_off:
            assert len(called) > 25
            return
        steps += 1


def proposal_now(span: Span) -> str:
    assert span.after is not None
    return span.after.hex()


def test_a_full_disk_is_found_out_before_anything_changes(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, span, _, new = turn(workspace)
    proposal = keep.propose([span])
    written = []

    real = restore._write

    def write(name: str, *arguments: Any, **named: Any) -> None:
        written.append(name)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(name, *arguments, **named)

    monkeypatch.setattr(restore, "_write", write)
    with pytest.raises(CheckpointError, match="nothing was put back: No space left on device"):
        keep.carry_out(proposal)
    assert state_of(workspace) == new


def at_the_last_moment(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Somebody does something when the content waits, before the first path is exchanged."""
    real = restore._Staging.fill

    def fill(self: restore._Staging) -> restore.Staged:
        staged = real(self)
        do()
        return staged

    monkeypatch.setattr(restore._Staging, "fill", fill)


def test_what_changes_at_the_last_moment_is_left(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, span, old, _ = turn(workspace)
    proposal = keep.propose([span])

    def meddle() -> None:
        (workspace / "changed").write_text("by the person")
        (workspace / "new" / "file").write_text("by the person")
        (workspace / "gone").write_text("by the person")

    at_the_last_moment(monkeypatch, meddle)
    done = keep.carry_out(proposal)
    assert {line.partition(":")[0] for line in done.problems} >= {"changed", "new/file", "gone"}
    for name in ("changed", "new/file", "gone"):
        assert (workspace / name).read_text() == "by the person"
    rest = {path: each for path, each in state_of(workspace).items() if path.split(b"/")[0] not in (b"changed", b"new")}
    assert {path: each for path, each in rest.items() if path != b"gone"} == {
        path: each for path, each in old.items() if path.split(b"/")[0] not in (b"changed", b"gone")
    }


def test_a_change_after_the_question_puts_nothing_back(workspace: Path) -> None:
    keep, span, _, _ = turn(workspace)
    proposal = keep.propose([span])
    (workspace / "elsewhere").write_text("by the person")
    state = state_of(workspace)
    with pytest.raises(CheckpointError, match="changed in the meantime"):
        keep.carry_out(proposal)
    assert state_of(workspace) == state


def test_no_link_on_the_way_is_followed(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "inside").write_text("outside")
    keep = Keep(policy_for(workspace), "session")
    (workspace / "d").mkdir()
    (workspace / "d" / "inside").write_text("old")
    first = keep.take()
    (workspace / "d" / "inside").write_text("new")
    last = keep.take()
    proposal = keep.propose([Span(bytes.fromhex(first.tree), bytes.fromhex(last.tree))])

    def meddle() -> None:
        (workspace / "d").rename(workspace / "moved")
        (workspace / "d").symlink_to(outside)

    at_the_last_moment(monkeypatch, meddle)
    done = keep.carry_out(proposal)
    assert len(done.problems) == 1
    assert (outside / "inside").read_text() == "outside"
    assert (workspace / "moved" / "inside").read_text() == "new"


def test_a_link_in_the_place_of_the_waiting_content_leads_nowhere(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, span, old, _ = turn(workspace)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0").write_text("outside")
    proposal = keep.propose([span])

    def meddle() -> None:
        (place,) = workspace.glob(".laguna-restore-*")
        place.rename(workspace / ".laguna-restore-ffffffffffff")
        place.symlink_to(outside)

    at_the_last_moment(monkeypatch, meddle)
    assert not keep.carry_out(proposal).problems
    assert [path.name for path in outside.iterdir()] == ["0"]
    assert state_of(workspace, ignored=lambda path: path.startswith(b".laguna-restore")) == old


def test_what_a_cut_off_one_left_behind_is_swept_and_never_kept(workspace: Path) -> None:
    keep, span, old, _ = turn(workspace)
    tree = keep.take().tree
    left = workspace / ".laguna-restore-0123456789ab"
    left.mkdir()
    (left / "0").write_text("left")
    assert keep.take().tree == tree
    keep.carry_out(keep.propose([span]))
    assert state_of(workspace) == old


def propose_in_the_way(workspace: Path) -> tuple[Keep, Proposal]:
    """The agent makes a directory of a file, and tools leave a cache in it."""
    keep = Keep(policy_for(workspace), "session")
    (workspace / "a").write_text("a file")
    first = keep.take()
    (workspace / "a").unlink()
    (workspace / "a" / "__pycache__").mkdir(parents=True)
    (workspace / "a" / "__pycache__" / "x.pyc").write_text("cache")
    last = keep.take()
    return keep, keep.propose([Span(bytes.fromhex(first.tree), bytes.fromhex(last.tree))])


def test_what_no_checkpoint_holds_is_moved_aside(workspace: Path) -> None:
    keep, proposal = propose_in_the_way(workspace)
    assert proposal.conflicts == ("a",)
    assert not keep.carry_out(proposal).problems
    assert (workspace / "a").read_text() == "a file"
    (aside,) = workspace.glob("a.before-undo-*")
    assert (aside / "__pycache__" / "x.pyc").read_text() == "cache"


def test_a_restorer_reaches_only_its_roots(workspace: Path) -> None:
    restorer = Restorer([workspace], lambda id: b"")
    assert restorer.path(b"0/a/b") == workspace / "a" / "b"
