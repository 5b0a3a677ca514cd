"""What a checkpoint costs: the first one of a workspace, one where nothing or little changed, an undo; on disk too.

    python benchmarks/checkpoints.py [--files 10000] [--rounds 9] [--strict]

The workspace is a git repository of that many made-up source files in directories of twenty, with an ignore file of
thirty patterns. The rows are interleaved; the table shows medians. As a yardstick the same tree is put into an index of
its own by git (`git add --all` in a fresh repository outside, its own default settings), in the same run. The last
line is the same as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

LIMIT_MS = 150.0
"""What a checkpoint of 10,000 files may take where little changed."""
CHANGED = 10
"""Files that change between two prompts."""


def make_workspace(root: Path, files: int) -> None:
    """Source files of 5 to 200 lines, always the same ones, and a repository around them."""
    chosen = random.Random(1)
    for number in range(files):
        folder = root / f"package{number // 400}" / f"part{number // 20}"
        folder.mkdir(parents=True, exist_ok=True)
        lines = (f"def f{chosen.random()}(x): return x + {at}\n" for at in range(chosen.randrange(5, 200)))
        (folder / f"module{number}.py").write_text("".join(lines))
    patterns = [f"*.kind{number}" for number in range(20)] + [f"/out{number}/" for number in range(10)]
    (root / ".gitignore").write_text("\n".join(patterns) + "\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)


class Row:
    """What one kind of work took each time: milliseconds by the clock, and of processor time, children's too."""

    def __init__(self) -> None:
        self.clock: list[float] = []
        self.processor: list[float] = []

    def time(self, work: Callable[[], object]) -> None:
        """Do it once more."""
        clock, processor = time.perf_counter(), spent()
        work()
        self.clock.append(1000 * (time.perf_counter() - clock))
        self.processor.append(1000 * (spent() - processor))


def spent() -> float:
    """Seconds of processor time so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def change(root: Path, number: int) -> None:
    """Change some files, as a turn would."""
    modules = sorted(root.glob("package0/*/*.py"))
    for at in range(CHANGED):
        modules[(number * CHANGED + at) % len(modules)].write_text(f"# {number} {time.time_ns()}\n")


def git_add(root: Path, repository: Path) -> None:
    """The yardstick: git takes the same tree into a repository outside."""
    environment = {
        **os.environ,
        "GIT_DIR": str(repository),
        "GIT_WORK_TREE": str(root),
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    subprocess.run(["git", "add", "--all"], cwd=root, env=environment, check=True)
    subprocess.run(["git", "write-tree"], cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL)


def measure(root: Path, outside: Path, rounds: int) -> dict[str, Row]:
    """The rows by name."""
    from laguna_agent.checkpoints.keep import Keep
    from laguna_agent.checkpoints.plan import Span
    from laguna_agent.sandbox.policy import policy_for

    policy = policy_for(root)
    found: dict[str, Row] = {}

    def note(name: str, work: Callable[[], object]) -> None:
        found.setdefault(name, Row()).time(work)

    for number in range(3):
        shutil.rmtree(outside / "state", ignore_errors=True)
        shutil.rmtree(outside / "git", ignore_errors=True)
        subprocess.run(["git", "init", "-q", "--bare", str(outside / "git")], check=True)
        note("first of a workspace", Keep(policy, f"first{number}").take)
        note("git add, first", lambda: git_add(root, outside / "git"))
    keep = Keep(policy, "session")
    for number in range(rounds):
        note("first of a session", Keep(policy, f"later{number}").take)
        # What was read within the clock's tick is read again once.
        keep.take()
        note("nothing changed", keep.take)
        change(root, number)
        time.sleep(0.1)
        note(f"{CHANGED} files changed", keep.take)
        change(root, number + rounds)
        note("git add, 10 files changed", lambda: git_add(root, outside / "git"))
        before = keep.take()
        change(root, number + 2 * rounds)
        after = keep.take()
        span = Span(bytes.fromhex(before.tree), bytes.fromhex(after.tree))
        note(f"undo of {CHANGED} files", lambda span=span: keep.carry_out(keep.propose([span])))
    return found


def kept_bytes(outside: Path) -> int:
    """What the checkpoints take on disk."""
    return sum(path.stat().st_size for path in (outside / "state").rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--strict", action="store_true", help="exit 1 where a checkpoint takes longer than promised")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="laguna-checkpoints-") as name:
        outside = Path(os.path.realpath(name))
        os.environ |= {"XDG_STATE_HOME": str(outside / "state"), "XDG_CONFIG_HOME": str(outside / "config")}
        root = outside / "workspace"
        make_workspace(root, chosen.files)
        size = sum(path.stat().st_size for path in root.rglob("*.py"))
        found = measure(root, outside, chosen.rounds)
        kept = kept_bytes(outside)
    medians = {row: round(median(each.clock), 1) for row, each in found.items()}
    processor = {row: round(median(each.processor), 1) for row, each in found.items()}
    print(f"{chosen.files:,} files, {size / 1e6:.0f} MB; the store takes {kept / 1e6:.0f} MB\n")
    print("| what | median ms | min-max ms | processor ms |\n|---|---|---|---|")
    for row, each in found.items():
        print(f"| {row} | {medians[row]:.1f} | {min(each.clock):.0f}-{max(each.clock):.0f} | {processor[row]:.0f} |")
    figures = {"files": chosen.files, "bytes": size, "store_bytes": kept, "median_ms": medians}
    print(json.dumps(figures | {"processor_ms": processor}))
    late = [row for row in ("nothing changed", f"{CHANGED} files changed") if medians[row] > LIMIT_MS]
    for row in late:
        print(f"{row}: {medians[row]} ms, {LIMIT_MS:g} were promised", file=sys.stderr)
    return 1 if chosen.strict and late else 0


if __name__ == "__main__":
    sys.exit(main())
