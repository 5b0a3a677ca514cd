"""The CPU engine against its peers and the machine's limits: one run, interleaved rounds, medians.

    python benchmarks/cpu_peers.py --llama-python PYTHON                 # XS.2's geometry, 8 layers
    python benchmarks/cpu_peers.py --courses transformers                # 4 layers against transformers in bf16
    python benchmarks/cpu_peers.py --courses real --gguf FILE --llama-python PYTHON
    python benchmarks/cpu_peers.py --full --llama-python PYTHON          # 40 layers

Prints tables and at the end one JSON line. Each contender is a process of its own that sleeps while another is asked;
each round asks every contender for every column in turn, beginning with another one, and measures the machine's limits.
A round before the first does not count: it fills caches and picks the better of llama.cpp's ways to compute attention.
Ratios count only while our logits are within the tolerance of exact arithmetic on the same weights: the exit status is
1 where they are not. `README.md` says how the interpreter with llama.cpp is made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cpu_peers_asked import Contender, Process, warm
from cpu_peers_course import Column, Course, Settings, against_transformers, real_model, xs2
from cpu_peers_figures import Figures, guard_table, ratio_table, ratios, table
from cpu_peers_guard import judgement
from cpu_peers_limits import Limits

from laguna_agent.backend.laguna.threads import physical_cores

JUDGED, SINGLE = 640, 32
"""Tokens of the guard: the last fifth is judged, of those so many are read one at a time."""


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--courses", default="xs2", help="of xs2, transformers, real: commas between (%(default)s)")
    parser.add_argument("--layers", type=int, help="of XS.2's 40 (8; transformers: 4)")
    parser.add_argument("--full", action="store_true", help="40 layers, one contender open at a time")
    parser.add_argument("--gguf", type=Path, help="the file of the course `real`")
    parser.add_argument("--llama-python", type=Path, help="interpreter with llama-cpp-python built for this machine")
    parser.add_argument(
        "--flash", default="auto,off", help="of llama.cpp: auto, on, off; the best counts (%(default)s)"
    )
    parser.add_argument("--contenders", default="", help="only those with one of these words in their names")
    parser.add_argument("--prefill", help="tokens (512,2048; --full: 512)")
    parser.add_argument("--decode", help="tokens that stand before (128,2048,8192; --full: 128,2048)")
    parser.add_argument("--tokens", type=int, default=16, help="decoded at a time (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="that count (%(default)s)")
    parser.add_argument("--threads", type=int, default=physical_cores(), help="of every contender (%(default)s)")
    parser.add_argument("--judged", type=int, default=JUDGED, help="tokens of the guard; 0: no guard (%(default)s)")
    parser.add_argument("--gib", type=float, default=2.0, help="read for the read limit (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where files are made and kept (default: a temporary folder)")
    chosen = parser.parse_args(argv)
    # With 40 layers llama.cpp reads 20 tokens a second here, and reads anew in every round.
    if chosen.prefill is None:
        chosen.prefill = "512" if chosen.full else "512,2048"
    if chosen.decode is None:
        chosen.decode = "128,2048" if chosen.full else "128,2048,8192"
    return chosen


def numbers(text: str) -> list[int]:
    """`1,2` as numbers; nothing for an empty text."""
    return [int(word) for word in text.split(",") if word]


class Run:
    """One course: `figures` by contender, and the machine's `loads`, after one of the ways to go through the rounds.

    `scratch`: a folder for files of logits, 100 MB for each contender.
    """

    def __init__(self, course: Course, limits: Limits, settings: argparse.Namespace, scratch: Path) -> None:
        self.course, self.limits, self.settings, self.scratch = course, limits, settings, scratch
        self.loads: list[float] = []
        self.given: dict[Contender, Path] = {}
        self.figures = {one.name: Figures(one) for one in course.contenders}

    def together(self) -> None:
        """All open at once, all rounds."""
        with ExitStack() as stack:
            running = [(one, stack.enter_context(self.opened(one))) for one in self.course.contenders]
            for one, process in running:
                self.prepare(one, process)
            for number in range(self.settings.rounds):
                self.begin_round()
                for column in self.course.columns:
                    # No contender always follows the same one.
                    turn = number % len(running)
                    for one, process in running[turn:] + running[:turn]:
                        self.count(one, process, column)
            for one, process in running:
                self.judge(one, process)
        self.compare()

    def one_by_one(self) -> None:
        """One open at a time, for models of which memory holds one; all of them in every round."""
        for number in range(self.settings.rounds):
            self.begin_round()
            for one in self.course.contenders:
                self.alone(one, 1, number == self.settings.rounds - 1)
        self.compare()

    def one_after_the_other(self) -> None:
        """All rounds of one, then all of the next, each file removed at the end, for a disk that holds one."""
        for one in self.course.contenders:
            self.begin_round()
            self.alone(one, self.settings.rounds, True)
            self.compare()
            if one.file:
                one.file.unlink()

    def alone(self, contender: Contender, rounds: int, judged: bool) -> None:
        """Some rounds of one that is open alone."""
        with self.opened(contender) as process:
            self.prepare(contender, process)
            for _ in range(rounds):
                for column in self.course.columns:
                    self.count(contender, process, column)
            if judged:
                self.judge(contender, process)

    def begin_round(self) -> None:
        """The machine as it is now."""
        self.loads.append(os.getloadavg()[0])
        say(f"round {len(self.loads)}")
        self.limits.measure()

    @contextmanager
    def opened(self, contender: Contender) -> Iterator[Process]:
        """Its process, the model open."""
        if contender.make:
            contender.make()
        with Process(contender) as process:
            if contender.file:
                warm(contender.file)
            told = process.ask("open", **contender.opening)
            if contender.name in self.figures:
                figures = self.figures[contender.name]
                figures.opened = figures.opened or told
                figures.remember(told)
            say(f"{contender.name}: open")
            yield process

    def prepare(self, contender: Contender, process: Process) -> None:
        """The round that does not count. Of several variants it finds the best for each column, once."""
        figures = self.figures[contender.name]
        for column in self.course.columns:
            known = figures.variants.get(column)
            seconds = {}
            for variant in figures.opened["variants"] if known is None else [known]:
                if column.kind == "decode":
                    figures.remember(process.ask("fill", context=column.tokens, variant=variant))
                if known is None:
                    seconds[variant] = self._asked(process, column, variant)["seconds"]
            if known is None:
                figures.variants[column] = min(seconds, key=lambda variant: seconds[variant])
            say(f"{contender.name}: {column.name} prepared")

    def count(self, contender: Contender, process: Process, column: Column) -> None:
        """One measurement."""
        figures = self.figures[contender.name]
        told = self._asked(process, column, figures.variants[column])
        figures.add(column, told)
        figures.remember(told)

    def _asked(self, process: Process, column: Column, variant: str) -> dict[str, Any]:
        if column.kind == "prefill":
            return process.ask("prefill", tokens=column.tokens, variant=variant)
        return process.ask("decode", context=column.tokens, tokens=self.settings.tokens, variant=variant)

    def judge(self, contender: Contender, process: Process) -> None:
        """Its logits into a file, where somebody computes them exactly."""
        if contender.exact and self.course.ids:
            path = self.scratch / f"{contender.name}.logits"
            self._write(process, path, min(SINGLE, len(self.course.ids) // 10))
            self.given[contender] = path

    def _write(self, process: Process, path: Path, single: int) -> None:
        ids = [*self.course.ids]
        process.ask("judged", ids=ids, begin=len(ids) - len(ids) // 5, single=single, path=str(path))

    def compare(self) -> None:
        """The exact logits beside those that were given; each exact contender open alone."""
        for contender, given in self.given.items():
            assert contender.exact
            path = self.scratch / "exact.logits"
            with self.opened(contender.exact) as process:
                self._write(process, path, 0)
                vocabulary = process.ask("about")["vocabulary"]
            self.figures[contender.name].guard = judgement(path, given, vocabulary)
            given.unlink()
        self.given.clear()

    def told(self) -> list[str]:
        """The tables."""
        read = self.limits.read
        lines = [*table(self.course, self.figures, read), "", *guard_table(self.figures), ""]
        return [*lines, *ratio_table(self.course, self.figures, read), ""]

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        found = [
            {
                "ours": one.ours,
                "peer": one.peer,
                "column": one.column.name,
                "ratio": one.value,
                "floor": one.floor and one.floor.least,
                "aim": one.floor and one.floor.aim,
                "counts": one.counts,
            }
            for one in ratios(self.course, self.figures)
        ]
        contenders = {name: figures.as_json(self.limits.read) for name, figures in self.figures.items()}
        return {"course": self.course.title, "loads": self.loads, "contenders": contenders, "ratios": found}

    @property
    def holds(self) -> bool:
        """Whether the logits of all of ours are as they must be, as far as they were judged."""
        return all(one.guard is None or one.guard.holds for one in self.figures.values() if one.contender.ours)


def courses(settings: argparse.Namespace, folder: Path) -> Iterator[Course]:
    """What was asked for; files are made when their course begins."""
    columns = [Column("prefill", tokens) for tokens in numbers(settings.prefill)]
    columns += [Column("decode", tokens) for tokens in numbers(settings.decode)]
    wanted = [word.strip() for word in settings.contenders.split(",") if word.strip()]
    flash = settings.flash.split(",")
    held = Settings(settings.threads, folder, settings.llama_python, flash, wanted, columns, settings.judged)
    for name in settings.courses.split(","):
        if name == "xs2":
            yield xs2(held, 40 if settings.full else settings.layers or 8)
        elif name == "transformers":
            yield against_transformers(held, settings.layers or 4)
        elif name == "real" and settings.gguf:
            yield real_model(held, settings.gguf)
        else:
            raise SystemExit(f"there is no course {name!r} (`real` needs --gguf)")


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    told = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    return {"processor": names[0] if names else platform.machine(), "cores": physical_cores()}


def say(text: str) -> None:
    """How far it is."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    settings = options(argv)
    holds, told = True, []
    with tempfile.TemporaryDirectory(dir=settings.folder) as scratch:
        limits = Limits(Path(scratch), settings.threads, settings.gib)
        for course in courses(settings, settings.folder or Path(scratch)):
            if not course.contenders:
                raise SystemExit(f"{course.title}: no contender has a name with {settings.contenders!r}")
            run = Run(course, limits, settings, Path(scratch))
            if not settings.full:
                run.together()
            elif course.fits:
                run.one_by_one()
            else:
                say("the disk holds one file at a time: rounds are not interleaved")
                run.one_after_the_other()
            print("\n".join(run.told()), flush=True)
            told.append(run.as_json())
            holds &= run.holds
    kept = {"machine": machine(), "threads": settings.threads, "rounds": settings.rounds, "limits": limits.best}
    print(json.dumps({**kept, "courses": told}))
    return 0 if holds else 1


if __name__ == "__main__":
    # Read once, when a process loads its OpenMP runtime: what a person's shell has must not differ between contenders.
    os.environ.pop("OMP_WAIT_POLICY", None)
    sys.exit(main())
