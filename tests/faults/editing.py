"""A scripted model with thirty turns of editing to do, which looks before it repeats what was interrupted.

What it says follows from the posted conversation alone: which calls it made, and what came of them. So a record that is
lost makes it do something twice, and that shows in the files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.model_server import Part, text, tool_call

DONE = "All thirty are done."
_GOOD = ("Created ", "Wrote ", "Edited ")


@dataclass(frozen=True)
class Step:
    """One call to make once. `path` and `mark` are where its effect is to be seen, and what then stands there."""

    tool: str
    args: dict[str, Any]
    path: str
    mark: str


def shell(command: str, path: str, mark: str) -> Step:
    return Step("shell", {"command": command}, path, mark)


def write(path: str, content: str) -> Step:
    return Step("write", {"path": path, "content": content}, path, content.splitlines()[-1])


def edit(path: str, old: str, new: str) -> Step:
    return Step("edit", {"path": path, "old": old, "new": new}, path, new)


def _round(n: int) -> list[list[Step]]:
    """Six turns: texts and programs, Unicode and CRLF, replacing and appending, one call and several."""
    name, script, windows = f"src/mod_{n}.py", f"bin/run_{n}.sh", f"dos/zeile_{n}.txt"
    body = "".join(f"def part_{i}():\n    return {i * n}\n\n\n" for i in range(40))
    return [
        [write(name, f"{body}LAST_{n} = 'one'\n")],
        [
            shell(rf"mkdir -p dos; printf 'erste\r\nzweite\r\nende {n}\r\n' > {windows}", windows, f"ende {n}"),
            write(f"grüße/naïve 文件 {n}.txt", f"Schlüssel\n世界 {n}\n"),
        ],
        [edit(windows, "zweite", f"Zweite, mit ß {n}"), edit(name, f"LAST_{n} = 'one'", f"LAST_{n} = 'two'")],
        [
            shell(
                rf"mkdir -p bin; : > {script}; chmod 755 {script}; printf '#!/bin/sh\necho {n}\n' > {script}",
                script,
                f"echo {n}",
            )
        ],
        # What may happen only once.
        [shell(f"echo line {n} >> list.txt", "list.txt", f"line {n}"), edit(script, f"echo {n}", f"echo changed {n}")],
        [edit(f"grüße/naïve 文件 {n}.txt", f"世界 {n}", f"世界 changed {n}"), write("state.txt", f"so far: {n}\n")],
    ]


TURNS: list[list[Step]] = [turn for n in range(1, 6) for turn in _round(n)]
STEPS = [(number, step) for number, step in enumerate(step for turn in TURNS for step in turn)]


def answer(body: Any) -> list[Part] | Part:
    """The next answer: the calls of the first turn that is not done, else the last word."""
    results = _results(body["messages"])
    number = 0
    for turn in TURNS:
        calls = []
        for step in turn:
            calls += _next(number, step, results)
            number += 1
        if calls:
            return calls
    return text(DONE, pieces=2)


def _results(messages: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any], str]]:
    """Every call that the conversation tells of, with its arguments and what came of it, in order."""
    calls: dict[str, tuple[str, dict[str, Any], str]] = {}
    for message in messages:
        for call in message.get("tool_calls") or ():
            calls[call["id"]] = call["function"]["name"], json.loads(call["function"]["arguments"]), ""
        if message["role"] == "tool":
            name, args, _ = calls[message["tool_call_id"]]
            calls[message["tool_call_id"]] = name, args, str(message["content"])
    return [*calls.values()]


def _next(number: int, step: Step, results: list[tuple[str, dict[str, Any], str]]) -> list[Part]:
    # The limit says for which step it looks.
    look = {"path": step.path, "limit": 1_000 + number}
    mine = [(args == look, result) for _, args, result in results if args in (look, step.args)]
    if not mine:
        return [tool_call(step.tool, step.args, pieces=2)]
    looked, result = mine[-1]
    if looked and "Interrupted" not in result:
        return [] if step.mark in result else [tool_call(step.tool, step.args, pieces=2)]
    if result.startswith(_GOOD) or result.endswith("[exit code 0]"):
        return []
    # Somebody who was interrupted looks at what is there first.
    return [tool_call("read", look, pieces=1)]
