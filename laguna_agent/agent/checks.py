"""The command given with --check: run before and after as evidence, its failure told to the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from laguna_agent.agent.events import CheckRun, Notice
from laguna_agent.agent.store import Checked
from laguna_agent.errors import CheckFailed, ToolError
from laguna_agent.visible import visible

if TYPE_CHECKING:
    from laguna_agent.agent.turn import Turn
    from laguna_agent.tools.workspace import Workspace

TIMEOUT = 600.0
"""Seconds; a check that takes longer counts as failed. --max-time cuts it earlier."""
TAIL = 6_000
"""Characters of output kept as evidence."""


class Check:
    """The person's command; it needs no leave, for the person chose it."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.runs: list[CheckRun] = []
        self.moving = False
        """Whether a background command changed files while the last run was under way."""

    async def run(self, when: Literal["before", "after"], turn: Turn) -> CheckRun:
        """Run it in the workspace and keep the evidence."""
        # Checks write too, if only what they compile.
        await turn.execution.before_writing()

        async def produce() -> Checked:
            tools = turn.execution.tools
            busy = when == "after" and any(job.result.exit_code is None for job in tools.workspace.jobs.values())
            look = await tools.footprint.before(tools.workspace, tools.ledger) if busy else None
            with turn.telemetry.span("check", when) as span:
                code, output = await self._run(tools.workspace)
                span.facts["exit_code"] = code
            moving = look is not None and bool(await tools.footprint.changes(tools.workspace, look))
            return Checked(CheckRun(when, self.command, code, visible(output)), moving, round(span.seconds, 3))

        checked = await turn.tape.take(Checked, produce)
        self.runs.append(checked.run)
        turn.execution.evidence.checked(checked.run, moving=checked.moving)
        self.moving = checked.moving
        verdict = "passes" if checked.run.exit_code == 0 else f"fails (exit {checked.run.exit_code})"
        await turn.emit(Notice("info", f"check {when}: {checked.run.command} {verdict}"))
        return checked.run

    async def _run(self, workspace: Workspace) -> tuple[int, str]:
        """Its exit code and the end of its output, by a shell's rules: 124 for too long, 126 for not to be started."""
        try:
            result = await workspace.run(self.command, timeout=TIMEOUT)
        except ToolError as error:
            return 126, str(error)
        code = 124 if result.timed_out or result.exit_code is None else result.exit_code
        return code, result.output.text(TAIL)

    def failed(self, run: CheckRun) -> CheckFailed:
        """The error for a turn that ends with the check failing."""
        return CheckFailed(f"the check still fails (exit {run.exit_code}): {run.command}")
