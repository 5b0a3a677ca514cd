"""Options that more than one command takes. Values stay text: the configuration knows what each setting may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from laguna_agent.cli.shell_completion import model_names, session_ids


def path_option(*names: str, help: str, metavar: str = "FILE") -> Any:
    """An option that is a path; whether it can be read or written is for the command to find out and explain."""
    return typer.Option(*names, help=help, metavar=metavar, readable=False)


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        autocompletion=model_names,
        help="PROVIDER/NAME, such as ollama/qwen2.5-coder:7b or openrouter/poolside/laguna-xs-2.1:free",
    ),
]
FallbackModel = Annotated[
    list[str] | None,
    typer.Option(
        "--fallback-model",
        metavar="MODEL",
        autocompletion=model_names,
        help="go on with MODEL when the model's server fails; may be repeated",
    ),
]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="base URL of an OpenAI-compatible server")]
Approve = Annotated[
    str | None,
    typer.Option(metavar="MODE", help="what may be done unasked: plan (only read, ever) | ask (read) | edits | all"),
]
EditFormat = Annotated[
    str | None, typer.Option(metavar="FORMAT", help="how the model edits: auto | replace | symbol | whole")
]
Quant = Annotated[
    str | None,
    typer.Option(metavar="BITS", help="how a local/ model is packed: auto | bf16 | int8 | int4"),
]
Sandbox = Annotated[
    str | None,
    typer.Option(metavar="TIER", help="what confines commands: auto | bubblewrap | landlock | seatbelt | none"),
]
Network = Annotated[bool, typer.Option("--network", "--net", help="commands in the sandbox reach the network unasked")]
Cwd = Annotated[Path | None, path_option("--cwd", "-C", metavar="DIR", help="the directory to work in")]
ContinueLatest = Annotated[bool, typer.Option("--continue", help="go on with the newest session of this directory")]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        autocompletion=session_ids,
        help="go on with this session (the beginning of its id will do)",
    ),
]
LogLevel = Annotated[
    str | None,
    typer.Option(metavar="LEVEL", help="what a session's own log holds: off | error | warning | info | debug"),
]
LogStderr = Annotated[bool, typer.Option("--log-stderr", help="write the session's log to standard error too")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


def driving_flags(
    model: str | None,
    fallback_model: list[str] | None,
    base_url: str | None,
    approve: str | None,
    edit_format: str | None,
    quant: str | None,
    sandbox: str | None,
    network: bool,
) -> dict[str, object]:
    """The settings that every face takes from its command line, by their key; None for what was not given."""
    return {
        "model": model,
        "fallback_models": tuple(fallback_model) if fallback_model else None,
        "base_url": base_url,
        "approve": approve,
        "edit_format": edit_format,
        "quant": quant,
        "sandbox": sandbox,
        "network": network or None,
    }
