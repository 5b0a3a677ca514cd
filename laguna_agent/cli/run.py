"""`laguna-agent run`: the command line of the scripted face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laguna_agent.cli.options import Approve, BaseUrl, Cwd, EditFormat, Model

EPILOG = (
    "Exit codes: 0 completed, 1 internal error, 2 usage or configuration, 3 model server, 4 the model could not "
    "finish, 5 a budget was spent, 6 stopped as a loop, 7 denied, 8 --check failed, 130 interrupted, 143 terminated."
)


def run(
    prompt: Annotated[str | None, typer.Argument(help="what to do; '-' reads it from standard input")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="read the prompt from FILE", metavar="FILE")] = None,
    output: Annotated[str, typer.Option(help="text | json | stream-json", metavar="MODE")] = "text",
    output_schema: Annotated[
        Path | None, typer.Option(help="the answer must be JSON valid against this JSON Schema", metavar="FILE")
    ] = None,
    check: Annotated[
        str | None, typer.Option(help="command that must pass afterwards, such as 'pytest -q'", metavar="CMD")
    ] = None,
    patch_out: Annotated[
        Path | None, typer.Option(help="write all changes as a patch for git apply", metavar="FILE")
    ] = None,
    trajectory: Annotated[Path | None, typer.Option(help="write the run as ATIF 1.8 JSON", metavar="FILE")] = None,
    max_turns: Annotated[int | None, typer.Option(help="model requests", metavar="N")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="input and output tokens in all", metavar="N")] = None,
    max_cost: Annotated[float | None, typer.Option(help="US dollars", metavar="USD")] = None,
    max_time: Annotated[float | None, typer.Option(help="seconds", metavar="S")] = None,
    continue_latest: Annotated[
        bool, typer.Option("--continue", help="go on with the newest session of this directory")
    ] = False,
    resume: Annotated[str | None, typer.Option(help="go on with this session (a prefix will do)", metavar="ID")] = None,
    replay: Annotated[str | None, typer.Option(help="run a recorded session again, offline", metavar="ID|FILE")] = None,
    cwd: Cwd = None,
    model: Model = None,
    base_url: BaseUrl = None,
    approve: Approve = None,
    edit_format: EditFormat = None,
    temperature: Annotated[float | None, typer.Option(metavar="T")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N")] = None,
) -> int:
    """Do one task without a person: a prompt in, a result and an exit code out."""
    from laguna_agent import headless

    return headless.run(
        headless.Invocation(
            prompt=prompt,
            file=file,
            output=output,
            output_schema=output_schema,
            check=check,
            patch_out=patch_out,
            trajectory=trajectory,
            resume=resume,
            continue_latest=continue_latest,
            replay=replay,
            cwd=cwd,
            flags={
                "model": model,
                "base_url": base_url,
                "approve": approve,
                "edit_format": edit_format,
                "temperature": temperature,
                "seed": seed,
                "max_turns": max_turns,
                "max_tokens": max_tokens,
                "max_cost": max_cost,
                "max_time": max_time,
            },
        )
    )
