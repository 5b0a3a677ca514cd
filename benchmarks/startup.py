"""How long laguna-agent takes to start, against `python -c pass` in the same run, and what it weighs in memory.

    python benchmarks/startup.py [--rounds 15] [--strict]

Every round runs every command once (interleaved, so that a busy moment hits all alike); the table shows medians. The
ACP row is a real process: spawned, asked to `initialize` over newline-delimited JSON on stdio, timed to the answer, its
resident memory (children included) read at that moment. Peers that `small_model.py` installed are timed too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import peers
from acp_client import INITIALIZE, AgentError, Client, memory_mb
from arms import REPOSITORY

VERSION_LIMIT = 2.0
INITIALIZE_LIMIT = 15.0
MEMORY_LIMIT_MB = 60.0
ANSWER_LIMIT_SECONDS = 30.0
PEER_ROUNDS = 3


@dataclass
class Row:
    """One measured command. `limit` is a multiple of `python -c pass`, where the project promises one."""

    name: str
    argv: list[str]
    acp: bool = False
    limit: float | None = None
    rounds: int | None = None
    seconds: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


def laguna_agent() -> list[str]:
    """The installed console script beside this interpreter, else the module from this checkout."""
    script = Path(sys.executable).parent / "laguna-agent"
    return [str(script)] if script.exists() else [sys.executable, "-m", "laguna_agent"]


def rows() -> list[Row]:
    """What is measured, the yardstick first."""
    program = laguna_agent()
    found = [
        Row("python -c pass", [sys.executable, "-c", "pass"]),
        Row("laguna-agent --version", [*program, "--version"], limit=VERSION_LIMIT),
        Row("laguna-agent --help", [*program, "--help"]),
        Row("laguna-agent run --help", [*program, "run", "--help"]),
        Row("laguna-agent acp: spawn to initialize", [*program, "acp"], acp=True, limit=INITIALIZE_LIMIT),
    ]
    for name, executable in (("pi", peers.find_pi(install=False)), ("aider", peers.find_aider(install=False))):
        if executable is not None:
            found.append(Row(f"{name} --version", [str(executable), "--version"], rounds=PEER_ROUNDS))
    return found


def time_command(argv: list[str], environment: dict[str, str], folder: Path) -> float:
    """Seconds from spawn to exit. Raises RuntimeError with the last line of its errors when the command fails."""
    started = time.perf_counter()
    done = subprocess.run(
        argv, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        raise RuntimeError(f"{' '.join(argv)}: exit {done.returncode}: {last}")
    return seconds


def time_initialize(argv: list[str], environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """Seconds from spawn to the answer of `initialize`, and resident megabytes then. The process ends by end of input.

    Raises RuntimeError when no answer to `initialize` comes, or none in time.
    """
    client = Client(argv, environment, folder, folder / "stderr")
    try:
        answer = client.request("initialize", INITIALIZE, limit=ANSWER_LIMIT_SECONDS)
        seconds = time.perf_counter() - client.spawned
        memory, _ = memory_mb(client.pid)
        if "protocolVersion" not in answer:
            raise AgentError(f"no answer to initialize, but {answer!r}")
    except (AgentError, ValueError) as error:
        raise RuntimeError(f"{' '.join(argv)}: {error}") from error
    finally:
        client.close()
    return seconds, memory


def measure(measured: list[Row], rounds: int) -> None:
    """Fill the rows. One round before the first is thrown away: it writes the bytecode caches."""
    with tempfile.TemporaryDirectory(prefix="laguna-startup-") as name:
        folder = Path(name)
        environment = os.environ | {"HOME": name, "PYTHONPATH": str(REPOSITORY), "PI_OFFLINE": "1"}
        for number in range(-1, rounds):
            for row in measured:
                if row.rounds is not None and number >= row.rounds:
                    continue
                memory = None
                if row.acp:
                    seconds, memory = time_initialize(row.argv, environment, folder)
                else:
                    seconds = time_command(row.argv, environment, folder)
                if number >= 0:
                    row.seconds.append(seconds)
                    row.memory_mb += [] if memory is None else [memory]


def table(measured: list[Row]) -> str:
    """Medians, the fastest and slowest, the ratio to the first row and the promise."""
    yardstick = median(measured[0].seconds)
    lines = ["| command | median ms | min–max ms | × `python -c pass` | promised |", "|---|---|---|---|---|"]
    for row in measured:
        milliseconds = [1000 * seconds for seconds in row.seconds]
        spread = f"{min(milliseconds):.0f}–{max(milliseconds):.0f}"
        promised = f"≤ {row.limit:g}" if row.limit else ""
        ratio = median(row.seconds) / yardstick
        lines.append(f"| `{row.name}` | {median(milliseconds):.1f} | {spread} | {ratio:.2f} | {promised} |")
    for row in measured:
        if row.memory_mb:
            lines.append(f"\nResident memory at initialize: {median(row.memory_mb):.1f} MB (≤ {MEMORY_LIMIT_MB:g})")
    return "\n".join(lines)


def broken_promises(measured: list[Row]) -> list[str]:
    """One line for each limit that the medians miss."""
    yardstick = median(measured[0].seconds)
    lines = []
    for row in measured:
        ratio = median(row.seconds) / yardstick
        if row.limit and ratio > row.limit:
            lines.append(f"{row.name}: {ratio:.2f} times `python -c pass`, promised {row.limit:g}")
        if row.memory_mb and median(row.memory_mb) > MEMORY_LIMIT_MB:
            lines.append(f"{row.name}: {median(row.memory_mb):.1f} MB, promised {MEMORY_LIMIT_MB:g}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure how long laguna-agent takes to start.")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count (15)")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a promise is broken")
    settings = parser.parse_args()
    measured = rows()
    try:
        measure(measured, settings.rounds)
    except RuntimeError as error:
        raise SystemExit(str(error)) from error
    load = f"{os.getloadavg()[0]:.2f}"
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {load}, {settings.rounds} rounds")
    print(f"`laguna-agent` is `{' '.join(laguna_agent())}`\n")
    print(table(measured))
    broken = broken_promises(measured)
    print("\n" + ("\n".join(broken) if broken else "Every promise is kept."))
    return 1 if broken and settings.strict else 0


if __name__ == "__main__":
    sys.exit(main())
