"""Run shell commands: to the end, or in the background as jobs.

What a command run to its end changed on disk is part of its result; of what a job changes nobody is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.messages import FileDiff, Location, ToolKind
from laguna_agent.sandbox.launcher import CommandResult
from laguna_agent.tools.base import Grant, Need, ToolContext, ToolResult, text_result
from laguna_agent.tools.footprint import Change
from laguna_agent.tools.text import decode
from laguna_agent.tools.workspace import Job, Workspace

TIMEOUT_CAP = 3600
"""Seconds that a model may ask for at most."""
DIFF_CAP = 256 * 1024
"""Characters of old and new text that the diffs of one command may hold."""
SETTLE = 0.5
"""Seconds that a new background job may take to fail at once."""


class ShellArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `command`, or a background `job` to look at (waiting `timeout` seconds for its end) or to kill.

    `network` and `unconfined` are what the command wants of the sandbox.
    """

    command: str = ""
    timeout: float | None = None
    background: bool = False
    job: str = ""
    kill: bool = False
    network: bool = False
    unconfined: bool = False

    @property
    def grant(self) -> Grant | None:
        """What leave is needed for beyond the command itself."""
        return "unconfined" if self.unconfined else "network" if self.network else None


class Shell:
    """The tool `shell`."""

    name: ClassVar[str] = "shell"
    kind: ClassVar[ToolKind] = "execute"
    arguments: ClassVar[type[msgspec.Struct]] = ShellArguments

    def title(self, args: ShellArguments) -> str:
        if args.command:
            return f"$ {args.command}{' &' if args.background else ''}"
        return f"{'Kill' if args.kill else 'Output of'} {args.job or 'background job'}"

    def needs(self, args: ShellArguments, workspace: Workspace) -> Need | None:
        return Need("execute", args.command, grant=args.grant) if args.command else None

    def locations(self, args: ShellArguments) -> tuple[Location, ...]:
        return ()

    async def run(self, args: ShellArguments, context: ToolContext) -> ToolResult:
        if bool(args.command.strip()) == bool(args.job):
            raise ToolError("Give either a command to run or a job to look at.")
        if args.job:
            return await self._job(args, context)
        if args.background:
            job = await context.workspace.start(args.command, context.kind)
            await job.wait(SETTLE)
            return text_result(_job_report(job, context.output_cap), sandbox=job.result.sandbox)
        timeout = min(args.timeout or context.shell_timeout, TIMEOUT_CAP)
        if timeout <= 0:
            raise ToolError("The timeout must be more than 0 seconds.")
        workspace, footprint = context.workspace, context.footprint
        look = await footprint.before(workspace, context.ledger)
        result = await workspace.run(
            args.command, timeout=timeout, emit=context.emit, on_terminal=context.show_terminal, kind=context.kind
        )
        changes = await footprint.changes(workspace, look)
        notes = await workspace.follow(changes)
        return text_result(
            "\n".join([_report(result, timeout, context.output_cap), *notes]),
            is_error=result.timed_out,
            exit_code=result.exit_code,
            diffs=tuple(_diffs(changes, workspace)),
            locations=tuple(_locations(changes, workspace)),
            sandbox=result.sandbox,
        )

    async def _job(self, args: ShellArguments, context: ToolContext) -> ToolResult:
        jobs = context.workspace.jobs
        job = jobs.get(args.job)
        if job is None:
            raise ToolError(f"There is no job {args.job!r}; " + (f"there are {', '.join(jobs)}." if jobs else "none."))
        if args.kill:
            await job.end()
        elif args.timeout:
            await job.wait(min(args.timeout, TIMEOUT_CAP))
        result = job.result
        return text_result(_job_report(job, context.output_cap), exit_code=result.exit_code, sandbox=result.sandbox)


def _diffs(changes: Sequence[Change], workspace: Workspace) -> Iterator[FileDiff]:
    """What became of the files that the model had seen, as far as they are text and not too long."""
    room = DIFF_CAP
    for change in changes:
        before, after = (decode(data or b"") for data in (change.before, change.after))
        if not change.known or before is None or after is None:
            continue
        room -= len(before.text) + len(after.text)
        if room < 0:
            return
        shown = workspace.resolve(str(change.path)).shown
        yield FileDiff(shown, before.text, None if change.after is None else after.text)


def _locations(changes: Sequence[Change], workspace: Workspace) -> Iterator[Location]:
    for change in changes:
        if change.path.exists():
            line = None if change.before is None or change.after is None else _first_line(change.before, change.after)
            yield Location(workspace.resolve(str(change.path)).shown, line)


def _first_line(before: bytes, after: bytes) -> int:
    pairs = enumerate(zip(before.splitlines(), after.splitlines(), strict=False), 1)
    return next((number for number, (old, new) in pairs if old != new), 1)


def _report(result: CommandResult, timeout: float, cap: int) -> str:
    output = result.output.text(cap).rstrip("\n")
    if result.timed_out:
        status = f"[timed out after {timeout:g} s and was ended; give a longer timeout, or background=true]"
    else:
        status = f"[exit code {result.exit_code}]"
    if result.strays:
        status += f"\n[{result.strays} process(es) that it left behind were ended; use background=true to keep them]"
    status = "\n".join([status, *(f"[{line}]" for line in result.restored)])
    return f"{output}\n{status}" if output else f"(no output)\n{status}"


def _job_report(job: Job, cap: int) -> str:
    result = job.result
    state = "running" if result.exit_code is None else f"ended, exit code {result.exit_code}"
    output = result.output.text(cap).rstrip("\n")
    lines = [f"[{job.id}: {state}]", *(f"[{line}]" for line in result.restored), *([output] if output else [])]
    return "\n".join(lines)
