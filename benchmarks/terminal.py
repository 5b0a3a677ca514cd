"""What the interactive face costs: the time to its input line, from a key to the screen, of a core, and memory.

    python benchmarks/terminal.py [--rounds 11] [--seconds 8] [--messages 2000] [--strict]

The real program runs on an emulated terminal (`tests/terminal/emulator.py`), the model (`stream_model.py`) in a process
of its own. The last line is JSON. Run it on a quiet machine: the emulator takes time of its own, which is in what is
measured from key to screen.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from arms import REPOSITORY
from own_process import own_process
from stream_model import LAST, MODEL

sys.path.insert(0, str(REPOSITORY))

from tests.terminal.emulator import Tty

PROMPT_LIMIT = 0.45
KEY_LIMIT_MS = 30.0
SHARE_LIMIT = 5.0
RATES = (100, 200)
BETWEEN_KEYS = 0.117
"""Seconds: not in step with the frames, which come twelve times a second."""


@dataclass
class Measured:
    """The figures. Times in seconds where no unit is named."""

    bare: list[float] = field(default_factory=list)
    """`python -c pass`."""
    prompt: list[float] = field(default_factory=list)
    """From the start of the program to its input line."""
    key_ms: list[float] = field(default_factory=list)
    """From a key to its character on the screen, while 200 tokens come a second."""
    share: dict[int, float] = field(default_factory=dict)
    """Percent of one core that the thread of the face takes, by tokens a second."""
    whole_share: dict[int, float] = field(default_factory=dict)
    """The same of the whole program: also the connection, its decoding, the session and its log."""
    frames: dict[int, float] = field(default_factory=dict)
    """Frames drawn a second, by tokens a second."""
    idle_share: float = 0.0
    fresh_mb: float = 0.0
    """Resident memory of a session without a message."""
    long_mb: float = 0.0
    """The same after a resumed session of that many messages was shown."""
    messages: int = 0
    long_prompt: float = 0.0
    """From the start of the program to the input line below that session."""


@contextmanager
def face(folder: Path, url: str, *arguments: str) -> Iterator[Tty]:
    """The program on a terminal of 100 columns, killed at the end."""
    tty = Tty(
        [sys.executable, "-m", "laguna_agent", *arguments],
        cwd=folder,
        env=environment(folder, url),
        rows=30,
        columns=100,
    )
    try:
        tty.wait_for(lambda _: at_the_input(tty), 120)
        yield tty
    finally:
        tty.close()


def environment(folder: Path, url: str) -> dict[str, str]:
    """A home of its own, and the model."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAGUNA_", "XDG_"))}
    ours = {"LAGUNA_BASE_URL": f"{url}/v1", "LAGUNA_MODEL": MODEL, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    return kept | ours | {"HOME": str(folder.parent / "home"), "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8"}


def at_the_input(tty: Tty) -> bool:
    """Whether one can type: the input line is drawn and the cursor is in it."""
    row, column = tty.cursor
    return column == 2 and tty.screen()[row].startswith(">") and tty.modes.bracketed_paste


def time_start(folder: Path, url: str, measured: Measured, rounds: int) -> None:
    """Interleaved with the yardstick; the first round writes the bytecode and is thrown away."""
    for number in range(-1, rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare = time.perf_counter() - began
        began = time.perf_counter()
        with face(folder, url):
            prompt = time.perf_counter() - began
        if number >= 0:
            measured.bare.append(bare)
            measured.prompt.append(prompt)


def stream(folder: Path, url: str, measured: Measured, rate: int, seconds: float, *, typing: bool) -> None:
    """One answer at `rate` tokens a second. Typed into, its keys are timed; else the processor's time is."""
    with face(folder, url) as tty:
        tty.wait_for("sandbox")
        tty.settle(0.5)
        tty.send(f"Stream {int(rate * seconds)} tokens at {rate} a second\r")
        tty.wait_for("Part 1", where="history")
        used, drawn = processor_seconds(tty.pid), processor_seconds(tty.pid, tty.pid)
        frames, began = tty.modes.frames, time.monotonic()
        while time.monotonic() < began + seconds - 2:
            if typing:
                measured.key_ms.append(1000 * one_key(tty))
            time.sleep(BETWEEN_KEYS)
        passed = time.monotonic() - began
        if not typing:
            measured.share[rate] = 100 * (processor_seconds(tty.pid, tty.pid) - drawn) / passed
            measured.whole_share[rate] = 100 * (processor_seconds(tty.pid) - used) / passed
            measured.frames[rate] = (tty.modes.frames - frames) / passed
        tty.wait_for(LAST, where="history")
        if rate == RATES[0] and not typing:
            tty.settle(0.5, 5)
            used = processor_seconds(tty.pid)
            time.sleep(2)
            measured.idle_share = 100 * (processor_seconds(tty.pid) - used) / 2


def one_key(tty: Tty) -> float:
    """Seconds from a key until its character stands behind the others."""
    column = tty.cursor[1]
    key = chr(ord("a") + column % 26)
    if column > 80:
        tty.send("\x15")
        tty.wait_for(lambda _: tty.cursor[1] == 2, in_frames=False)
        return one_key(tty)
    began = time.perf_counter()
    tty.send(key)
    tty.wait_for(lambda _: tty.cursor[1] == column + 1)
    return time.perf_counter() - began


def processor_seconds(pid: int, thread: int | None = None) -> float:
    """What a process, or one thread of it, has used of the processor, user and system. See proc_pid_stat(5)."""
    of = f"/proc/{pid}/stat" if thread is None else f"/proc/{pid}/task/{thread}/stat"
    fields = Path(of).read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory, without children."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def converse(folder: Path, url: str, prompts: int) -> None:
    """Have a session of that many prompts, each answered with a line."""
    from laguna_agent.agent.permissions import deny_all
    from laguna_agent.agent.session import Session
    from laguna_agent.config import Settings

    settings = Settings(model=MODEL, base_url=f"{url}/v1", sandbox="none", checkpoints=False)
    session = await Session.start(folder, settings, approver=deny_all)
    try:
        for number in range(prompts):
            async with aclosing(session.prompt(f"Question {number}: is it as I say?")) as events:
                async for _ in events:
                    pass
    finally:
        await session.aclose()


def weigh(folder: Path, url: str, measured: Measured, messages: int) -> None:
    """Memory without a session, and after one of that many messages was taken up again and shown."""
    with face(folder, url) as tty:
        tty.wait_for("sandbox")
        tty.settle(0.5)
        measured.fresh_mb = resident_mb(tty.pid)
    call = f"anyio.run(terminal.converse, Path({str(folder)!r}), {url!r}, {messages // 2})"
    script = f"import anyio, terminal; from pathlib import Path; {call}"
    inside = environment(folder, url) | {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), str(REPOSITORY)))}
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, env=inside, check=True)
    began = time.perf_counter()
    with face(folder, url, "--continue") as tty:
        last = f"Question {messages // 2 - 1}:"
        tty.wait_for(lambda _: at_the_input(tty) and last in "\n".join(tty.screen()), 120)
        measured.long_prompt = time.perf_counter() - began
        tty.settle(0.5)
        measured.long_mb, measured.messages = resident_mb(tty.pid), messages


def figures(measured: Measured) -> dict[str, float]:
    """The figures as one flat record."""
    fifties = quantiles(measured.key_ms, n=20, method="inclusive") if len(measured.key_ms) > 1 else [0.0] * 19
    prompt, bare = median(measured.prompt), median(measured.bare)
    found = {
        "prompt_s": round(prompt, 3),
        "bare_s": round(bare, 4),
        "prompt_ratio": round(prompt / bare, 1),
        "key_p50_ms": round(fifties[9], 1),
        "key_p95_ms": round(fifties[18], 1),
        "keys": len(measured.key_ms),
        "idle_cpu_percent": round(measured.idle_share, 1),
        "fresh_mb": round(measured.fresh_mb, 1),
        "long_mb": round(measured.long_mb, 1),
        "messages": measured.messages,
        "long_prompt_s": round(measured.long_prompt, 2),
    }
    for rate, share in measured.share.items():
        found |= {f"face_percent_{rate}": round(share, 1), f"cpu_percent_{rate}": round(measured.whole_share[rate], 1)}
        found |= {f"frames_{rate}": round(measured.frames[rate], 1)}
    return found


def table(found: dict[str, float]) -> str:
    """The figures for people, with what was promised."""
    rows = [
        ("to the input line", f"{found['prompt_s']:.3f} s", f"<= {PROMPT_LIMIT} s on a quiet machine"),
        ("the same, in `python -c pass`", f"{found['prompt_ratio']:.1f}", ""),
        ("key to screen at 200 tokens/s, p50", f"{found['key_p50_ms']:.1f} ms", ""),
        ("key to screen at 200 tokens/s, p95", f"{found['key_p95_ms']:.1f} ms", f"< {KEY_LIMIT_MS:.0f} ms"),
        *(
            (f"of a core at {rate} tokens/s, {what}", f"{found[f'{key}_percent_{rate}']:.1f} %", promise)
            for rate in RATES
            for what, key, promise in (("drawing", "face", f"< {SHARE_LIMIT:.0f} %"), ("the whole program", "cpu", ""))
            if f"cpu_percent_{rate}" in found
        ),
        ("of a core while nothing happens", f"{found['idle_cpu_percent']:.1f} %", ""),
        ("memory, a new session", f"{found['fresh_mb']:.0f} MB", ""),
        (f"memory, {found['messages']:.0f} messages taken up again", f"{found['long_mb']:.0f} MB", ""),
        ("to the input line below them", f"{found['long_prompt_s']:.2f} s", ""),
    ]
    lines = ["| what | measured | promised |", "|---|---:|---|"]
    return "\n".join(lines + [f"| {name} | {value} | {promise} |" for name, value, promise in rows])


def broken_promises(found: dict[str, float]) -> list[str]:
    """What is worse than was promised, a line each."""
    limits = [("prompt_s", PROMPT_LIMIT), ("key_p95_ms", KEY_LIMIT_MS)]
    limits += [(f"face_percent_{rate}", SHARE_LIMIT) for rate in RATES]
    return [f"{name}: {found[name]}, promised {limit}" for name, limit in limits if found.get(name, 0.0) > limit]


def measure(rounds: int, seconds: float, messages: int) -> Measured:
    """All of it."""
    measured = Measured()
    script = str(Path(__file__).with_name("stream_model.py"))
    with tempfile.TemporaryDirectory(prefix="laguna-terminal-") as name, own_process(script, 0) as url:
        folder = Path(name) / "workspace"
        folder.mkdir()
        (Path(name) / "home").mkdir()
        time_start(folder, url, measured, rounds)
        for rate in RATES:
            stream(folder, url, measured, rate, seconds, typing=False)
        stream(folder, url, measured, RATES[-1], seconds, typing=True)
        weigh(folder, url, measured, messages)
    return measured


def main() -> int:
    """Measure and print; with --strict exit 1 where a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each stream")
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    found = figures(measure(options.rounds, options.seconds, options.messages))
    print(table(found))
    broken = broken_promises(found)
    for line in broken:
        print(f"not kept: {line}")
    print(json.dumps(found))
    return 1 if broken and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
