"""The benchmark's tables in Markdown. Knows Results, nothing of how they came about."""

from __future__ import annotations

from statistics import median

from bug_run import Bug, Result

HEADINGS = (
    "arm",
    "single-file fixed",
    "two-file fixed",
    "held-out fixed",
    "all fixed",
    "prompt tokens",
    "of them cached",
    "completion tokens",
    "requests",
    "median s",
    "total s",
)


def summary(results: list[Result]) -> str:
    """One row for each arm, in the order in which the arms first ran."""
    rows = [HEADINGS, ("---",) * len(HEADINGS)]
    rows += [_summary_row(arm, [r for r in results if r.arm == arm]) for arm in _arms(results)]
    return _table(rows)


def _summary_row(arm: str, results: list[Result]) -> tuple[str, ...]:
    seconds = [r.seconds for r in results]
    return (
        arm,
        _fixed([r for r in results if r.kind == "single"]),
        _fixed([r for r in results if r.kind == "two_file"]),
        _fixed([r for r in results if r.split == "held_out"]),
        _fixed(results),
        f"{sum(r.prompt_tokens for r in results):,}",
        f"{sum(r.cached_tokens for r in results):,}",
        f"{sum(r.completion_tokens for r in results):,}",
        str(sum(r.requests for r in results)),
        f"{median(seconds):.0f}",
        f"{sum(seconds):.0f}",
    )


def _fixed(results: list[Result]) -> str:
    return f"{sum(r.fixed for r in results)}/{len(results)}" if results else "–"


def matrix(results: list[Result], bugs: list[Bug]) -> str:
    """One row for each bug: what each arm made of it, and in how many seconds."""
    arms = _arms(results)
    rows = [("bug", "kind", "split", *arms), ("---",) * (3 + len(arms))]
    for bug in bugs:
        cells = [next((_cell(r) for r in results if (r.arm, r.bug) == (arm, bug.id)), "–") for arm in arms]
        if any(cell != "–" for cell in cells):
            rows.append((bug.id, bug.kind.replace("_", "-"), bug.split.replace("_", "-"), *cells))
    return _table(rows)


def _cell(result: Result) -> str:
    if result.fixed:
        word = "**fixed**"
    elif result.timed_out:
        word = "time limit"
    else:
        word = "wrong" if result.changed else "no edit"
    return f"{word} {result.seconds:.0f} s"


def comparison(results: list[Result]) -> str:
    """How many times as many bugs our best arm fixes as the better peer, on the bugs that all of them ran."""
    arms = _arms(results)
    mine, theirs = [a for a in arms if a.startswith("ours")], [a for a in arms if not a.startswith("ours")]
    if not mine or not theirs:
        return ""
    shared = set.intersection(*({r.bug for r in results if r.arm == arm} for arm in arms))
    fixed = {arm: sum(r.fixed for r in results if r.arm == arm and r.bug in shared) for arm in arms}
    best, peer = max(mine, key=fixed.__getitem__), max(theirs, key=fixed.__getitem__)
    ratio = f"{fixed[best] / fixed[peer]:.1f} times as many" if fixed[peer] else "and the peers none"
    return f"On {len(shared)} shared bugs {best} fixed {fixed[best]}, {peer} {fixed[peer]}: {ratio}."


def _arms(results: list[Result]) -> list[str]:
    return list(dict.fromkeys(r.arm for r in results))


def _table(rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
