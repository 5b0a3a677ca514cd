"""`laguna-agent run`: the command line of the scripted face."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laguna_agent.cli.options import (
    Approve,
    BaseUrl,
    ContinueLatest,
    Cwd,
    EditFormat,
    FallbackModel,
    LogLevel,
    LogStderr,
    Model,
    Network,
    Quant,
    Resume,
    Sandbox,
    driving_flags,
    path_option,
)

EPILOG = (
    "A prompt that comes from elsewhere belongs behind `--`, where nothing is an option: laguna-agent run -- PROMPT. "
    "Exit codes: 0 completed, 1 internal error, 2 usage or configuration, 3 model server, 4 the model could not "
    "finish, 5 a budget was spent, 6 stopped as a loop, 7 denied, 8 --check failed, 130 interrupted, 143 terminated."
)

Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="what to do; '-' reads it from standard input", show_default=False),
]
PromptFile = Annotated[Path | None, path_option("--file", "-f", help="read the prompt from FILE")]
CheckCommand = Annotated[
    str | None, typer.Option(metavar="CMD", help="command that must pass in the end, such as 'pytest -q'")
]
MaxTurns = Annotated[str | None, typer.Option(metavar="N", help="stop after N model requests")]
MaxTokens = Annotated[str | None, typer.Option(metavar="N", help="stop after N tokens, input and output together")]
MaxCost = Annotated[str | None, typer.Option(metavar="USD", help="stop after this many US dollars")]
MaxTime = Annotated[str | None, typer.Option(metavar="S", help="stop after S seconds")]
OutputMode = Annotated[
    str,
    typer.Option(
        metavar="MODE", help="text (the answer) | json (the result) | stream-json (events)", show_default=False
    ),
]
OutputSchema = Annotated[Path | None, path_option(help="the answer must be JSON valid against this JSON Schema")]
PatchOut = Annotated[Path | None, path_option(help="write all changes as a patch for git apply")]
Trajectory = Annotated[Path | None, path_option(help="write the run as ATIF 1.8 JSON")]
Rewind = Annotated[str | None, typer.Option(metavar="N", help="take back the session's last N prompts first")]
Fork = Annotated[bool, typer.Option("--fork", help="go on in a copy of the session, and leave the session as it is")]
Replay = Annotated[str | None, typer.Option(metavar="ID|FILE", help="run a recorded session again, offline")]
Trusted = Annotated[
    bool, typer.Option("--trust", help="trust what the workspace brings, as it is now and for this run alone")
]
Temperature = Annotated[str | None, typer.Option(metavar="T", help="sampling temperature")]
ReasoningBudget = Annotated[
    str | None, typer.Option(metavar="N", help="tokens that one thought may take before an answer is asked for; 0: any")
]
Seed = Annotated[str | None, typer.Option(metavar="N", help="sampling seed, where the server takes one")]


def run(
    prompt: Prompt = None,
    file: PromptFile = None,
    model: Model = None,
    fallback_model: FallbackModel = None,
    base_url: BaseUrl = None,
    approve: Approve = None,
    cwd: Cwd = None,
    trust: Trusted = False,
    check: CheckCommand = None,
    max_turns: MaxTurns = None,
    max_tokens: MaxTokens = None,
    max_cost: MaxCost = None,
    max_time: MaxTime = None,
    output: OutputMode = "text",
    output_schema: OutputSchema = None,
    patch_out: PatchOut = None,
    trajectory: Trajectory = None,
    continue_latest: ContinueLatest = False,
    resume: Resume = None,
    rewind: Rewind = None,
    fork: Fork = False,
    replay: Replay = None,
    edit_format: EditFormat = None,
    quant: Quant = None,
    sandbox: Sandbox = None,
    network: Network = False,
    temperature: Temperature = None,
    seed: Seed = None,
    reasoning_budget: ReasoningBudget = None,
    log_level: LogLevel = None,
    log_stderr: LogStderr = False,
) -> int:
    """Do one task without a person: a prompt in, a result out."""
    from laguna_agent import headless

    driving = driving_flags(model, fallback_model, base_url, approve, edit_format, quant, sandbox, network)
    sampling = {"temperature": temperature, "seed": seed, "reasoning_budget": reasoning_budget}
    budget = {"max_turns": max_turns, "max_tokens": max_tokens, "max_cost": max_cost, "max_time": max_time}
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
            rewind=rewind,
            fork=fork,
            replay=replay,
            cwd=cwd,
            trust=trust,
            flags={**driving, **sampling, **budget, "log_level": log_level, "log_stderr": log_stderr or None},
        )
    )
