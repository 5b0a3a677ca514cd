"""`laguna-agent sessions`: the record of earlier runs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from laguna_agent.cli.parsing import Commands, add_json
from laguna_agent.cli.printing import show, show_json, show_table
from laguna_agent.errors import UsageError

if TYPE_CHECKING:
    from laguna_agent.agent.store import AnyRecord


def add_to(commands: Commands) -> None:
    """Add `sessions`."""
    group = commands.group("sessions", "list, show, export and delete recorded sessions", list_all)
    parser = group.add("list", "list sessions, newest first", list_all)
    parser.add_argument("--here", action="store_true", help="only those of this directory")
    add_json(parser)
    parser = group.add("show", "print a session as text, or its log as JSON lines", show_one)
    parser.add_argument("session", metavar="ID", help="the session, or the beginning of its id")
    add_json(parser)
    parser = group.add(
        "export", "export a session as an ATIF 1.8 trajectory, or as the log that --replay takes", export
    )
    parser.add_argument("session", metavar="ID", help="the session, or the beginning of its id")
    parser.add_argument("--format", default="atif", metavar="FORMAT", help="atif | log")
    parser.add_argument("-o", "--to", type=Path, metavar="FILE", help="write to FILE instead of stdout")
    parser = group.add("delete", "delete sessions and everything kept with them", delete)
    parser.add_argument("sessions", nargs="+", metavar="ID", help="a session, or the beginning of its id")


def list_all(line: Namespace) -> int:
    """Carry out `sessions list`."""
    from laguna_agent.agent.store import list_sessions
    from laguna_agent.event_lines import one_line

    found = list_sessions(Path.cwd() if getattr(line, "here", False) else None)
    if getattr(line, "json", False):
        show_json(found)
    elif not found:
        show("no sessions yet; `laguna-agent run PROMPT` makes one")
    else:
        rows = [(s.id, s.outcome, str(s.turns), one_line(s.model, 40), one_line(s.title, 80)) for s in found]
        show_table([("ID", "OUTCOME", "TURNS", "MODEL", "TITLE"), *rows])
    return 0


def show_one(line: Namespace) -> int:
    """Carry out `sessions show`."""
    from laguna_agent.agent.store import find_session, iterate_log

    log = find_session(line.session)
    for record in iterate_log(log):
        if line.json:
            import msgspec

            show(msgspec.json.encode(record).decode())
        else:
            for text in _lines(record):
                show(text)
    return 0


def export(line: Namespace) -> int:
    """Carry out `sessions export`."""
    import msgspec

    from laguna_agent.agent.store import find_session
    from laguna_agent.headless.artifacts import write_whole

    log = find_session(line.session)
    if line.format == "log":
        data = log.read_bytes()
    elif line.format == "atif":
        from laguna_agent.agent.trajectory import atif

        data = msgspec.json.format(msgspec.json.encode(atif(log))) + b"\n"
    else:
        raise UsageError(f"--format {line.format!r} is not valid; expected atif or log")
    if line.to is None:
        show(data.decode().rstrip("\n"))
    else:
        write_whole(line.to, data)
    return 0


def delete(line: Namespace) -> int:
    """Carry out `sessions delete`; an unknown id among several deletes nothing."""
    from laguna_agent.agent.store import delete_session, find_session

    for found in [find_session(session).parent.name for session in line.sessions]:
        delete_session(found)
        show(f"deleted {found}")
    return 0


def _lines(record: AnyRecord) -> Iterator[str]:
    """A record as a person reads it; what only a replay needs is left out."""
    from laguna_agent.agent import store
    from laguna_agent.event_lines import one_line, printable, summary_line

    match record:
        case store.Opened():
            yield f"session {record.id} in {record.cwd}, {record.model or 'no model'}, {record.created}"
        case store.Prompted():
            text = "".join(getattr(block, "text", "[image]") for block in record.content)
            yield f"\n> {printable(text)}\n"
        case store.Replied():
            text = "".join(getattr(delta, "text", "") for delta in record.deltas if type(delta).__name__ == "TextDelta")
            if text.strip():
                yield printable(text)
            if record.error:
                yield f"[{record.error[0]}: {one_line(record.error[1])}]"
        case store.ToolRan():
            arguments = ", ".join(f"{name}={one_line(str(value), 60)}" for name, value in record.call.arguments.items())
            yield f"- {record.call.name}({arguments}): {one_line(record.result.text)}"
        case store.Permitted(allowed=False):
            yield f"  denied: {one_line(record.reason)}"
        case store.Checked():
            yield f"check {record.run.when}: exit {record.run.exit_code}: {one_line(record.run.command)}"
        case store.Ended():
            yield f"\n{summary_line(record.result)}"
