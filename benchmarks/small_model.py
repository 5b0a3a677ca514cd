"""How many small bugs a real 1.5B model fixes with laguna-agent in each edit format, with pi and with aider.

    python benchmarks/small_model.py --gguf qwen2.5-coder-1.5b-instruct-q4_k_m.gguf
    python benchmarks/small_model.py --gguf FILE --arms ours-auto,pi --split tuning --json results.jsonl --resume
    python benchmarks/small_model.py --engine fast --arms ours-auto        # our own engine instead of llama.cpp

One llama.cpp server (the wheel `xllamacpp`) serves every arm in one run; a counting proxy measures tokens and requests
alike for all. Each result is appended to `--json` as its bug ends, and `--resume` goes on after a break. The bugs:
`bugs/README.md`; the peers' setup: `peers.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import report
from arms import ARMS
from bug_run import Bug, Result, load_bugs, run_bug
from counting_proxy import CountingProxy
from engine_server import engine_server
from model_server import model_server
from peers import PeerError

CORPUS = Path(__file__).parent / "bugs"


def options(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, default=os.environ.get("LAGUNA_BENCH_GGUF"), help="the model's weights")
    parser.add_argument("--server", help="use this running llama.cpp server (http://HOST:PORT) instead of starting one")
    parser.add_argument("--engine", choices=("fast", "exact"), help="serve with our own engine and this arithmetic")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"comma-separated, of: {', '.join(ARMS)}")
    parser.add_argument("--bugs", help="comma-separated ids (default: all)")
    parser.add_argument("--split", choices=("tuning", "held_out"), help="only this half")
    parser.add_argument("--kind", choices=("single", "two_file"), help="only this kind")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds one arm may work on one bug (150)")
    parser.add_argument("--json", type=Path, help="append each result to this file as a JSON line")
    parser.add_argument("--resume", action="store_true", help="skip what --json already holds, and count it")
    parser.add_argument("--logs", type=Path, default=Path("small_model_logs"), help="agents' output and model traffic")
    settings = parser.parse_args(argv)
    if not (settings.server or settings.engine) and (settings.gguf is None or not Path(settings.gguf).is_file()):
        parser.error("no model: pass --gguf FILE (or LAGUNA_BENCH_GGUF), or --server URL of a running llama.cpp")
    if unknown := [name for name in settings.arms.split(",") if name not in ARMS]:
        parser.error(f"unknown arms: {', '.join(unknown)} (known: {', '.join(ARMS)})")
    return settings


def chosen_bugs(settings: argparse.Namespace) -> list[Bug]:
    """The bugs that the options name; exits with one line for an unknown id."""
    bugs = load_bugs(CORPUS)
    if settings.bugs:
        wanted = settings.bugs.split(",")
        unknown = set(wanted) - {bug.id for bug in bugs}
        if unknown:
            raise SystemExit(f"unknown bugs: {', '.join(sorted(unknown))}")
        bugs = [bug for bug in bugs if bug.id in wanted]
    return [b for b in bugs if settings.split in {None, b.split} and settings.kind in {None, b.kind}]


def earlier_results(path: Path | None) -> list[Result]:
    """What a broken-off run left; a half-written last line is dropped (that bug runs again)."""
    if path is None or not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(Result(**json.loads(line)))
        except ValueError:
            continue
    return found


@contextmanager
def server_of(settings: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The base URL of the server, started here unless one was named, and the token it wants, or ""."""
    if settings.server:
        yield settings.server.rstrip("/"), ""
    elif settings.engine:
        with engine_server(settings.engine, settings.logs / "server.log") as served:
            yield served
    else:
        with model_server(Path(settings.gguf), settings.logs / "server.log") as url:
            yield url, ""


def main(argv: list[str] | None = None) -> int:
    settings = options(argv)
    bugs = chosen_bugs(settings)
    try:
        arms = [ARMS[name]() for name in settings.arms.split(",")]
    except PeerError as error:
        raise SystemExit(str(error)) from error
    settings.logs.mkdir(parents=True, exist_ok=True)
    results = earlier_results(settings.json) if settings.resume else []
    done = {(result.arm, result.bug) for result in results}
    with server_of(settings) as (upstream, token):
        proxy = CountingProxy(upstream, token)
        for arm in arms:
            for bug in bugs:
                if (arm.name, bug.id) in done:
                    continue
                result = run_bug(arm, bug, proxy, settings.limit, settings.logs)
                results.append(result)
                print(result.as_json(), file=sys.stderr, flush=True)
                if settings.json:
                    with settings.json.open("a", encoding="utf-8") as lines:
                        lines.write(result.as_json() + "\n")
    print(report.summary(results), report.matrix(results, bugs), report.comparison(results), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
