"""Keep a plan that the person can follow."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from laguna_agent.messages import Location, PlanEntry, ToolKind
from laguna_agent.tools.base import Need, ToolContext, ToolResult, text_result
from laguna_agent.tools.workspace import Workspace


class PlanStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step."""

    content: str
    status: Literal["pending", "in_progress", "completed"] = "pending"


class PlanArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole plan; it replaces the last one."""

    steps: tuple[PlanStep, ...]


class Plan:
    """The tool `plan`."""

    name: ClassVar[str] = "plan"
    kind: ClassVar[ToolKind] = "think"
    arguments: ClassVar[type[msgspec.Struct]] = PlanArguments

    def title(self, args: PlanArguments) -> str:
        done = sum(step.status == "completed" for step in args.steps)
        return f"Plan: {done} of {len(args.steps)} steps done"

    def needs(self, args: PlanArguments, workspace: Workspace) -> Need | None:
        return None

    def locations(self, args: PlanArguments) -> tuple[Location, ...]:
        return ()

    async def run(self, args: PlanArguments, context: ToolContext) -> ToolResult:
        entries = tuple(PlanEntry(step.content, step.status) for step in args.steps)
        return text_result("Plan noted.", plan=entries)
