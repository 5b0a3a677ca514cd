"""`laguna-agent run`: the command line of the scripted face."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from laguna_agent.cli.parsing import Commands, add_cwd, add_session_choice, add_settings, settings_of

EPILOG = (
    "Exit codes: 0 completed, 1 internal error, 2 usage or configuration, 3 model server, 4 the model could not "
    "finish, 5 a budget was spent, 6 stopped as a loop, 7 denied, 8 --check failed, 130 interrupted, 143 terminated."
)


def add_to(commands: Commands) -> None:
    """Add `run`."""
    parser = commands.add("run", "do one task without a person: a prompt in, a result out", run, epilog=EPILOG)
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to do; '-' reads it from standard input")
    parser.add_argument("-f", "--file", type=Path, metavar="FILE", help="read the prompt from FILE")
    add_settings(parser, "model", "base_url", "approve")
    add_cwd(parser)
    parser.add_argument("--check", metavar="CMD", help="command that must pass in the end, such as 'pytest -q'")
    add_settings(parser, "max_turns", "max_tokens", "max_cost", "max_time")
    parser.add_argument(
        "--output", default="text", metavar="MODE", help="text (the answer) | json (the result) | stream-json (events)"
    )
    parser.add_argument(
        "--output-schema", type=Path, metavar="FILE", help="the answer must be JSON valid against this JSON Schema"
    )
    parser.add_argument("--patch-out", type=Path, metavar="FILE", help="write all changes as a patch for git apply")
    parser.add_argument("--trajectory", type=Path, metavar="FILE", help="write the run as ATIF 1.8 JSON")
    add_session_choice(parser)
    parser.add_argument("--replay", metavar="ID|FILE", help="run a recorded session again, offline")
    add_settings(parser, "edit_format", "temperature", "seed")


def run(line: Namespace) -> int:
    """Carry it out."""
    from laguna_agent import headless

    return headless.run(
        headless.Invocation(
            prompt=line.prompt,
            file=line.file,
            output=line.output,
            output_schema=line.output_schema,
            check=line.check,
            patch_out=line.patch_out,
            trajectory=line.trajectory,
            resume=line.resume,
            continue_latest=line.continue_latest,
            replay=line.replay,
            cwd=line.cwd,
            flags=settings_of(line),
        )
    )
