"""`laguna-agent doctor`: what works, what does not, and what to type next."""

from __future__ import annotations

from argparse import Namespace

from laguna_agent.cli.parsing import Commands, add_cwd, add_json, add_settings, settings_of
from laguna_agent.cli.printing import show, show_json, show_table

EXIT_UNFIT = 2


def add_to(commands: Commands) -> None:
    """Add `doctor`."""
    parser = commands.add("doctor", "check the installation, the configuration and the model server", doctor)
    add_settings(parser, "model", "base_url")
    add_cwd(parser)
    add_json(parser)


def doctor(line: Namespace) -> int:
    """Carry it out; exit 0 only if a turn could run."""
    from laguna_agent.cli.findings import examine
    from laguna_agent.event_lines import printable
    from laguna_agent.session_choice import working_directory

    findings = examine(working_directory(line.cwd), settings_of(line))
    fit = all(finding.status != "fail" for finding in findings)
    if line.json:
        show_json({"ok": fit, "findings": findings})
        return 0 if fit else EXIT_UNFIT
    show_table([(f"{each.status:4}", each.name, printable(" ".join(each.detail.split()))) for each in findings])
    steps = [each.next for each in findings if each.next and each.status == "fail"]
    show("")
    show("a turn can run: laguna-agent run PROMPT" if fit else "no turn can run yet; next: " + "; ".join(steps))
    return 0 if fit else EXIT_UNFIT
