"""`laguna-agent doctor`: what works, what does not, and what to type next."""

from __future__ import annotations

from typing import Annotated

import typer

from laguna_agent.cli.options import BaseUrl, Cwd, Json, Model
from laguna_agent.cli.printing import show, show_json, show_table

EXIT_UNFIT = 2
SandboxOnly = Annotated[
    bool, typer.Option("--sandbox", help="try every sandbox of this machine out, and print what each holds and costs")
]


def doctor(
    model: Model = None, base_url: BaseUrl = None, cwd: Cwd = None, as_json: Json = False, sandbox: SandboxOnly = False
) -> int:
    """Check the installation, the configuration and the server. Exits 0 only if a turn could run."""
    from laguna_agent.event_lines import printable
    from laguna_agent.findings import examine
    from laguna_agent.session_choice import working_directory

    if sandbox:
        from laguna_agent.cli.sandbox_report import report_sandbox
        from laguna_agent.config import load

        return 0 if report_sandbox(load(working_directory(cwd), {}), as_json=as_json) else EXIT_UNFIT
    findings = examine(working_directory(cwd), {"model": model, "base_url": base_url})
    fit = all(finding.status != "fail" for finding in findings)
    if as_json:
        show_json({"ok": fit, "findings": findings})
        return 0 if fit else EXIT_UNFIT
    show_table([(f"{each.status:4}", each.name, printable(" ".join(each.detail.split()))) for each in findings])
    steps = [each.next for each in findings if each.next and each.status == "fail"]
    show("")
    show("a turn can run: laguna-agent run PROMPT" if fit else "no turn can run yet; next: " + "; ".join(steps))
    return 0 if fit else EXIT_UNFIT
