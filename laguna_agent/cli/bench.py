"""`laguna-agent bench`: what this machine does with a model. stdout carries the figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laguna_agent.cli.options import Json, Model, Quant
from laguna_agent.cli.printing import show, show_json, show_table

if TYPE_CHECKING:
    from laguna_agent.backend.kernels.cuda.roofline import Row
    from laguna_agent.backend.laguna.measure import EngineFigures

PromptTokens = Annotated[int, typer.Option(metavar="N", min=32, help="about so many tokens to read")]
Device = Annotated[str | None, typer.Option(metavar="WHERE", help="who computes: auto | cpu | cuda")]
Geometry = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="a local/ model, or one of XS.2, S 2.1, M.1; without it these"),
]
Context = Annotated[int, typer.Option(metavar="N", min=0, help="tokens whose keys are read for the next one")]
OutputTokens = Annotated[int, typer.Option(metavar="N", min=2, help="tokens to write")]


def engine(
    model: Model = None,
    quant: Quant = None,
    device: Device = None,
    prompt_tokens: PromptTokens = 512,
    output_tokens: OutputTokens = 64,
    as_json: Json = False,
) -> int:
    """Time the in-process engine: prefill, decode, the first token, and the share of the memory bandwidth.

    Figures of a GPU are printed only where one computed them; --device cuda without one is an error.
    """
    import msgspec

    from laguna_agent.backend.laguna.in_process import plan_of
    from laguna_agent.backend.laguna.threads import physical_cores, pin_threads
    from laguna_agent.backend.providers import local_name
    from laguna_agent.config import load

    settings = load(Path.cwd(), {"model": model, "quant": quant, "device": device})
    plan = plan_of(local_name(settings), settings)
    from laguna_agent.backend.laguna.measure import measure_engine

    pin_threads()
    figures = measure_engine(plan, prompt_tokens=prompt_tokens, output_tokens=output_tokens, threads=physical_cores())
    if as_json:
        show_json(msgspec.to_builtins(figures) | {"share": figures.share})
    else:
        show_table(_rows(figures))
    return 0


def _rows(figures: EngineFigures) -> list[tuple[str, str]]:
    return [
        ("weights", f"{figures.quant}, {figures.bytes_per_token / 1e6:,.0f} MB read per token"),
        ("computed by", figures.device if figures.device != "cpu" else f"the CPU, {figures.threads} threads"),
        ("prefill", f"{figures.prefill:.1f} tokens/s ({figures.prompt_tokens} tokens)"),
        ("decode", f"{figures.decode:.1f} tokens/s ({figures.output_tokens} tokens, no drafts)"),
        ("memory", _memory(figures)),
        ("first token, cold", f"{figures.first_token_cold:.2f} s (the model is opened, a short prompt read)"),
        ("first token, warm", f"{figures.first_token_warm:.2f} s ({figures.prompt_tokens} new tokens)"),
        ("first token, reused", f"{figures.first_token_reused:.2f} s ({figures.new_tokens} new tokens)"),
    ]


def _memory(figures: EngineFigures) -> str:
    reads = f"{figures.read / 1e9:.1f} GB/s of weights"
    if not figures.bandwidth:
        return f"{reads}; what this card's memory can give is not known"
    most = f"{figures.bandwidth / 1e9:.1f} GB/s"
    if figures.device == "cpu":
        return f"{reads}, {figures.share:.0%} of the {most} that this machine was seen to read"
    return f"{reads}, {figures.share:.0%} of the {most} that this card's memory can give ({figures.bandwidth_source})"


def roofline(model: Geometry = None, context: Context = 8192, as_json: Json = False) -> int:
    """Print the most tokens per second that each card's memory allows: arithmetic on sizes, nothing is measured.

    Bytes of weights and keys that a token reads, over the bandwidth in NVIDIA's data sheets; and how many launches our
    step has. No engine reaches these numbers.
    """
    from laguna_agent.cli.geometries import geometries_of

    geometries = geometries_of(model)
    from laguna_agent.backend.kernels.cuda.roofline import records
    from laguna_agent.backend.kernels.cuda.roofline import roofline as rows_of

    rows = rows_of(geometries, context)
    if as_json:
        show_json({"measured": False, "context": context, "rows": records(rows)})
        return 0
    show(f"Ceilings by arithmetic, {context} tokens of context in f16. Nothing was measured, and no kernel gets there.")
    for name in dict.fromkeys(row.model for row in rows):
        show("")
        show_table(_ceilings(name, [row for row in rows if row.model == name]))
    show("")
    show("GB: all weights. GB/token: weights and keys that one token reads. Cards: tokens/s; - where it does not fit.")
    show("Launches: kernels of one step, and graphs when they are recorded.")
    return 0


def _ceilings(model: str, rows: list[Row]) -> list[tuple[str, ...]]:
    from laguna_agent.backend.kernels.cuda.cards import CARDS

    cells = [
        (
            row.weights,
            f"{row.nbytes / 1e9:.1f}",
            f"{(row.token_bytes + row.key_bytes) / 1e9:.2f}",
            f"{row.launches} / {row.launches_as_graphs}",
            *(f"{row.ceiling(card):.0f}" if row.fits(card) else "-" for card in CARDS),
        )
        for row in rows
    ]
    return [(model, "GB", "GB/token", "LAUNCHES", *(card.short for card in CARDS)), *cells]


app = typer.Typer(help="Time what runs on this machine.", no_args_is_help=True, rich_markup_mode=None)
app.command("engine")(engine)
app.command("roofline")(roofline)
