"""Options that more than one command takes. Values are checked by the configuration, which knows what each may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str | None, typer.Option("--model", "-m", help="provider/model, such as ollama/qwen2.5-coder:7b")]
BaseUrl = Annotated[str | None, typer.Option(help="base URL of an OpenAI-compatible server", metavar="URL")]
Approve = Annotated[str | None, typer.Option(help="what runs unasked: ask | edits | all", metavar="MODE")]
EditFormat = Annotated[
    str | None, typer.Option(help="how the model edits: auto | replace | symbol | whole", metavar="FORMAT")
]
Cwd = Annotated[Path | None, typer.Option("--cwd", "-C", help="the directory to work in", metavar="DIR")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
