"""`laguna-agent selftest`: every kernel against its reference on this machine's GPU. stdout carries the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from laguna_agent.cli.doctor import EXIT_UNFIT
from laguna_agent.cli.options import Json, Model
from laguna_agent.cli.printing import show, show_json, show_table

if TYPE_CHECKING:
    from laguna_agent.backend.kernels.cuda.selftest import Report

Again = Annotated[bool, typer.Option("--again", help="try everything out anew, whatever an earlier self-test found")]


def selftest(model: Model = None, again: Again = False, as_json: Json = False) -> int:
    """Compare every GPU kernel with the reference, for MODEL's sizes or those of all published models.

    Exits 0 only if all are right. The result is kept: an engine on this GPU does without the kernels that were wrong.
    """
    from laguna_agent.cli.geometries import geometries_of
    from laguna_agent.errors import KernelError

    geometries = geometries_of(model)
    from laguna_agent.backend.kernels.cuda.selftest import examine, kept, present

    try:
        card, make_device = present()
    except KernelError as error:
        if as_json:
            show_json({"ok": False, "gpu": None, "problem": str(error)})
        else:
            show(f"no kernel was tried: {error}")
        return EXIT_UNFIT
    report = None if again else kept(card, geometries)
    report = report or examine(card, geometries, make_device)
    if as_json:
        show_json({"ok": not report.faulty, "gpu": card, "faulty": sorted(report.faulty), "tried": report.tried})
    else:
        _show(report)
    return EXIT_UNFIT if report.faulty else 0


def _show(report: Report) -> None:
    from laguna_agent.backend.kernels.cuda.selftest import fallen

    show(f"{report.card.name}, CUDA {report.card.driver}, compiled for {report.card.architecture}")
    rows = [("", "KERNEL", "ERROR", "CASE")]
    for each in report.tried:
        error = each.problem if each.error is None else f"{each.error:.1e}"
        rows.append(("ok" if each.right else "WRONG", each.family, error, each.label))
    show_table(rows)
    families = {each.family for each in report.tried}
    right = f"all {len(families)} kernels are right in {len(report.tried)} cases"
    show(fallen(report.faulty) if report.faulty else right)
