"""The commands. Each module adds its own to the grammar and imports its face only when it runs."""

from __future__ import annotations

from laguna_agent.cli import chat, config, doctor, models, run, sessions
from laguna_agent.cli.parsing import Commands, Parser
from laguna_agent.errors import UsageError

HELP_OPTIONS = ("--help", "-h")


def build_parser() -> Parser:
    """The whole grammar."""
    parser = Parser(
        prog="laguna-agent",
        description="A coding agent for open mixture-of-experts models. Without a command it chats.",
        epilog="laguna-agent --version prints the version; laguna-agent COMMAND --help says more.",
    )
    commands = Commands(parser)
    run.add_to(commands)
    chat.add_to(commands)
    models.add_to(commands)
    sessions.add_to(commands)
    config.add_to(commands)
    doctor.add_to(commands)
    return parser


def run_command(arguments: list[str]) -> int:
    """Run the command line; returns the exit code. Raises LagunaError."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in HELP_OPTIONS):
        arguments = ["chat", *arguments]
    try:
        line = build_parser().parse_args(arguments)
    except UsageError as error:
        write_result(arguments, error.outcome, error.exit_code, str(error))
        raise
    code: int = line.command(line)
    return code


def write_result(arguments: list[str], outcome: str, exit_code: int, message: str) -> None:
    """Write the final record of a run that ended before its face could, where a script waits for one."""
    mode = _output_mode(arguments) if arguments[0] == "run" else None
    if mode is not None:
        from laguna_agent.headless import write_early_result

        write_early_result(mode, outcome, exit_code, message)


def _output_mode(arguments: list[str]) -> str | None:
    """The output mode of a line that is not parsed, where a script is going to read the result."""
    for at, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--output":
            mode = value or "".join(arguments[at + 1 : at + 2])
            return mode if mode in {"json", "stream-json"} else None
    return None
