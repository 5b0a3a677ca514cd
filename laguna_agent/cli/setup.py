"""`laguna-agent acp setup EDITOR`: show what an editor must be told, then write it, if the person wants that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laguna_agent.cli.options import BaseUrl, Model
from laguna_agent.cli.printing import is_terminal, show
from laguna_agent.errors import LagunaError, UsageError

if TYPE_CHECKING:
    from laguna_agent.cli.editors import Setup

EditorName = Annotated[str, typer.Argument(metavar="EDITOR", help="zed | jetbrains | neovim | emacs")]
Write = Annotated[bool, typer.Option("--write", help="write it without asking")]
Print = Annotated[bool, typer.Option("--print", help="only show it")]
BACKUP = "before-laguna-agent"


def setup(
    context: typer.Context,
    editor: EditorName,
    model: Model = None,
    base_url: BaseUrl = None,
    write: Write = False,
    only_print: Print = False,
) -> int:
    """Tell an editor where this agent is. Shows the exact words, and asks before it writes them."""
    from laguna_agent.cli.editors import EDITORS, setup_for
    from laguna_agent.program import own_command

    if write and only_print:
        raise UsageError("--write and --print exclude each other; leave one out")
    above = context.parent.params if context.parent else {}
    flags = {"model": model or above.get("model"), "base_url": base_url or above.get("base_url")}
    env = {f"LAGUNA_{key.upper()}": str(value) for key, value in flags.items() if value}
    wanted = setup_for(editor, own_command(), env)
    if wanted is None:
        raise UsageError(f"unknown editor {editor!r}; there are {', '.join(EDITORS)}")
    if wanted.settings is None:
        return _show_only(wanted, write=write)
    show(f"{wanted.title}: this goes into {wanted.file}\n\n{wanted.snippet}\n")
    if write or (is_terminal() and not only_print):
        if not _addition(wanted):
            show(f"It is there already. In {wanted.title}: {wanted.then}.")
        elif write or _agreed():
            _write(wanted)
    _warn_of_cache(own_command()[0])
    _warn(flags)
    return 0


def _show_only(wanted: Setup, *, write: bool) -> int:
    """For an editor whose configuration is a program: only its author knows where in it this belongs."""
    show(f"{wanted.title}: put this into your configuration, such as {wanted.file}\n\n{wanted.snippet}\n")
    show(f"Then: {wanted.then}.")
    if write:
        raise UsageError(f"{wanted.file} is a program, which is yours to change: add the lines above to it")
    return 0


def _agreed() -> bool:
    try:
        answer = input("Write it? Everything else in the file stays, and a copy of it is kept beside it. [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in {"y", "yes"}:
        return True
    show("Nothing is written.")
    return False


def _addition(wanted: Setup) -> str:
    """The file's new text, empty where it has all that is wanted. Raises UsageError where it cannot be added to."""
    from laguna_agent.cli.jsonc import JsoncError, merged, parse

    try:
        old = _text(wanted.file)
        root = parse(old)
        settings = _with_own_arguments(wanted.settings, root.value if root else {})
        new = merged(old, settings)
    except (OSError, JsoncError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{wanted.file} is left as it is ({reason}); put the lines above into it by hand") from error
    return "" if new == old else new


def _with_own_arguments(settings: Any, old: Any) -> Any:
    """`settings`, but with the arguments that the person has put behind ours in an older entry."""
    name, entry = next(iter(settings["agent_servers"].items()))
    servers = old.get("agent_servers") if isinstance(old, dict) else None
    found = servers.get(name) if isinstance(servers, dict) else None
    args = found.get("args") if isinstance(found, dict) else None
    if isinstance(args, list) and args[: len(entry["args"])] == entry["args"]:
        entry = entry | {"args": args}
    return {"agent_servers": {name: entry}}


def _write(wanted: Setup) -> None:
    from laguna_agent.atomic import replace_file

    # Read again: the editor may have written its settings while the person was reading.
    new = _addition(wanted)
    try:
        kept = _keep(wanted.file) if wanted.file.exists() else None
        replace_file(wanted.file, new.encode())
    except OSError as error:
        raise UsageError(f"{wanted.file} cannot be written: {error.strerror}; put the lines above into it") from error
    show("Written." + (f" The old file is {kept}." if kept else "") + f" In {wanted.title}: {wanted.then}.")


def _keep(file: Path) -> Path:
    """Copy a file beside itself; an older copy stays, for it may be the only one without a fault of ours."""
    from laguna_agent.atomic import replace_file

    names = [f"{file.name}.{BACKUP}", *(f"{file.name}.{BACKUP}.{number}" for number in range(2, 100))]
    copy = next((path for path in map(file.with_name, names) if not path.exists()), file.with_name(names[-1]))
    replace_file(copy, file.read_bytes(), mode=file.stat().st_mode & 0o7777)
    return copy


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""


def _warn_of_cache(command: str) -> None:
    """`uvx` runs programs out of its cache, and `uv cache prune` removes them from under the editor."""
    parts = Path(command).parts
    if "uv" in parts and any(part.startswith(("archive-v", "environments-v")) for part in parts):
        show("note: this program lies in uv's cache, which may be cleaned; `uv tool install laguna-agent` keeps it")


def _warn(flags: dict[str, Any]) -> None:
    """Say what the editor will miss. One that was started from a desktop does not see what a shell exports."""
    from laguna_agent.backend.providers import NothingConfigured, key_state
    from laguna_agent.config import load_with_sources

    try:
        settings, sources = load_with_sources(Path("/"), flags)
        for name in ("model", "base_url"):
            if sources[name].startswith("env "):
                option = "--" + name.replace("_", "-")
                show(f"note: {sources[name]} may not reach an editor; put it into the configuration, or use {option}")
        state = key_state(settings)
    except NothingConfigured:
        show("note: no model is configured; `laguna-agent login` sets one up, `laguna-agent models pull` gets one")
        return
    except LagunaError as error:
        show(f"note: {error}")
        return
    if missing := state.missing():
        show(f"note: {missing}")
    elif state.key is not None and state.key.source == state.variable:
        show(f"note: {state.variable} may not reach an editor; `laguna-agent login {state.provider}` stores the key")
