"""A session that does not end: what 1,000 turns cost in memory, on disk and in time, and how long it takes to open.

    python benchmarks/soak.py [--turns 1000] [--files 400] [--context 65536] [--strict] [--json FILE]

Drives a real Session over a git repository against a model in another process (`soak_model.py`); each turn is a prompt
with three calls (read, edit, shell). The overhead of a turn is the processor time of this process: what the model and
the commands take is in other processes. The prefix is counted by the model's side, byte for byte: the part of each
request that is the beginning of the one before. Requests right after a compaction are told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from arms import REPOSITORY
from soak_model import MODEL, soak_model

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

OVERHEAD_LIMIT = 1.2
"""How much more than an early turn a late one may take."""
PREFIX_LIMIT = 0.95
OPEN_LIMIT = 1.0
"""Seconds of processor time to open the finished session."""
WARM_UP = 5
"""The first turns of a session load and look at things once."""
AROUND = 10
"""Turns whose median is a turn's overhead: one alone may meet a collection of garbage."""


@dataclass
class Measured:
    """What was found, by turn where it is a list; memory in bytes, times in seconds."""

    turns: int
    overhead: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    log: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    early: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    failed: int = 0
    compactions: dict[str, int] = field(default_factory=dict)
    moved: set[int] = field(default_factory=set)
    requests: list[tuple[int, int]] = field(default_factory=list)
    checkpoints: list[float] = field(default_factory=list)
    opening: dict[str, float] = field(default_factory=dict)

    def around(self, turn: int) -> float:
        """The overhead of that turn and those before it."""
        return median(self.overhead[max(0, turn - AROUND) : turn])

    @property
    def ratio(self) -> float:
        """The last turns' overhead by that of early ones, each taken in turn with the other: a machine that is busier
        by then changes nothing."""
        return median(self.late) / median(self.early)

    def prefix(self, *, compacted: bool) -> float:
        """The share of prompt bytes that were the beginning of the request before; without those requests that come
        first or right after a compaction, or with them."""
        told = [each for at, each in enumerate(self.requests) if at and (compacted or at not in self.moved)]
        return sum(shared for _, shared in told) / max(1, sum(size for size, _ in told))


def make_workspace(folder: Path, files: int) -> list[str]:
    """A git repository of so many modules in folders of twenty; gives their names."""
    names = []
    for number in range(files):
        path = folder / f"package_{number // 20:02d}" / f"module_{number:03d}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        body = "\n\n".join(f"def part_{n}(given):\n    return given + VALUE * {n}" for n in range(1, 25))
        path.write_text(f'"""Module {number}."""\n\nVALUE = 1\n\n\n{body}\n')
        names.append(str(path.relative_to(folder)))
    identity = ("-c", "user.name=soak", "-c", "user.email=soak@example.org")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-qm", "start")):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return names


async def soak(turns: int, files: int, url: str, folder: Path, sandbox: Any = "auto") -> tuple[Measured, str]:
    """So many turns in a new session; gives what was measured, and the session's id."""
    from laguna_agent.agent.permissions import deny_all
    from laguna_agent.agent.session import Session
    from laguna_agent.config import Settings

    names = make_workspace(folder, files)
    settings = Settings(model=MODEL, base_url=f"{url}/v1", approve="all", sandbox=sandbox, retry_budget=5.0)
    session = await Session.start(folder, settings, approver=deny_all)
    measured = Measured(turns)
    try:
        for turn in range(1, turns + 1):
            await _turn(session, turn, names[turn * 7 % len(names)], measured)
        measured.requests = await anyio.to_thread.run_sync(told_by, url)
        fresh = await Session.start(folder, settings, approver=deny_all)
        try:
            await _compare(session, fresh, names, measured)
        finally:
            await fresh.aclose()
    finally:
        await session.aclose()
    return measured, session.id


async def _compare(old: Session, fresh: Session, names: list[str], measured: Measured) -> None:
    """Turns of a session that has just begun, in turn with further ones of the old."""
    for turn in range(1, WARM_UP + AROUND + 1):
        path = names[turn * 11 % len(names)]
        for session, number, times in ((old, measured.turns + turn, measured.late), (fresh, turn, measured.early)):
            more = Measured(turn)
            await _turn(session, number, path, more)
            measured.failed += more.failed
            if turn > WARM_UP:
                times += more.overhead


def told_by(url: str) -> list[tuple[int, int]]:
    """The bytes of every request, and how many of them the one before began with."""
    with urllib.request.urlopen(f"{url}/requests") as told:
        return [(size, shared) for size, shared in json.load(told)]


async def _turn(session: Session, turn: int, path: str, measured: Measured) -> None:
    from laguna_agent.agent import events
    from laguna_agent.agent.store import session_directory

    begun, latest = time.process_time(), time.perf_counter()
    failed = False
    prompt = f"Turn {turn}: raise VALUE in {path} by one."
    async with aclosing(session.prompt(prompt)) as going:
        async for event in going:
            if isinstance(event, events.Compaction) and event.status != "started":
                kind = "summarised" if event.text else "failed" if event.status == "failed" else "pruned"
                measured.compactions[kind] = measured.compactions.get(kind, 0) + 1
                measured.moved.add(len(measured.requests))
            elif isinstance(event, events.UsageUpdated):
                measured.requests.append((0, 0))
            elif isinstance(event, events.TurnEnded):
                failed = event.exit_code != 0
            elif event.__struct_config__.tag == "checkpoint":
                # It is made between the event before and its own.
                measured.checkpoints.append(time.perf_counter() - latest)
            latest = time.perf_counter()
    measured.overhead.append(time.process_time() - begun)
    measured.failed += failed
    measured.memory.append(resident_bytes())
    measured.log.append((session_directory(session.id) / "log.jsonl").stat().st_size)
    measured.messages.append(len(session.history))


def resident_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def open_again(session_id: str, folder: Path) -> dict[str, float]:
    """Seconds of processor time to take the session up again, and to list and show it with the real program beyond what
    it takes to do nothing. On a machine that does nothing else the clock says little more."""
    from laguna_agent.agent.permissions import deny_all
    from laguna_agent.agent.session import Session
    from laguna_agent.config import Settings

    begun = time.process_time()
    settings = Settings(model=MODEL, base_url="http://127.0.0.1:9/v1", sandbox="none")
    session = await Session.resume(session_id, settings, approver=deny_all, cwd=folder)
    resumed = time.process_time()
    shown = sum(1 for _ in session.replay_events())
    looked_back = time.process_time()
    await session.aclose()
    found = {"resume": resumed - begun, "look back": looked_back - resumed, "events": float(shown)}
    base = _program("--help")
    # The first list alone: the next ones find its summary kept.
    found["sessions list"] = max(0.0, _program("sessions", "list", rounds=1) - base)
    found["sessions show"] = max(0.0, _program("sessions", "show", session_id) - base)
    return found


def _program(*arguments: str, rounds: int = 3) -> float:
    """The shortest of some runs: the others met a busier machine."""
    times: list[float] = []
    for _ in range(rounds):
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "laguna_agent", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime)
    return min(times)


def table(measured: Measured) -> str:
    """The figures, as Markdown."""
    at = sorted({turn for turn in (10, 100, measured.turns) if turn <= measured.turns})
    lines = [
        "| turn | resident MB | overhead ms (median of ten) | log KB | messages in the history |",
        "|---|---|---|---|---|",
    ]
    for turn in at:
        lines.append(
            f"| {turn:,} | {measured.memory[turn - 1] / 1e6:.1f} | {1e3 * measured.around(turn):.1f} "
            f"| {measured.log[turn - 1] / 1e3:,.0f} | {measured.messages[turn - 1]} |"
        )
    what = ", ".join(f"{count} {kind}" for kind, count in sorted(measured.compactions.items())) or "none"
    checkpoint = f"{1e3 * median(measured.checkpoints):.0f} ms" if measured.checkpoints else "not yet"
    opening = ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in measured.opening.items() if name != "events")
    return "\n".join(
        [
            *lines,
            "",
            f"Turns that failed: {measured.failed} of {measured.turns}; requests: {len(measured.requests):,}.",
            f"Overhead of the turns behind {measured.turns + WARM_UP:,}, in turn with those behind a session's turn "
            f"{WARM_UP}: {1e3 * median(measured.late):.1f} and {1e3 * median(measured.early):.1f} ms, "
            f"{measured.ratio:.2f} times (≤ {OVERHEAD_LIMIT}).",
            f"Memory, turn {at[min(1, len(at) - 1)]:,} to {measured.turns:,}: {growth(measured) / 1e6:+.1f} MB.",
            f"Log: {measured.log[-1] / measured.turns / 1e3:.1f} KB a turn.",
            f"Prompt bytes that the request before began with: {100 * measured.prefix(compacted=False):.1f} % where "
            f"nothing was compacted (≥ {100 * PREFIX_LIMIT:.0f}), "
            f"{100 * measured.prefix(compacted=True):.1f} % in all.",
            f"Compactions: {what}. Checkpoint: {checkpoint}.",
            f"Opening the finished session, processor time (≤ {OPEN_LIMIT:g} s each): {opening}.",
        ]
    )


def growth(measured: Measured) -> int:
    """Bytes of resident memory from turn 100 (or the tenth) to the last."""
    return measured.memory[-1] - measured.memory[min(100, max(1, measured.turns // 10)) - 1]


def figures(measured: Measured) -> dict[str, Any]:
    """The same as data."""
    return {
        "turns": measured.turns,
        "failed": measured.failed,
        "overhead_ms": [round(1e3 * median(times), 2) for times in (measured.early, measured.late)],
        "overhead_ratio": round(measured.ratio, 3),
        "memory_bytes": [measured.memory[turn - 1] for turn in (10, 100, measured.turns) if turn <= measured.turns],
        "memory_growth_bytes": growth(measured),
        "log_bytes_per_turn": round(measured.log[-1] / measured.turns),
        "prefix_share": round(measured.prefix(compacted=False), 4),
        "prefix_share_with_compactions": round(measured.prefix(compacted=True), 4),
        "compactions": measured.compactions,
        "checkpoint_ms": round(1e3 * median(measured.checkpoints), 1) if measured.checkpoints else None,
        "opening_seconds": {name: round(value, 3) for name, value in measured.opening.items() if name != "events"},
    }


def broken_promises(measured: Measured) -> list[str]:
    """What is not as the project promises."""
    broken = [f"{measured.failed} turns failed"] if measured.failed else []
    if measured.ratio > OVERHEAD_LIMIT:
        broken.append(f"a late turn takes {measured.ratio:.2f} times an early one, promised {OVERHEAD_LIMIT}")
    if measured.prefix(compacted=False) < PREFIX_LIMIT:
        broken.append(f"the prefix is {measured.prefix(compacted=False):.3f} of the prompt, promised {PREFIX_LIMIT}")
    slow = {name: value for name, value in measured.opening.items() if name != "events" and value > OPEN_LIMIT}
    return broken + [f"{name} takes {value:.2f} s, promised {OPEN_LIMIT:g}" for name, value in slow.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=1_000)
    parser.add_argument("--files", type=int, default=400, help="modules of the workspace")
    parser.add_argument("--context", type=int, default=65_536, help="tokens of the model's window")
    parser.add_argument("--sandbox", default="auto")
    parser.add_argument("--json", type=Path, help="write the figures of every turn there")
    parser.add_argument("--keep", type=Path, help="do it in this new folder, and leave session and workspace there")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a promise is broken")
    options = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY))
    with tempfile.TemporaryDirectory() as temporary, soak_model(options.context) as url:
        folder = options.keep or temporary
        os.environ["XDG_STATE_HOME"] = os.environ["XDG_CONFIG_HOME"] = f"{folder}/state"
        workspace = Path(folder, "workspace")
        workspace.mkdir(parents=True)
        measured, session_id = anyio.run(soak, options.turns, options.files, url, workspace, options.sandbox)
        measured.opening = anyio.run(open_again, session_id, workspace)
    print(table(measured))
    print(json.dumps(figures(measured)))
    if options.json is not None:
        options.json.write_text(
            json.dumps({"overhead": measured.overhead, "log": measured.log, "memory": measured.memory})
        )
    broken = broken_promises(measured)
    for each in broken:
        print(f"broken: {each}", file=sys.stderr)
    return int(options.strict and bool(broken))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
