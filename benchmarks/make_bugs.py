"""Write `benchmarks/bugs/`: small Python bugs made from OpenAI's HumanEval by a rule and a seed, never picked by hand.

    python benchmarks/make_bugs.py [--out DIRECTORY]

The rule is in `bugs/README.md`. Running it again gives the same bytes on every machine: order comes from SHA-256 of
the seed and the task's id, never from `random`, and cases are limited in executed lines, never in seconds.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import humaneval
from humaneval import Task
from mutations import Mutation, mutations

SEED = 2
SINGLE_EACH = 6
PLACES = ("callee", "caller", "both")
CHECK = "python -m unittest -q"
SPLITS = ("held_out", "tuning")
LONGEST_EXAMPLE = 90


@dataclass(frozen=True)
class Bug:
    """A task with its mistake: the broken modules and the observation that the report quotes."""

    task: Task
    place: str
    categories: list[str]
    broken: dict[str, str]
    call: str
    observed: str
    expected: str


def order(*parts: object) -> str:
    """A stable pseudo-random key for these parts under the seed."""
    return hashlib.sha256(":".join(map(str, (SEED, *parts))).encode()).hexdigest()


def body_lines(task: Task) -> int:
    """Lines of the caller's code after its docstring."""
    source = next(iter(task.modules.values()))
    function = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == task.entry_point)
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    assert function.end_lineno is not None
    return function.end_lineno - body[0].lineno + 1 if body else 0


def candidates(task: Task, file: str, used: Counter[str]) -> list[Mutation]:
    """Possible mistakes in one file: kinds not used yet first, then pseudo-random."""
    found = mutations(task.modules[file], task.functions[file])
    return sorted(
        found, key=lambda m: (used[m.category], order(task.task_id, file, m.category), order(task.task_id, m))
    )


def observed(task: Task, modules: dict[str, str]) -> list[tuple[bool, str]] | None:
    """The cases' results, or None where this is no fair bug: no import, nothing or everything fails, no end."""
    try:
        results = humaneval.run_cases(task, modules)
    except (SyntaxError, NameError, TypeError):
        return None
    unfair = any(seen in {"raises NameError", "raises UnboundLocalError", "never ends"} for _, seen in results)
    passed = sum(ok for ok, _ in results)
    return None if unfair or passed in {0, len(results)} else results


def break_file(task: Task, file: str, used: Counter[str]) -> tuple[Mutation, dict[str, str]] | None:
    """The first fair mistake in this file."""
    for mutation in candidates(task, file, used):
        broken = task.modules | {file: mutation.apply(task.modules[file])}
        if observed(task, broken) is not None:
            return mutation, broken
    return None


def make_bug(task: Task, place: str, used: Counter[str]) -> Bug | None:
    """The task with a mistake in the named place, or None where none is fair."""
    files = list(task.modules)
    chosen = {"caller": files[:1], "callee": files[1:], "both": files}[place]
    broken = dict(task.modules)
    categories: list[str] = []
    for file in chosen:
        made = break_file(task, file, used + Counter(categories))
        if made is None:
            return None
        broken[file] = made[1][file]
        categories.append(made[0].category)
    results = observed(task, broken)
    if results is None:
        return None
    for case, (passed, seen) in zip(task.cases, results, strict=True):
        call = f"{task.entry_point}({case.arguments})"
        if not passed and len(call) + len(seen) + len(case.expected) <= LONGEST_EXAMPLE:
            return Bug(task, place, categories, broken, call, seen, case.expected)
    return None


def report(bug: Bug) -> str:
    """What a user would write: what misbehaves, with one failing example."""
    seen = bug.observed if bug.observed.startswith("raises") else f"returns {bug.observed}"
    symptom = f"`{bug.call}` {seen}, but it should return {bug.expected}."
    if len(bug.task.modules) == 1:
        return f"There is a bug in {bug.task.entry_point}.py: {symptom} Please fix it."
    return f"{symptom} Please find the bug and fix it."


def choose() -> dict[str, list[Bug]]:
    """The bugs of each split. Held-out bugs are drawn first."""
    tasks = sorted(humaneval.load(), key=lambda task: order(task.task_id))
    tasks = [t for t in tasks if all(ok for ok, _ in humaneval.run_cases(t, t.modules))]
    singles = [t for t in tasks if len(t.modules) == 1 and 4 <= body_lines(t) <= 30]
    pairs = [t for t in tasks if len(t.modules) == 2]
    used: Counter[str] = Counter()
    chosen: dict[str, list[Bug]] = {}
    for split in SPLITS:
        bugs = [_draw(singles, "caller", used) for _ in range(SINGLE_EACH)]
        bugs += [_draw(pairs, place, used) for place in PLACES]
        chosen[split] = bugs
    return chosen


def _draw(tasks: list[Task], place: str, used: Counter[str]) -> Bug:
    """Take the first task that gives a fair bug in this place."""
    for task in list(tasks):
        bug = make_bug(task, place, used)
        if bug is not None:
            tasks.remove(task)
            used.update(bug.categories)
            return bug
    raise ValueError(f"no task left for a mistake in the {place}")


def write(bug: Bug, folder: Path) -> None:
    """Write one bug: `project/` (what an agent gets), `reference/` (the modules as they were) and `bug.json`."""
    for name, modules in (("project", bug.broken), ("reference", bug.task.modules)):
        (folder / name).mkdir(parents=True)
        for file, source in modules.items():
            (folder / name / file).write_text(source, encoding="utf-8")
    (folder / "project" / bug.task.test_name).write_text(bug.task.test_source(), encoding="utf-8")
    record = {
        "id": folder.name,
        "prompt": report(bug),
        "check": CHECK,
        "source": bug.task.task_id,
        "kind": "single" if len(bug.task.modules) == 1 else "two_file",
        "split": folder.parent.name,
        "place": bug.place,
        "mistakes": bug.categories,
    }
    (folder / "bug.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def write_all(out: Path) -> list[Path]:
    """Write every bug under `out/<split>/<id>`; returns the folders. Refuses to overwrite."""
    folders = []
    for split, bugs in choose().items():
        for bug in bugs:
            folder = out / split / bug.task.entry_point
            write(bug, folder)
            folders.append(folder)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the bug corpus (the rule: bugs/README.md).")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "bugs", help="where tuning/ and held_out/ go"
    )
    for folder in write_all(parser.parse_args().out):
        print(folder)


if __name__ == "__main__":
    main()
