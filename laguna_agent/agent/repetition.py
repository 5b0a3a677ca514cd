"""Repetition: the same call with the same result again and again.

Telling a model that it repeats itself does not help: the repeated text anchors it. So repeats are pruned from what it
is shown (`context.py`), and when it goes on regardless the run is stopped by name (exit 6).
"""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec

from laguna_agent.errors import LoopDetected
from laguna_agent.messages import ToolCall
from laguna_agent.tools.base import ToolResult

# The same call giving the same result this often since the workspace last changed ends the run. Polling a
# background job gives different results; re-running a failing test after an edit follows a change.
LIMIT = 5


def fingerprint(call: ToolCall, result_text: str) -> str:
    """The identity of a call with its result; the call's id does not count."""
    body = msgspec.json.encode((call.name, call.arguments, call.raw, result_text), order="deterministic")
    return hashlib.sha256(body).hexdigest()


class RepetitionGuard:
    """Counts identical calls since the last change of the workspace."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def observe(self, call: ToolCall, result: ToolResult) -> None:
        """Note one executed call; raises LoopDetected at the limit."""
        if result.diffs:
            self._seen.clear()
            return
        key = fingerprint(call, result.text)
        self._seen[key] += 1
        if self._seen[key] >= LIMIT:
            raise LoopDetected(f"the model made the same {call.name} call with the same result {LIMIT} times")
