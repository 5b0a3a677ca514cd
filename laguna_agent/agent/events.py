"""The event stream: the one contract between the core and every face.

`Session.prompt()` yields these in order; the terminal draws them, `run --output stream-json` prints each as a JSON line
(`type` is the tag), the ACP face turns them into `session/update`. They are wire-neutral and hold no wall-clock time
and no random identifier of their own, so a replayed run gives the same bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from laguna_agent.messages import ContentBlock, FileDiff, ImageBlock, Location, PlanEntry, ToolKind

ToolStatus = Literal["pending", "in_progress", "completed", "failed"]
StopReason = Literal["end_turn", "max_tokens", "max_turn_requests", "refusal", "cancelled", "error"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """Base of all events."""

    @property
    def live_only(self) -> bool:
        """Whether it is for the face that listens now alone: it counts for nothing, is in no log and never replayed."""
        return False


class TurnStarted(Event, frozen=True, tag="turn_started"):
    """A prompt was taken; `turn` counts prompts of the session from 1, `sandbox` is what confines commands."""

    turn: int
    session_id: str
    model: str
    sandbox: str = "none"


class UserMessage(Event, frozen=True, tag="user_message"):
    """A prompt of the person; only in a conversation that is shown again. `given` is as in the log (`Prompted`)."""

    text: str
    images: tuple[ImageBlock, ...] = ()
    given: tuple[dict[str, object], ...] = ()


class Steered(Event, frozen=True, tag="steered"):
    """The person said this while the turn ran, and the model has it with the next request."""

    text: str
    images: tuple[ImageBlock, ...] = ()


class TextDelta(Event, frozen=True, tag="text_delta"):
    """A piece of the model's answer."""

    text: str


class ThoughtDelta(Event, frozen=True, tag="thought_delta"):
    """A piece of the model's reasoning."""

    text: str


class ToolCallStarted(Event, frozen=True, tag="tool_call"):
    """The model asked for a tool; status is pending. `title` is for people, `input` the decoded arguments."""

    id: str
    name: str
    kind: ToolKind
    title: str
    input: dict[str, Any] = {}
    locations: tuple[Location, ...] = ()


class ToolCallUpdate(Event, frozen=True, tag="tool_call_update"):
    """Progress or end of a call.

    `output` is a live fragment of a running command; `content` the whole result, present with completed or failed.
    `seconds` is how long the tool ran, `sandbox` what confined the command that it ran. `terminal` is the id of a
    terminal that the face itself provides, as long as it lives: such an update is live only, so no one can name a
    terminal that is gone.
    """

    id: str
    status: ToolStatus
    output: str = ""
    content: tuple[ContentBlock, ...] = ()
    diffs: tuple[FileDiff, ...] = ()
    locations: tuple[Location, ...] = ()
    exit_code: int | None = None
    seconds: float | None = None
    terminal: str = ""
    sandbox: str = ""

    @property
    def live_only(self) -> bool:
        return bool(self.terminal)


class PermissionOption(msgspec.Struct, frozen=True):
    """One answer that a person can give; `grant` says in words exactly what it allows."""

    id: str
    kind: Literal["allow_once", "allow_always", "reject_once", "reject_always"]
    grant: str


class PermissionRequested(Event, frozen=True, tag="permission_requested"):
    """The call waits for an answer of the person.

    `parts` are what a command really runs, one by one; `unusual` says in words what is not certain about it, and what
    of it leaves the sandbox or the workspace.
    """

    call_id: str
    title: str
    kind: ToolKind
    input: dict[str, Any]
    options: tuple[PermissionOption, ...]
    diffs: tuple[FileDiff, ...] = ()
    locations: tuple[Location, ...] = ()
    parts: tuple[str, ...] = ()
    unusual: tuple[str, ...] = ()


class PermissionResolved(Event, frozen=True, tag="permission_resolved"):
    """The answer; `reason` is set where a rule, not a person, decided, or the person gave one."""

    call_id: str
    allowed: bool
    reason: str = ""


class PlanUpdated(Event, frozen=True, tag="plan"):
    """The whole plan, always."""

    entries: tuple[PlanEntry, ...]


class UsageUpdated(Event, frozen=True, tag="usage"):
    """Totals of the session so far; `context_used` of `context_window` tokens went into the last request."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None
    context_used: int | None = None
    context_window: int | None = None


class ModelProgress(Event, frozen=True, tag="model_progress"):
    """How far the work before the model's first token is; live only, for it is another each time.

    `done` of `total` are bytes of the model ("loading", "packing"), tokens of the prompt ("reading"), or seconds until
    a failing server is asked again ("retrying"); a request that is "waiting" for others has no measure.
    """

    stage: Literal["waiting", "loading", "packing", "reading", "retrying"]
    model: str
    done: int = 0
    total: int = 0

    @property
    def live_only(self) -> bool:
        return True


class Retrying(Event, frozen=True, tag="retrying"):
    """Attempt number `attempt` at a request failed for `reason`, and the next one begins after `delay` seconds. `void`
    says that what had come of the answer counts no more, and what comes next begins it anew."""

    attempt: int
    delay: float
    reason: str
    void: bool = False


class Notice(Event, frozen=True, tag="notice"):
    """Something the person should know that is not the model's word."""

    severity: Literal["info", "warning", "error"]
    text: str


class CheckRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """One run of the command given with --check. `when` is before or after; `output` is its tail."""

    when: Literal["before", "after"]
    command: str
    exit_code: int
    output: str = ""


class Checkpoint(Event, frozen=True, tag="checkpoint"):
    """The files were kept before the first call of this prompt that may change them, so that it can be undone."""

    tree: str


class Rewound(Event, frozen=True, tag="rewound"):
    """The newest `prompts` prompts were taken back, with everything that followed; `text` is the first of them, for the
    person to change and send again. `files` are those that were put back as they had been."""

    prompts: int
    text: str
    files: tuple[str, ...] = ()


class Redone(Event, frozen=True, tag="redone"):
    """What was taken back last is there again, the conversation and `files`."""

    files: tuple[str, ...] = ()


class Forked(Event, frozen=True, tag="forked"):
    """A new session has the same conversation; this one is as it was."""

    session_id: str


class Compaction(Event, frozen=True, tag="compaction"):
    """The history is made to fit the window; `summary` says in a line what was done.

    Where the older part of the conversation gave place to a summary, `before` and `after` are the conversation's tokens
    and `text` is that summary. "failed": there is none, for the reason that `summary` says; room was made without.
    """

    status: Literal["started", "completed", "failed"]
    summary: str = ""
    before: int = 0
    after: int = 0
    text: str = ""


class TurnEnded(Event, frozen=True, tag="turn_ended"):
    """The turn is over; `outcome` and `exit_code` are those of `laguna_agent.errors`, `message` says why in a line.

    `error` is the name of the error class that ended it, such as AuthenticationFailed; a face may act on it. `evidence`
    and `evidence_note` are as in the final record.
    """

    stop_reason: StopReason
    outcome: str
    exit_code: int
    message: str = ""
    turns: int = 0
    files_changed: tuple[str, ...] = ()
    checks: tuple[CheckRun, ...] = ()
    error: str = ""
    evidence: str = ""
    evidence_note: str = ""
