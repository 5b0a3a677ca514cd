"""The commands, and what a wrong command line ends in.

Only typer is imported here: each command imports its face when it runs, so that `--help` stays quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from laguna_agent import __version__
from laguna_agent.cli import chat, config, doctor, run, sessions
from laguna_agent.errors import EXIT_SIGINT, UsageError

app = typer.Typer(
    name="laguna-agent",
    help="A small, fast, honest coding agent for open mixture-of-experts models. Without a command it chats.",
    # typer's rich help costs rich's import (50 ms) for frames around the same words.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"laguna-agent {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="print the version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the program itself."""


app.command("run", epilog=run.EPILOG)(run.run)
app.command("chat")(chat.chat)
app.command("acp")(chat.acp)
app.command("doctor")(doctor.doctor)
app.add_typer(sessions.app, name="sessions")
app.add_typer(config.app, name="config")

PROGRAM_OPTIONS = ("--help", "-h", "--version")

# typer brings its own copy of click since 0.26; this is the base of its errors in both worlds.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]


def run_command(arguments: list[str]) -> int:
    """Run the command line; returns the exit code. Raises LagunaError, UsageError where the line itself is wrong."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in PROGRAM_OPTIONS):
        arguments = ["chat", *arguments]
    try:
        code = app(arguments, prog_name="laguna-agent", standalone_mode=False)
    except _CommandLineError as error:
        problem = _usage_error(error)
        if arguments[0] == "run" and (mode := _output_mode(arguments)):
            from laguna_agent.headless import fail

            return fail(mode, problem)
        raise problem from error
    except typer.Abort:
        return EXIT_SIGINT
    return code if isinstance(code, int) else 0


def _usage_error(error: Exception) -> UsageError:
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "laguna-agent"
    # The base class of these errors promises format_message; it is not importable under one name.
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    return UsageError(f"{message}; see `{where} --help`")


def _output_mode(arguments: list[str]) -> str | None:
    """The output mode of a line that could not be parsed, where a script is going to read the result."""
    for at, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--output":
            mode = value or "".join(arguments[at + 1 : at + 2])
            return mode if mode in {"json", "stream-json"} else None
    return None
