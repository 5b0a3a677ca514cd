"""`kill -9` at any moment of an editing session: nothing is lost, nothing is left behind, and the files end up as if it
had never happened."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.faults.crashing import KINDS, EditingSession, Killed, Tree, Versions, tree
from tests.faults.editing import DONE, TURNS, answer
from tests.model_server import ModelServer


class Reference:
    """The undisturbed session: the files it ends with, and what each held on the way."""

    def __init__(self, folder: Path) -> None:
        server, workspace = ModelServer(), folder / "workspace"
        workspace.mkdir()
        self.versions = Versions(workspace)
        session = EditingSession(server, workspace, folder)

        def reply(body: object) -> object:
            self.versions.note()
            return answer(body)

        server.always(reply)  # type: ignore[arg-type]
        record = session.run_to_the_end()
        assert (record["exit_code"], record["text"]) == (0, DONE), record
        assert len(server.chats) == len(TURNS) + 1 == 31
        self.requests = len(server.chats)
        self.tree: Tree = tree(workspace)
        server.close()


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    folder = tmp_path / "reference"
    folder.mkdir()
    return Reference(folder)


def crash(reference: Reference, folder: Path, random: Random, kills: int, killed: Killed) -> int:
    """One session, killed at most `kills` times; returns how often it was."""
    server = ModelServer()
    workspace, home = folder / "workspace", folder / "home"
    workspace.mkdir(parents=True)
    home.mkdir()
    session = EditingSession(server, workspace, home)
    record, count = None, 0
    while record is None and count < kills:
        kind = random.choice(KINDS)
        record = session.run_until_killed(random, kind)
        if record is None:
            count += 1
            killed.moments[kind] += 1
            killed.found[session.require_nothing_lost()] += 1
            reference.versions.require(workspace)
    record = record or session.run_to_the_end()
    killed.runs += 1
    assert (record["exit_code"], record["outcome"], record["text"]) == (0, "completed", DONE), record
    assert tree(workspace) == reference.tree
    assert [path.name for path in session.temporary.iterdir() if not tried_out(path)] == []
    assert session.log is not None
    replayed = subprocess.run(
        [sys.executable, "-m", "laguna_agent", "run", "--replay", session.log, "--output", "json"],
        env=session.env, cwd=workspace, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert replayed.returncode == 0, replayed.stderr
    server.close()
    return count


def tried_out(path: Path) -> bool:
    """Whether it is what `tempfile` itself makes, and removes, to find out whether a directory can be written."""
    return re.fullmatch("[a-z0-9_]{8}", path.name) is not None and path.is_file() and path.stat().st_size <= 4


def crash_until(reference: Reference, folder: Path, seed: int, kills: int) -> Killed:
    """Sessions one after the other until so many kills have come."""
    random, killed, left = Random(seed), Killed(), kills
    while left:
        left -= crash(reference, folder / f"{killed.runs}", random, left, killed)
    print(f"{kills} kills in {killed.runs} sessions: {dict(killed.moments)}; found {dict(killed.found)}")
    return killed


def test_eight_kills(reference: Reference, tmp_path: Path) -> None:
    killed = crash_until(reference, tmp_path / "crashed", seed=1, kills=8)
    assert killed.moments.total() == 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_kills(reference: Reference, tmp_path: Path) -> None:
    killed = crash_until(reference, tmp_path / "crashed", seed=2, kills=200)
    assert killed.moments.total() == 200
    assert set(killed.moments) == set(KINDS)
    assert len(killed.found) >= 5
