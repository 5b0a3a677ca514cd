"""Repetition: calls that bring nothing new, again and again.

Telling a model that it repeats itself does not help: the repeated text anchors it. So repeats are pruned from what it
is shown (`context.py`), and when it goes on regardless the run is stopped by name (exit 6).

What counts is a call with its result *in the same state of the workspace*. The state is made of the contents of the
files that changed in this prompt, so a test that runs after each edit is new each time, while edits that take each
other back lead to a state that was there before. Times in a result are no news; waiting is no repetition.
Knows calls and results, as they are in the log, so that a replay stops where the run did.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import msgspec

from laguna_agent.errors import LoopDetected
from laguna_agent.messages import ToolCall
from laguna_agent.tools.base import ToolResult

LIMIT = 5
"""The same call with the same result this often in one state of the workspace ends the run."""
REVERSALS = 4
"""The same change of the same state this often does: then it was taken back three times."""
SEEN, STALE = 2, 6
"""So many calls in a row of which each had been made that often before: a cycle, whatever its length."""
FAILURES = 8
"""The same error of the same tool this often in a row, whatever the arguments: a call that is mended in circles."""
WAITS = 100
"""The same look at something that still runs. A silent build may take its time; budgets and the clock hold too."""

_TIMES = re.compile(
    r"\b\d+(?:\.\d+)?\s?(?:ns|us|\u00b5s|ms|s|secs?|seconds?)\b|\b\d{1,2}:\d\d(?::\d\d(?:[.,]\d+)?)?\b|\b0x[0-9a-fA-F]{6,}\b"
)
_WAITING = re.compile(r"\bsleep\s+[\d.$]|\bwait\b|\bwatch\s|--watch\b")


def fingerprint(call: ToolCall, result_text: str) -> str:
    """The identity of a call with its result; the call's id does not count."""
    body = msgspec.json.encode((call.name, call.arguments, call.raw, result_text), order="deterministic")
    return hashlib.sha256(body).hexdigest()


class RepetitionGuard:
    """What the model did in one prompt, as far as it could do it again. `observe` raises LoopDetected."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
        self._alike: Counter[str] = Counter()
        self._files = _Files()
        self._stale = 0
        self._error, self._errors = "", 0

    def observe(self, call: ToolCall, result: ToolResult) -> None:
        """Note one executed call; raises LoopDetected where it is one repetition too many."""
        exact = fingerprint(call, result.text)
        alike = fingerprint(call, _TIMES.sub("", result.text))
        if waits(call, result):
            self._count(exact, WAITS, f"looked at the same {call.name} call {WAITS} times, and nothing had happened")
            return
        self._same_error(call, result)
        before, after = self._files.follow(call, result, alike)
        if before != after:
            self._count(f"{before}>{after}", REVERSALS, f"made and took back the same change {REVERSALS} times")
            alike = exact = f"{before}>{after}"
        else:
            self._count(before + exact, LIMIT, f"made the same {call.name} call with the same result {LIMIT} times")
        times = self._alike[before + alike]
        self._alike[before + alike] += 1
        self._stale = self._stale + 1 if times >= SEEN else 0
        if self._stale >= STALE:
            raise LoopDetected(f"the model went in a circle: its last {STALE} calls brought nothing new")

    def forgot(self) -> None:
        """Old results were taken from the model: to look at them again is no circle. The same five times still is."""
        self._alike.clear()
        self._stale = 0

    def _count(self, key: str, limit: int, words: str) -> None:
        self._seen[key] += 1
        if self._seen[key] >= limit:
            raise LoopDetected(f"the model {words}")

    def _same_error(self, call: ToolCall, result: ToolResult) -> None:
        # What is denied ends as denied, whatever the model tries next.
        error = "" if not result.is_error or result.text.startswith("Denied") else f"{call.name}: {result.text}"
        self._errors = self._errors + 1 if error and error == self._error else bool(error)
        self._error = error
        if self._errors >= FAILURES:
            raise LoopDetected(f"the model got the same error of {call.name} {FAILURES} times in a row")


def waits(call: ToolCall, result: ToolResult) -> bool:
    """Whether a call is one of somebody who waits: a look at a job that runs, or a command that sleeps."""
    if call.name != "shell":
        return False
    if call.arguments.get("job"):
        return result.exit_code is None and not result.is_error
    return _WAITING.search(str(call.arguments.get("command", ""))) is not None


class _Files:
    """The files that changed, each with what identifies its content, while that is not what it was at first."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._now: dict[str, str] = {}

    def follow(self, call: ToolCall, result: ToolResult, alike: str) -> tuple[str, str]:
        """The states before and after the call, equal where it changed nothing that was not as now."""
        for diff in result.diffs:
            # Somebody else may have changed it since the model did.
            self._is(diff.path, _identity(diff.old_text))
        before = self._state()
        for diff in result.diffs:
            self._is(diff.path, _identity(diff.new_text))
        if call.name == "shell":
            known = {diff.path for diff in result.diffs}
            for place in result.locations:
                if place.path not in known:
                    # Nobody knows what is in it; the same call that says the same is taken to have put the same there.
                    self._first.setdefault(place.path, "")
                    self._now[place.path] = alike
        return before, self._state()

    def _is(self, path: str, identity: str) -> None:
        if self._first.setdefault(path, identity) == identity:
            self._now.pop(path, None)
        else:
            self._now[path] = identity

    def _state(self) -> str:
        return hashlib.sha256(msgspec.json.encode(sorted(self._now.items()))).hexdigest()


def _identity(text: str | None) -> str:
    return "absent" if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
