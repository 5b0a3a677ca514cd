"""The command line's grammar on argparse, and the options that commands share.

Typer was tried first: with its pydantic it took 270 ms of processor time before any command began, and `run --help`
imported both; argparse takes 15. Values stay text here: the configuration knows what each setting may be.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from laguna_agent.errors import UsageError

Command = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of printing and exiting, and takes no abbreviated options."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line in one line."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


class Commands:
    """A level of subcommands."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._added = parser.add_subparsers(title="commands", metavar="COMMAND", dest=argparse.SUPPRESS)

    def add(self, name: str, summary: str, command: Command, **options: Any) -> argparse.ArgumentParser:
        """A subcommand that `command` carries out; it gets the parsed line and returns the exit code."""
        parser: argparse.ArgumentParser = self._added.add_parser(name, help=summary, description=summary, **options)
        parser.set_defaults(command=command)
        return parser

    def group(self, name: str, summary: str, command: Command) -> Commands:
        """A subcommand with subcommands of its own; `command` is what it does without one."""
        return Commands(self.add(name, summary, command))


def add_settings(parser: argparse.ArgumentParser, *keys: str) -> None:
    """Options that are settings of the configuration, by key; read them with `settings_of`."""
    for key in keys:
        metavar, text = SETTINGS[key]
        names = ["-m", "--model"] if key == "model" else [option_of(key)]
        parser.add_argument(*names, dest=f"setting_{key}", metavar=metavar, help=text)


def settings_of(line: argparse.Namespace) -> dict[str, object]:
    """The settings that the line gives, as text."""
    given = vars(line).items()
    return {name.removeprefix("setting_"): value for name, value in given if name.startswith("setting_")}


def add_cwd(parser: argparse.ArgumentParser) -> None:
    """`--cwd DIR`."""
    parser.add_argument("-C", "--cwd", type=Path, metavar="DIR", help="the directory to work in")


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_session_choice(parser: argparse.ArgumentParser) -> None:
    """`--continue` and `--resume ID`."""
    parser.add_argument(
        "--continue",
        dest="continue_latest",
        action="store_true",
        help="go on with the newest session of this directory",
    )
    parser.add_argument("--resume", metavar="ID", help="go on with this session (the beginning of its id will do)")


def option_of(key: str) -> str:
    """The option that sets a key."""
    return "--" + key.replace("_", "-")


SETTINGS = {
    "model": ("MODEL", "PROVIDER/NAME, such as ollama/qwen2.5-coder:7b or openrouter/poolside/laguna-xs-2.1:free"),
    "base_url": ("URL", "base URL of an OpenAI-compatible server"),
    "approve": ("MODE", "what runs unasked: ask (reading only) | edits | all"),
    "edit_format": ("FORMAT", "how the model edits: auto | replace | symbol | whole"),
    "temperature": ("T", "sampling temperature"),
    "seed": ("N", "sampling seed, where the server takes one"),
    "max_turns": ("N", "stop after N model requests"),
    "max_tokens": ("N", "stop after N tokens, input and output together"),
    "max_cost": ("USD", "stop after this many US dollars"),
    "max_time": ("S", "stop after S seconds"),
}
