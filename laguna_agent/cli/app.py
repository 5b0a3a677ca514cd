"""The commands and what a wrong command line ends in. Each command imports its face only when it runs."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.main import get_command

from laguna_agent import __version__
from laguna_agent.cli import (
    bench,
    chat,
    config,
    data,
    data_lineage,
    data_tokens,
    doctor,
    login,
    models,
    run,
    selftest,
    serve,
    sessions,
    setup,
    train,
    trust,
)
from laguna_agent.cli.grammar import PromptCommand
from laguna_agent.errors import UsageError

PROGRAM = "laguna-agent"
PROGRAM_OPTIONS = ("--help", "-h", "--version", "--install-completion", "--show-completion")
COMPLETION_VARIABLE = "_LAGUNA_AGENT_COMPLETE"

# typer brings its own click since 0.26, used the real one before, and exports this base of its errors in neither case.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    help="A coding agent for open mixture-of-experts models. Without a command it chats.",
    epilog=f"{PROGRAM} COMMAND --help says more.",
    # typer's rich help costs rich's import (50 ms) for frames around the same words.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Take the options of the program itself; each does its work while the line is parsed."""


app.command(epilog=run.EPILOG, cls=PromptCommand)(run.run)
app.command()(chat.chat)
acp = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
acp.callback()(chat.acp)
acp.command("setup")(setup.setup)
# A terminal login of the protocol is the editor's own command line with `login` at its end.
acp.command("login")(login.login)
app.add_typer(acp, name="acp")
app.command()(login.login)
app.command()(login.logout)
app.add_typer(models.app, name="models")
app.add_typer(sessions.app, name="sessions")
app.add_typer(config.app, name="config")
app.command()(serve.serve)
data.app.command("lineage")(data_lineage.lineage)
data_tokens.mount(data.app)
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(train.app, name="train")
app.command()(trust.trust)
app.command()(doctor.doctor)
app.command()(selftest.selftest)


def run_command(arguments: list[str]) -> int:
    """Run the command line; returns the exit code. Raises LagunaError."""
    command = get_command(app)
    if os.environ.get(COMPLETION_VARIABLE):
        from laguna_agent.cli.shell_completion import say_chat

        say_chat(_chat_options(command), PROGRAM_OPTIONS)
        command.main(arguments, prog_name=PROGRAM)  # answers the shell and ends the process
    if not arguments or (arguments[0].startswith("-") and arguments[0].partition("=")[0] not in PROGRAM_OPTIONS):
        arguments = ["chat", *arguments]
    try:
        # Not `command.main`: that has its own ideas of interrupts, broken pipes and the end of a stream.
        with command.make_context(PROGRAM, list(arguments)) as context:
            code: int = command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except _CommandLineError as error:
        problem = _usage_error(error, arguments[0])
        write_result(arguments, problem.outcome, problem.exit_code, str(problem))
        raise problem from error
    return code


def _chat_options(program: Any) -> frozenset[str]:
    return frozenset(name for option in program.commands["chat"].params for name in option.opts)


def _usage_error(error: Exception, first: str) -> UsageError:
    # The parser of options raises some errors without their context.
    context = getattr(error, "ctx", None)
    where = context.command_path if context else PROGRAM if first.startswith("-") else f"{PROGRAM} {first}"
    message: str = error.format_message()  # type: ignore[attr-defined]  # the base class that cannot be named has it
    return UsageError(f"{' '.join(message.split()).rstrip('.')}; see `{where} --help`")


def write_result(arguments: list[str], outcome: str, exit_code: int, message: str) -> None:
    """Write the final record of a run that ended before its face could, where a script waits for one."""
    mode = _output_mode(arguments) if arguments[0] == "run" else None
    if mode is not None:
        from laguna_agent.headless import write_early_result

        write_early_result(mode, outcome, exit_code, message)


def _output_mode(arguments: list[str]) -> str | None:
    """The output mode of a line that is not parsed, where a script is going to read the result."""
    for at, argument in enumerate(arguments):
        if argument == "--":
            break
        name, _, value = argument.partition("=")
        if name == "--output":
            mode = value or "".join(arguments[at + 1 : at + 2])
            return mode if mode in {"json", "stream-json"} else None
    return None
