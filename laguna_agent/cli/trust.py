"""`laguna-agent trust`: a person looks at what a workspace asks for, and decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from laguna_agent.cli.options import Cwd
from laguna_agent.cli.printing import is_terminal, show

if TYPE_CHECKING:
    from laguna_agent.trust import Ground

Show = Annotated[bool, typer.Option("--show", help="only show what there is and how trust in it stands")]
Revoke = Annotated[bool, typer.Option("--revoke", help="trust nothing of this workspace any more")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="trust what is shown without asking")]

EXIT_REFUSED = 7


def trust(cwd: Cwd = None, show_only: Show = False, revoke: Revoke = False, yes: Yes = False) -> int:
    """Look at what a workspace brings (instructions, settings, MCP servers) and trust exactly that, or not."""
    from laguna_agent.errors import UsageError
    from laguna_agent.session_choice import working_directory
    from laguna_agent.trust import look
    from laguna_agent.trust import revoke as forget
    from laguna_agent.trust import trust as keep
    from laguna_agent.trust_lines import listed
    from laguna_agent.visible import visible_line

    directory = working_directory(cwd)
    if show_only + revoke + yes > 1:
        raise UsageError("--show, --revoke and --yes exclude each other; give one")
    if revoke:
        names = forget(directory)
        show(f"not trusted any more: {visible_line(listed(names))}" if names else "nothing here was trusted")
        return 0
    ground = look(directory)
    _show(ground)
    if show_only or not ground.waiting:
        return 0
    if not yes and not is_terminal():
        raise UsageError("there is no terminal to ask on; look at what is shown, then add --yes")
    if not yes and not _agreed(f"Trust {listed([visible_line(each.name) for each in ground.waiting])}? [y/N] "):
        show("nothing was trusted")
        return EXIT_REFUSED
    # What was shown, not what lies there by now.
    keep(ground)
    show(f"trusted, until they change: {listed([visible_line(each.name) for each in ground.waiting])}")
    return 0


def _show(ground: Ground) -> None:
    from laguna_agent.trust_lines import shown
    from laguna_agent.visible import visible_line

    root = visible_line(str(ground.root))
    if not ground.asking:
        show(f"nothing in {root} asks for trust")
        return
    show(f"{root} asks for trust in:")
    for each in ground.asking:
        show("\n".join(shown(each)))


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in {"y", "yes"}
    except EOFError:
        return False
