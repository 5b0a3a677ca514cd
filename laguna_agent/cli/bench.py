"""`laguna-agent bench`: what this machine does with a model. stdout carries the figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laguna_agent.cli.options import Json, Model, Quant
from laguna_agent.cli.printing import show_json, show_table

if TYPE_CHECKING:
    from laguna_agent.backend.laguna.measure import EngineFigures

PromptTokens = Annotated[int, typer.Option(metavar="N", min=32, help="about so many tokens to read")]
OutputTokens = Annotated[int, typer.Option(metavar="N", min=2, help="tokens to write")]


def engine(
    model: Model = None,
    quant: Quant = None,
    prompt_tokens: PromptTokens = 512,
    output_tokens: OutputTokens = 64,
    as_json: Json = False,
) -> int:
    """Time the in-process engine: prefill, decode, the first token, and the share of the memory bandwidth."""
    import msgspec

    from laguna_agent.backend.laguna.in_process import plan_of
    from laguna_agent.backend.laguna.threads import physical_cores, pin_threads
    from laguna_agent.backend.providers import local_name
    from laguna_agent.config import load

    settings = load(Path.cwd(), {"model": model, "quant": quant})
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
        ("threads", str(figures.threads)),
        ("prefill", f"{figures.prefill:.1f} tokens/s ({figures.prompt_tokens} tokens)"),
        ("decode", f"{figures.decode:.1f} tokens/s ({figures.output_tokens} tokens, no drafts)"),
        (
            "memory",
            f"{figures.share:.0%} of the {figures.read_bandwidth / 1e9:.1f} GB/s that this machine was seen to read",
        ),
        ("first token, cold", f"{figures.first_token_cold:.2f} s (the model is opened, a short prompt read)"),
        ("first token, warm", f"{figures.first_token_warm:.2f} s ({figures.prompt_tokens} new tokens)"),
        ("first token, reused", f"{figures.first_token_reused:.2f} s ({figures.new_tokens} new tokens)"),
    ]


app = typer.Typer(help="Time what runs on this machine.", no_args_is_help=True, rich_markup_mode=None)
app.command("engine")(engine)


@app.callback()
def choose() -> None:
    """Keep `engine` a subcommand: typer makes a lone command the whole program."""
