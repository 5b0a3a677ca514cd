"""Honest work goes on behind every wall."""

from __future__ import annotations

import http.server
import io
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hostile.case import Case
from tests.hostile.conftest import TIERS, once
from tests.hostile.driving import Outcome, drive
from tests.hostile.honest import TASKS, Task, sh
from tests.hostile.house import House

pytestmark = pytest.mark.timeout(600)
WHEEL = "tiny_honest-1.0-py3-none-any.whl"


@contextmanager
def package_index() -> Iterator[int]:
    """A package index on loopback with one package; its port."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as wheel:
        wheel.writestr("tiny_honest.py", "WORD = 'installed from an index'\n")
        wheel.writestr("tiny_honest-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-honest\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_honest-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_honest-1.0.dist-info/RECORD", "")

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
            body = held.getvalue() if self.path.endswith(".whl") else page
            self.send_response(200)
            self.send_header("Content-Type", "application/zip" if self.path.endswith(".whl") else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def as_case(task: Task, index: int) -> Case:
    def filled(value: object) -> object:
        return value.replace("@INDEX", str(index)) if isinstance(value, str) else value

    return Case(
        task.id, tuple((name, {key: filled(value) for key, value in args.items()}) for name, args in task.calls)
    )


def work(tier: str, network: bool) -> Outcome:
    """Do all tasks that need the network, or all that do not, in one run."""
    house = House()
    try:
        with package_index() as index:
            cases = [
                as_case(task, index) for task in TASKS if (tier in task.network) is network and tier not in task.without
            ]
            return drive(house, cases, tier, arguments=["--network"] if network else [], honest=True)
    finally:
        house.close()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
@pytest.mark.parametrize("tier", TIERS)
def test_works(kept: Path, available: Callable[[str], str], tier: str, task: Task) -> None:
    if reason := available(tier):
        pytest.skip(f"no {tier} here: {reason}")
    if lacking := [program for program in task.programs if shutil.which(program) is None]:
        pytest.skip(f"{', '.join(lacking)} not installed")
    if tier in task.without:
        pytest.skip(f"the tier {tier} cannot do this, and docs/security.md says so")
    network = tier in task.network
    outcome = once(kept, f"honest-{tier}-{network}", Outcome, lambda: work(tier, network))
    assert task.id in outcome.seen, outcome.stderr
    said = "\n".join(outcome.seen[task.id].results)
    for expected in task.gives:
        assert expected in said
    assert not re.search("|".join(task.never), said), said


def in_place(house: House, tier: str, cwd: Path, command: str) -> str:
    """What a command gives in a run that starts in `cwd`."""
    outcome = drive(house, [Case("one", (sh(command),))], tier, cwd=cwd, honest=True)
    assert "one" in outcome.seen, outcome.stderr
    return "\n".join(outcome.seen["one"].results)


PLACES = {
    "nothing-yet": "git init -q -b main . && echo a > a && git add a && git commit -qm fresh && git log --oneline",
    "below-a-repository": "echo a > a && git add a && git commit -qm fresh && git log --oneline | head -1",
    "linked-worktree": "echo a > a && git add a && git commit -qm fresh && git log --oneline | head -1",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tier", TIERS)
def test_commits(available: Callable[[str], str], house: House, tier: str, place: str) -> None:
    """Where the repository is not the workspace: it is made there, lies above it, or lies elsewhere."""
    if reason := available(tier):
        pytest.skip(f"no {tier} here: {reason}")
    cwd = house.top / "elsewhere" if place == "nothing-yet" else house.project / "sub"
    if place == "linked-worktree":
        cwd = house.top / "linked"
        subprocess.run(["git", "-C", house.project, "worktree", "add", "-q", cwd, "-b", "linked"], check=True)
    cwd.mkdir(exist_ok=True)
    assert "fresh" in in_place(house, tier, cwd, PLACES[place])
