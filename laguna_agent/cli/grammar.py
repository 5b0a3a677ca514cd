"""What the command line understands beyond typer: commands with a default subcommand, prompts that begin with a dash.

Knows no command and no option.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand


def command_group(summary: str, without_subcommand: Callable[[], int]) -> typer.Typer:
    """A command with subcommands; `without_subcommand` is what it does without one."""
    group = typer.Typer(help=summary, invoke_without_command=True, rich_markup_mode=None)

    @group.callback()
    def choose(context: typer.Context) -> int:
        return without_subcommand() if context.invoked_subcommand is None else 0

    return group


class PromptCommand(TyperCommand):
    """A command whose prompt may begin with a dash, as a list in Markdown or a negative number does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as any command does, with such a prompt put behind `--`."""
        options = [option for option in self.params if option.param_type_name == "option"]
        names = {name for option in options for name in option.opts}
        valued = {name for option in options if not getattr(option, "is_flag", False) for name in option.opts}
        at = 0
        while at < len(args) and args[at] != "--":
            if _is_text(args[at]) and args[at][:2] not in names:
                return super().parse_args(ctx, [*args[:at], *args[at + 1 :], "--", args[at]])
            at += 2 if args[at] in valued else 1
        return super().parse_args(ctx, args)


def _is_text(argument: str) -> bool:
    """No option has a space in its name or begins with a digit."""
    name = argument.partition("=")[0]
    return argument[:1] == "-" and (argument[1:2].isdigit() or len(name.split()) > 1)
