"""Where a session's time and tokens went, read from its log: one row per request, with the calls that followed it.

Knows records; must not know how the rows are drawn. What was taken back was paid for too, so it is in. Logs of older
versions do not say how long answers took: their requests have no seconds.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from laguna_agent.agent.archive import title_of
from laguna_agent.agent.store import (
    AnyRecord,
    Checked,
    Ended,
    Opened,
    Prompted,
    Replied,
    Rewound,
    Shortened,
    Steered,
    ToolRan,
)
from laguna_agent.backend.base import RetryDelta, Usage, UsageDelta


class Called(msgspec.Struct):
    """One call, or a run of the check, and how long it took in seconds."""

    name: str
    seconds: float
    failed: bool = False


class Asked(msgspec.Struct):
    """One request: `seconds` until its answer had ended, `first` of them until something came; `attempts` counts those
    that failed too. `error` names the class of what ended it. `calls` ran after it, `notes` are other things that
    happened before the next one."""

    seconds: float
    first: float
    usage: Usage
    attempts: int = 1
    error: str = ""
    calls: list[Called] = []
    notes: list[str] = []

    @property
    def tool_seconds(self) -> float:
        """Seconds in the calls."""
        return sum(call.seconds for call in self.calls)


class Worked(msgspec.Struct):
    """One prompt. `seconds` is the wall time, None where the run was killed; `taken_back` says that it was rewound."""

    number: int
    title: str
    outcome: str = "interrupted"
    seconds: float | None = None
    evidence: str = ""
    taken_back: bool = False
    requests: list[Asked] = []

    @property
    def model_seconds(self) -> float:
        """Seconds in which the model was asked."""
        return sum(request.seconds for request in self.requests)

    @property
    def tool_seconds(self) -> float:
        """Seconds in which calls ran."""
        return sum(request.tool_seconds for request in self.requests)


class Timeline(msgspec.Struct):
    """A session's prompts, oldest first."""

    id: str
    model: str
    cwd: str
    created: str
    prompts: list[Worked] = []


def timeline(records: Iterable[AnyRecord]) -> Timeline:
    """The timeline of a log."""
    told = Timeline("", "", "", "")
    for record in records:
        match record:
            case Opened():
                if not told.id:
                    told.id, told.cwd, told.created = record.id, record.cwd, record.created
                told.model = record.model
            case Prompted(content=content):
                told.prompts.append(Worked(len(told.prompts) + 1, title_of(content)))
            case Rewound(prompts=number):
                standing = [each for each in told.prompts if not each.taken_back]
                for each in standing[-number:]:
                    each.taken_back = True
            case _ if told.prompts:
                _follow(told.prompts[-1], record)
    return told


def _follow(prompt: Worked, record: AnyRecord) -> None:
    last = prompt.requests[-1] if prompt.requests else None
    match record:
        case Replied():
            prompt.requests.append(_asked(record))
        case ToolRan(call=call, result=result) if last is not None:
            last.calls.append(Called(call.name, record.seconds, result.is_error))
        case Checked(run=run) if last is not None:
            last.calls.append(Called("check", record.seconds, run.exit_code != 0))
        case Steered() if last is not None:
            last.notes.append("the person said more")
        case Shortened(results=results) if last is not None:
            last.notes.append(f"{results} old results dropped")
        case Ended(result=result):
            prompt.outcome, prompt.seconds, prompt.evidence = result.outcome, result.seconds, result.evidence


def _asked(record: Replied) -> Asked:
    usage = next((delta.usage for delta in reversed(record.deltas) if isinstance(delta, UsageDelta)), Usage())
    retries = sum(isinstance(delta, RetryDelta) for delta in record.deltas)
    return Asked(record.seconds, record.first, usage, 1 + retries, record.error[0] if record.error else "")
