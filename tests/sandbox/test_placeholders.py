"""Placeholders: there while a sandbox is up, gone after, and nothing of the person's with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.directories import state_directory
from laguna_agent.errors import SandboxError
from laguna_agent.sandbox.placeholders import Placeholders, born
from tests.faults.shim import killed_at

HOLD = "import sys, time; from pathlib import Path; from laguna_agent.sandbox.placeholders import Placeholders\n"
HOLD += (
    "Placeholders(Path(sys.argv[1])).hold(tuple(map(Path, sys.argv[2:]))); print('held', flush=True); time.sleep(60)"
)


def records() -> list[Path]:
    return list((state_directory() / "sandbox" / "placeholders").glob("*.json"))


def test_made_and_removed(tmp_path: Path) -> None:
    absent = (tmp_path / "a", tmp_path / "b")
    placeholders = Placeholders(tmp_path)
    assert placeholders.hold(absent) == absent
    assert placeholders.hold(absent) == absent
    assert records()[0].stat().st_mode & 0o777 == 0o600
    placeholders.release()
    assert all(path.is_dir() for path in absent), "another warden of this process relies on them"
    placeholders.release()
    assert not any(path.exists() for path in absent)
    assert records() == []


def test_what_the_person_made_meanwhile_stays(tmp_path: Path) -> None:
    file, filled, own, before = (tmp_path / name for name in ("file", "filled", "own", "before"))
    before.mkdir()
    placeholders = Placeholders(tmp_path)
    assert set(placeholders.hold((file, filled, own, before))) == {file, filled, own, before}
    file.rmdir()
    file.write_text("mine")
    (filled / "x").write_text("mine")
    own.rename(tmp_path / "elsewhere")
    own.mkdir()
    placeholders.release()
    assert file.read_text() == (filled / "x").read_text() == "mine"
    assert own.is_dir()
    assert before.is_dir()


def test_a_killed_session_is_cleaned_up_after(tmp_path: Path) -> None:
    path = tmp_path / ".envrc"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    mine = Placeholders(tmp_path)
    mine.hold((path,))
    mine.release()
    assert path.is_dir(), "the other session lives"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    mine.hold(())
    assert not path.exists()
    mine.release()
    assert records() == []


def test_killed_while_they_are_made(tmp_path: Path) -> None:
    """At each call that changes a file: what was made is known, so the next session removes it."""
    for call in range(1, 40):
        workspace = tmp_path / f"{call}"
        workspace.mkdir()
        names = [str(workspace / name) for name in ("a", "b", "c")]
        script = HOLD.replace("time.sleep(60)", "sys.exit(3)")
        done = subprocess.run(
            [sys.executable, "-c", script, str(workspace), *names],
            env={**os.environ, **killed_at(call, "after")},
            capture_output=True,
            check=False,
        )
        Placeholders(workspace).tidy()
        assert list(workspace.iterdir()) == []
        if done.returncode == 3:
            break
    assert done.returncode == 3
    assert call > 10


def test_no_record_no_sandbox(tmp_path: Path) -> None:
    folder = state_directory() / "sandbox" / "placeholders"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("")
    with pytest.raises(SandboxError, match="absent names"):
        Placeholders(tmp_path).hold((tmp_path / "a",))
    assert not (tmp_path / "a").exists()


def test_a_process_is_told_from_a_later_one() -> None:
    assert born(os.getpid()) == born(os.getpid()) != ""
    assert born(2**22 + 1) == ""
