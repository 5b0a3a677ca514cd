"""How a run ended: the final record, and which outcome an error stands for.

The record is a contract with scripts and CI (README, "Exit codes"): it is written for every run, also after a
signal, and its `exit_code` is the program's.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from laguna_agent.agent.events import CheckRun, StopReason
from laguna_agent.agent.evidence import Evidence
from laguna_agent.crash import describe_crash
from laguna_agent.errors import (
    EXIT_COMPLETED,
    EXIT_INTERNAL,
    EXIT_SIGINT,
    EXIT_SIGTERM,
    BudgetSpent,
    ContentFiltered,
    LagunaError,
    ModelStopped,
)
from laguna_agent.messages import Message


class RunRecord(msgspec.Struct, frozen=True, tag_field="type", tag="result"):
    """The final record of a run.

    `turns` counts model requests, `cost` is in US dollars (None: the price is unknown), `seconds` is wall time,
    `text` the model's last answer.

    `evidence` says what stands behind it: "verified" (a test or the check passed after the last edit), "unverified"
    (files were changed, and nothing that passed came after), "none_needed" (nothing was changed); "" where the run came
    to no turn. `evidence_note` says it in a few words, such as "the last test run predates the last edit".
    """

    outcome: str
    stop_reason: StopReason
    exit_code: int
    message: str
    text: str
    turns: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: float | None
    seconds: float
    files_changed: tuple[str, ...]
    checks: tuple[CheckRun, ...]
    denied: tuple[str, ...]
    sandbox: str
    session_id: str
    model: str
    evidence: Evidence = ""
    evidence_note: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """Why a turn ended."""

    outcome: str
    stop_reason: StopReason
    exit_code: int
    message: str = ""
    error: str = ""


def record_without_turn(verdict: Verdict, *, session_id: str = "", model: str = "") -> RunRecord:
    """The final record of a run that came to no turn, or whose turn left none."""
    return RunRecord(
        outcome=verdict.outcome,
        stop_reason=verdict.stop_reason,
        exit_code=verdict.exit_code,
        message=verdict.message,
        text="",
        turns=0,
        input_tokens=0,
        output_tokens=0,
        cached_tokens=0,
        reasoning_tokens=0,
        cost=None,
        seconds=0.0,
        files_changed=(),
        checks=(),
        denied=(),
        sandbox="none",
        session_id=session_id,
        model=model,
    )


COMPLETED = Verdict("completed", "end_turn", EXIT_COMPLETED)
INTERRUPTED = Verdict("interrupted", "cancelled", EXIT_SIGINT, "interrupted; resume with --continue")
TERMINATED = Verdict("terminated", "cancelled", EXIT_SIGTERM, "terminated; resume with --continue")


def verdict_of(error: LagunaError) -> Verdict:
    """The verdict for an error that ended a turn."""
    stop: StopReason = "error"
    if isinstance(error, BudgetSpent):
        stop = "max_tokens" if error.budget == "tokens" else "max_turn_requests"
    elif isinstance(error, ModelStopped):
        stop = {"length": "max_tokens", "refusal": "refusal", "content_filter": "refusal"}.get(error.reason, "end_turn")  # type: ignore[assignment]
    elif isinstance(error, ContentFiltered):
        stop = "refusal"
    elif error.exit_code >= 6:
        stop = "end_turn"
    return Verdict(error.outcome, stop, error.exit_code, str(error).strip(), type(error).__name__)


def bug_verdict(error: BaseException, *, session: str = "", log: Iterable[str] = ()) -> Verdict:
    """The verdict for an exception that nobody meant to raise; `describe_crash` writes a report of it."""
    return Verdict("internal_error", "error", EXIT_INTERNAL, describe_crash(error, session=session, log=log))


def last_answer(history: list[Message]) -> str:
    """The text of the newest assistant message that has any."""
    return next((m.text for m in reversed(history) if m.role == "assistant" and m.text.strip()), "")
