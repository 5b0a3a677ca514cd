"""Directories and files that are closed even to their owner; root would notice nothing, so it becomes somebody else."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import gitdb.pack  # noqa: F401 - whoever we become may not read where it lies
import pytest

from laguna_agent.checkpoints.keep import Keep
from laguna_agent.checkpoints.plan import Span
from laguna_agent.sandbox.policy import policy_for
from tests.checkpoints.disks import state_of

NOBODY = 65534


def as_nobody(folder: Path, work: Callable[[], None]) -> None:
    """Do it in a process of its own that has no privileges."""
    if os.geteuid() != 0:
        work()
        return
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
    for above in folder.parents:
        if above.stat().st_mode & 0o005 != 0o005:
            above.chmod(above.stat().st_mode | 0o055)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
        except BaseException:  # noqa: BLE001 - it is the end of a process
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="becomes nobody by its number")
def test_closed_directories_and_files(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(workspace / "state"))
    root = workspace / "root"
    root.mkdir()
    (root / "closed").mkdir()
    (root / "closed" / "f").write_text("old")
    (root / "read-only").mkdir()
    (root / "read-only" / "f").write_text("old")
    (root / "read-only" / "f").chmod(0o400)
    (root / "unreadable").write_text("secret")
    policy = policy_for(root)

    def work() -> None:
        (root / "unreadable").chmod(0)
        (root / "read-only").chmod(0o555)
        keep = Keep(policy, "session")
        first = keep.take()
        assert first.left == ("unreadable",)
        before = state_of(root, ignored=lambda path: path == b"unreadable")
        (root / "read-only").chmod(0o755)
        (root / "read-only" / "f").unlink()
        (root / "read-only" / "new").write_text("new")
        (root / "read-only").chmod(0o500)
        (root / "closed" / "f").write_text("new")
        last = keep.take()
        span = Span(bytes.fromhex(first.tree), bytes.fromhex(last.tree))
        proposal = keep.propose([span])
        assert not proposal.conflicts
        assert keep.carry_out(proposal).problems == ()
        assert state_of(root, ignored=lambda path: path == b"unreadable") == before
        # The agent closes a directory: what is in it is not seen, and comes back when it is opened.
        (root / "closed").chmod(0)
        done = keep.carry_out(keep.propose([Span(span.before, bytes.fromhex(keep.take().tree))]))
        assert not done.problems
        assert state_of(root, ignored=lambda path: path == b"unreadable") == before

    as_nobody(workspace, work)
