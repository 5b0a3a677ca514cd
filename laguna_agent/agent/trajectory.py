"""A session log as an ATIF trajectory, for the tools that evaluate and train agents.

ATIF is Harbor's Agent Trajectory Interchange Format, version 1.8 (github.com/harbor-framework/harbor,
rfcs/0001-trajectory-format.md; the models in `harbor.models.trajectories` are its validator). Readers refuse keys that
they do not know, so what ATIF has no field for goes into `extra`, which it allows at every level.

One step is one message to the model or one answer of it; the results of an answer's calls are that step's observation.
What the person took back is left out, its cost too: a trajectory is one conversation.
Nothing that may be a secret is in it (`exports`). An image is named, not embedded: ATIF refers to files, and the log
has the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from laguna_agent.agent.choosing import CHOOSE
from laguna_agent.agent.conversation import in_force
from laguna_agent.agent.exports import for_export
from laguna_agent.agent.store import (
    AnyRecord,
    Checked,
    Described,
    Ended,
    Opened,
    Permitted,
    Prompted,
    Redone,
    Replied,
    Rewound,
    Said,
    Steered,
    ToolRan,
    iterate_log,
)
from laguna_agent.backend.base import ReasoningDelta, RetryDelta, TextDelta, Usage, UsageDelta
from laguna_agent.errors import UsageError
from laguna_agent.messages import ContentBlock, Message, TextBlock, ToolCall

VERSION = "ATIF-v1.8"

Json = dict[str, Any]


def atif(path: Path) -> Json:
    """The log at `path` as the JSON object of a trajectory; raises UsageError where nothing was said yet."""
    building, records = _Trajectory(), list(iterate_log(path))
    for record in in_force(records):
        building.add(record)
    trajectory = building.whole(path)
    taken_back = _taken_back(records)
    if taken_back:
        trajectory["extra"]["prompts_taken_back"] = taken_back
    exported: Json = for_export(trajectory)
    return exported


def _taken_back(records: list[AnyRecord]) -> int:
    """Prompts that were taken back and not brought again."""
    counts: list[int] = []
    for record in records:
        if isinstance(record, Rewound):
            counts.append(record.prompts)
        elif isinstance(record, Redone):
            del counts[-1:]
    return sum(counts)


class _Trajectory:
    """The trajectory as far as the records have come."""

    def __init__(self) -> None:
        self.opened: Opened | None = None
        self.model = ""
        self.ended: Ended | None = None
        self.steps: list[Json] = []
        self.usages: list[Usage] = []
        self._agent: Json = {}
        self._prompt: Prompted | None = None
        self._permitted: dict[str, bool] = {}

    def add(self, record: AnyRecord) -> None:
        match record:
            case Opened():
                self._flush_prompt()
                self.opened = self.opened or record
            case Described():
                self.model = record.model
            case Prompted():
                self._flush_prompt()
                self._prompt = record
            case Said(message=message):
                self._said(message, opening=record.strategy != CHOOSE)
            case Steered(said=said):
                self._step("user", _text(said.message.content))
            case Replied():
                self._replied(record)
            case Permitted():
                self._permitted[record.call_id] = record.allowed
            case ToolRan():
                self._ran(record)
            case Checked(run=run):
                extra = {"check": run.when, "exit_code": run.exit_code}
                step = self._step("system", f"check {run.when} the work: {run.command}", extra)
                step["observation"] = {"results": [{"content": run.output}]}
            case Ended():
                self.ended = record

    def whole(self, path: Path) -> Json:
        self._flush_prompt()
        if self.opened is None or not self.steps:
            raise UsageError(f"{path} holds no conversation yet")
        name, _, version = self.opened.program.partition(" ")
        trajectory: Json = {
            "schema_version": VERSION,
            "session_id": self.opened.id,
            "agent": {"name": name, "version": version or "unknown", "model_name": self.model or self.opened.model},
            "steps": self.steps,
            "final_metrics": _totals(self.usages, len(self.steps)),
            "extra": {"cwd": self.opened.cwd, "created": self.opened.created},
        }
        if self.ended is not None:
            result = self.ended.result
            trajectory["extra"] |= {
                "outcome": result.outcome,
                "exit_code": result.exit_code,
                "message": result.message,
                "files_changed": list(result.files_changed),
            }
        return trajectory

    def _step(self, source: str, message: str, extra: Json | None = None) -> Json:
        step: Json = {"step_id": len(self.steps) + 1, "source": source, "message": message}
        if extra:
            step["extra"] = extra
        self.steps.append(step)
        return step

    def _flush_prompt(self) -> None:
        """A prompt that the model was never shown, because the run ended first, is still the person's word."""
        if self._prompt is not None:
            self._step("user", _text(self._prompt.content))
            self._prompt = None

    def _said(self, message: Message, *, opening: bool) -> None:
        if message.role == "assistant":
            self._answer(message)
        elif message.role == "tool":
            self._observe(message.tool_call_id, _text(message.content))
        elif message.role == "system":
            self._step("system", message.text)
        elif self._prompt is not None and opening:
            self._prompt = None
            self._step("user", _text(message.content))
        elif not message.tool_call_id:
            # The program speaks to the model in the person's role, as servers want it.
            self._step("user", _text(message.content), {"automatic": True})

    def _replied(self, record: Replied) -> None:
        last = max((at for at, delta in enumerate(record.deltas) if isinstance(delta, RetryDelta)), default=-1)
        arrived = record.deltas[last + 1 :]
        step = self._agent = self._step("agent", "".join(d.text for d in arrived if isinstance(d, TextDelta)))
        thought = "".join(d.text for d in arrived if isinstance(d, ReasoningDelta))
        if thought:
            step["reasoning_content"] = thought
        step["llm_call_count"] = 1
        effort = self.opened.settings.get("reasoning") if self.opened else None
        if effort:
            step["reasoning_effort"] = effort
        for delta in arrived:
            if isinstance(delta, UsageDelta):
                self.usages.append(delta.usage)
                step["metrics"] = _metrics(delta.usage)
        if record.error is not None:
            step["extra"] = {"error": {"type": record.error[0], "message": record.error[1]}}

    def _answer(self, message: Message) -> None:
        step = self._agent
        step["message"] = _text(message.content)
        if message.reasoning:
            step["reasoning_content"] = message.reasoning
        for call in message.tool_calls:
            self._call(call)

    def _call(self, call: ToolCall) -> None:
        calls = self._agent.setdefault("tool_calls", [])
        if any(known["tool_call_id"] == call.id for known in calls):
            return
        entry: Json = {"tool_call_id": call.id, "function_name": call.name, "arguments": call.arguments}
        if call.error:
            entry["extra"] = {"error": call.error, "raw": call.raw}
        calls.append(entry)

    def _ran(self, record: ToolRan) -> None:
        if not self._agent:
            return
        # A call that arrived as text is in no message, only in what was run.
        self._call(record.call)
        evidence: Json = {"is_error": record.result.is_error, "seconds": record.seconds}
        if record.result.exit_code is not None:
            evidence["exit_code"] = record.result.exit_code
        if record.call.id in self._permitted:
            evidence["permitted"] = self._permitted.pop(record.call.id)
        self._observe(record.call.id, _text(record.result.content), evidence)

    def _observe(self, call_id: str, content: str, extra: Json | None = None) -> None:
        """Give a call its result, unless it has one: what a tool gave is said to the model afterwards."""
        known = [call["tool_call_id"] for call in self._agent.get("tool_calls", ())]
        results = self._agent.setdefault("observation", {"results": []})["results"] if call_id in known else None
        if results is None or any(result["source_call_id"] == call_id for result in results):
            return
        results.append({"source_call_id": call_id, "content": content} | ({"extra": extra} if extra else {}))


def _text(content: Sequence[ContentBlock]) -> str:
    return "".join(
        block.text if isinstance(block, TextBlock) else f"[{block.mime_type}, {len(block.data) * 3 // 4} bytes]"
        for block in content
    )


def _metrics(usage: Usage) -> Json:
    metrics: Json = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
    }
    if usage.cost is not None:
        metrics["cost_usd"] = usage.cost
    if usage.reasoning_tokens:
        metrics["extra"] = {"reasoning_tokens": usage.reasoning_tokens}
    return metrics


def _totals(usages: Iterable[Usage], steps: int) -> Json:
    usages = list(usages)
    totals: Json = {
        "total_prompt_tokens": sum(usage.input_tokens for usage in usages),
        "total_completion_tokens": sum(usage.output_tokens for usage in usages),
        "total_cached_tokens": sum(usage.cached_tokens for usage in usages),
        "total_steps": steps,
    }
    costs = [usage.cost for usage in usages if usage.cost is not None]
    if costs and len(costs) == len(usages):
        totals["total_cost_usd"] = sum(costs)
    return totals
