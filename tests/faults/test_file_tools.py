"""The file tools by themselves, in a process without a session: killed at any call, and where the clock goes back. What
the whole program makes of such things is in `test_crash.py` and `test_process_*.py`."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.sandbox.policy import policy_for
from laguna_agent.tools.files import Files
from tests.faults.process_runs import leftovers
from tests.faults.shim import jumping_clock, killed_at

DAY = 86_400
WRITE = """
import sys
from pathlib import Path
from laguna_agent import atomic
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.tools.files import Files
root = Path(sys.argv[1])
if sys.argv[2] == "named":
    # As on a file system that has no files without a name.
    atomic._NAMELESS = None
Files(policy_for(root)).write(root / "new" / "file.txt", b"new\\n" * 3_000)
Files(policy_for(root)).write(root / "file.txt", b"new\\n" * 3_000)
"""


# Before a call is after the one before it.
@pytest.mark.parametrize(
    ("when", "kind"),
    [("half", "nameless"), pytest.param("after", "nameless", marks=pytest.mark.slow), ("half", "named")],
)
def test_killed_while_a_file_is_written(workspace: Path, when: str, kind: str) -> None:
    """At every call that changes a file: the old content or the new, and nothing beside it that is not swept."""
    old, new, found = b"old\n" * 2_000, b"new\n" * 3_000, set()
    for call in range(1, 40):
        (workspace / "file.txt").write_bytes(old)
        done = subprocess.run(
            [sys.executable, "-c", WRITE, str(workspace), kind],
            env={**os.environ, **killed_at(call, when)}, capture_output=True, check=False,
        )  # fmt: skip
        made, replaced = workspace / "new" / "file.txt", workspace / "file.txt"
        assert not made.exists() or made.read_bytes() == new
        assert replaced.read_bytes() in (old, new)
        found.add((made.exists(), replaced.read_bytes() == new))
        left = leftovers(workspace)
        assert len(left) <= 1
        files = Files(policy_for(workspace))
        files.sweep(made)
        files.sweep(replaced)
        assert leftovers(workspace) == []
        shutil.rmtree(workspace / "new", ignore_errors=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert found == {(False, False), (True, False), (True, True)}


def test_what_somebody_is_writing_is_not_swept(workspace: Path) -> None:
    (workspace / "file.txt").write_text("old")
    files = Files(policy_for(workspace))
    mine = workspace / ".file.txt.0123456789ab.tmp"
    with mine.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        files.sweep(workspace / "file.txt")
        assert mine.exists()
    files.sweep(workspace / "file.txt")
    assert not mine.exists()


LINKED = """
import os, sys
from pathlib import Path
from laguna_agent.errors import ToolError
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.tools.files import Files
root, clock, key = map(Path, sys.argv[1:])
files = Files(policy_for(root))
(root / "one").write_text("1")
os.link(root / "one", root / "two")
assert files.read(root / "two", 9) == b"1"
clock.write_text("0")
os.link(key, root / "mine")
try:
    print(files.read(root / "mine", 9))
except ToolError as error:
    print(error)
"""


def test_a_link_to_a_key_made_after_the_clock_went_back(workspace: Path, tmp_path: Path) -> None:
    """What was known of second names was known at a later time than the link's."""
    key, clock = tmp_path / "home" / ".ssh" / "key", tmp_path / "clock"
    key.parent.mkdir()
    key.write_text("secret")
    clock.write_text(str(DAY))
    done = subprocess.run(
        [sys.executable, "-c", LINKED, str(workspace), str(clock), str(key)],
        env={**os.environ, **jumping_clock(clock)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{workspace / 'mine'} is another name of a file that is hidden; it is not read.\n"
