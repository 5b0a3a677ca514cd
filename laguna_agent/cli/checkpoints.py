"""`laguna-agent sessions diff` and `sessions restore`: what a session did to files, and the files as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laguna_agent.cli.options import Json, path_option
from laguna_agent.cli.printing import show, show_json
from laguna_agent.errors import UsageError

if TYPE_CHECKING:
    from laguna_agent.checkpoints.changes import FileChange
    from laguna_agent.checkpoints.keep import Proposal

SessionId = Annotated[str, typer.Argument(metavar="ID", help="the session, or the beginning of its id")]
From = Annotated[str | None, typer.Option("--from", metavar="N", help="from the beginning of prompt N; else the first")]
Until = Annotated[str | None, typer.Option("--to", metavar="N", help="to the end of prompt N; else the last")]
Stat = Annotated[bool, typer.Option("--stat", help="only name the files and count their lines")]
At = Annotated[str | None, typer.Option("--at", metavar="N", help="as before prompt N; else as the last one left them")]
Into = Annotated[Path | None, path_option("--to", metavar="DIR", help="write all of them into a new directory")]
Force = Annotated[bool, typer.Option("--force", help="overwrite what others changed since, too")]


def diff(session: SessionId, begin: From = None, end: Until = None, stat: Stat = False, as_json: Json = False) -> int:
    """Show what a session's prompts changed in files."""
    from laguna_agent.agent.session_files import SessionFiles
    from laguna_agent.credentials import know_stored_keys

    know_stored_keys()
    files = SessionFiles(session)
    first, last = _number("--from", begin, 1), _number("--to", end, len(files.prompts))
    found = files.changes(first, last)
    if as_json:
        import msgspec

        shown = [msgspec.structs.replace(change, patch=()) for change in found] if stat else found
        show_json(_without_keys(shown))
    elif not found:
        show("no files were changed")
    else:
        for line in _stat_lines(found) if stat else (line for change in found for line in change.patch):
            show(_printable(line))
    return 0


def restore(session: SessionId, at: At = None, to: Into = None, force: Force = False, as_json: Json = False) -> int:
    """Put a session's files back as they were, or write them elsewhere. The conversation stays as it is."""
    from laguna_agent.agent.session_files import SessionFiles
    from laguna_agent.credentials import know_stored_keys

    know_stored_keys()
    files = SessionFiles(session)
    prompt = None if at is None else _number("--at", at, 0)
    if to is not None:
        number = files.write_out(prompt, to)
        if as_json:
            show_json({"directory": str(to), "files": number})
        else:
            show(f"wrote {number} files to {_printable(str(to))}")
        return 0
    keep, proposal = files.propose(prompt)
    if proposal.conflicts and not force:
        for line in _conflict_lines(proposal):
            show(_printable(line))
        raise UsageError(
            f"nothing was put back: {len(proposal.conflicts)} files were changed since, and not by the session as far "
            "as is known; --force overwrites them, --to DIR writes the files elsewhere"
        )
    problems: tuple[str, ...] = ()
    if not proposal.plan.is_nothing:
        problems = files.carry_out(keep, proposal).problems
    if as_json:
        show_json({"restored": _without_keys(list(proposal.changed)), "not_restored": list(problems)})
    else:
        for path in proposal.changed:
            show(_printable(path))
        show(f"put back {len(proposal.changed)} files; /redo in the session takes that back")
        for problem in problems:
            show(_printable(f"not put back: {problem}"))
    return 0


def _number(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UsageError(f"{name} {text!r} is not valid; expected the number of a prompt, from 1")
    return int(text)


def _printable(line: str) -> str:
    from laguna_agent.event_lines import printable
    from laguna_agent.redaction import without_keys

    return printable(without_keys(line))


def _without_keys(value: object) -> object:
    import msgspec

    from laguna_agent.agent.tape import spellable
    from laguna_agent.redaction import without_keys

    def clean(each: object) -> object:
        if isinstance(each, str):
            return without_keys(spellable(each))
        if isinstance(each, dict):
            return {key: clean(inner) for key, inner in each.items()}
        return [clean(inner) for inner in each] if isinstance(each, list | tuple) else each

    return clean(msgspec.to_builtins(value))


def _stat_lines(found: list[FileChange]) -> Iterator[str]:
    width = max(len(change.path) for change in found)
    for change in found:
        counts = "not text" if change.added is None else f"+{change.added} -{change.removed}"
        marks = {"added": " (new)", "deleted": " (gone)"}.get(change.change, "")
        moved = f" (mode {change.old_mode} to {change.new_mode})" if not marks and _mode_changed(change) else ""
        yield f"{change.path:<{width}}  {counts}{marks}{moved}"
    added, removed = sum(change.added or 0 for change in found), sum(change.removed or 0 for change in found)
    yield f"{len(found)} files, +{added} -{removed}"


def _mode_changed(change: FileChange) -> bool:
    return change.old_mode != change.new_mode


def _conflict_lines(proposal: Proposal) -> Iterator[str]:
    from laguna_agent.event_lines import diff_lines

    shown = {each.path for each in proposal.diffs}
    for each in proposal.diffs:
        yield from diff_lines(each)
    for path in proposal.conflicts:
        if path not in shown:
            yield f"changed since: {path}"
