"""`laguna-agent sessions`: the record of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from laguna_agent.cli.checkpoints import diff, restore
from laguna_agent.cli.grammar import command_group
from laguna_agent.cli.options import Json, path_option
from laguna_agent.cli.printing import show, show_json, show_table

if TYPE_CHECKING:
    from laguna_agent.agent.store import AnyRecord


Here = Annotated[bool, typer.Option("--here", help="only those of this directory")]
SessionId = Annotated[str, typer.Argument(metavar="ID", help="the session, or the beginning of its id")]
SessionIds = Annotated[list[str], typer.Argument(metavar="ID...", help="sessions, or the beginnings of their ids")]
Format = Annotated[str, typer.Option("--format", metavar="FORMAT", help="atif | log | md")]
AsTimeline = Annotated[
    bool, typer.Option("--timeline", help="show where time and tokens went, request by request; with --json as data")
]
To = Annotated[Path | None, path_option("--to", "-o", help="write to FILE instead of stdout")]


def list_all(here: Here = False, as_json: Json = False) -> int:
    """List sessions, newest first."""
    from laguna_agent.agent.archive import list_sessions
    from laguna_agent.event_lines import one_line

    found = list_sessions(Path.cwd() if here else None)
    if as_json:
        show_json(found)
    elif not found:
        show("no sessions yet; `laguna-agent run PROMPT` makes one")
    else:
        rows = [(s.id, s.outcome, str(s.turns), one_line(s.model, 40), one_line(s.title, 80)) for s in found]
        show_table([("ID", "OUTCOME", "TURNS", "MODEL", "TITLE"), *rows])
    return 0


def show_one(session: SessionId, as_json: Json = False, timeline: AsTimeline = False) -> int:
    """Print a session as text, or its log as JSON lines; what may be a secret is not shown as text."""
    if timeline:
        return _show_timeline(session, as_json)
    from laguna_agent.agent.exports import text_for_export
    from laguna_agent.agent.store import Said, find_session, iterate_log
    from laguna_agent.credentials import know_stored_keys
    from laguna_agent.event_lines import printable
    from laguna_agent.redaction import without_keys

    know_stored_keys()
    log = find_session(session)
    for record in iterate_log(log):
        if as_json:
            import msgspec

            show(without_keys(msgspec.json.encode(record).decode()))
        elif not isinstance(record, Said):  # what it says stands in other records too
            for text in _lines(record):
                show(printable(text_for_export(text)))
    return 0


def _show_timeline(session: str, as_json: bool) -> int:
    from laguna_agent.agent.exports import for_export
    from laguna_agent.agent.store import find_session, iterate_log
    from laguna_agent.agent.timeline import timeline
    from laguna_agent.cli.timeline import show_timeline
    from laguna_agent.credentials import know_stored_keys

    know_stored_keys()
    told = timeline(iterate_log(find_session(session)))
    for prompt in told.prompts:
        prompt.title = str(for_export(prompt.title))
    if as_json:
        show_json(told)
    else:
        show_timeline(told)
    return 0


def export(session: SessionId, form: Format = "atif", to: To = None) -> int:
    """Export a session as ATIF 1.8 JSON, as the log for --replay, or as a page of Markdown."""
    from laguna_agent.agent.exporting import exported
    from laguna_agent.agent.store import find_session
    from laguna_agent.headless.artifacts import write_private

    data = exported(find_session(session), form)
    if to is None:
        show(data.decode().rstrip("\n"))
    else:
        write_private(to, data)
    return 0


def fork(session: SessionId) -> int:
    """Copy a session's conversation into a new one, and print the new one's id. Files are not copied."""
    from laguna_agent.agent.archive import fork_session

    show(fork_session(session))
    return 0


def recover(session: SessionId) -> int:
    """Make a new session of what of a damaged one is whole, and print its id. The damaged one stays as it is."""
    from laguna_agent.agent.archive import recover_session

    show(recover_session(session))
    return 0


def delete(sessions: SessionIds) -> int:
    """Delete sessions and everything kept with them. An unknown id among several deletes nothing."""
    from laguna_agent.agent.archive import delete_session
    from laguna_agent.agent.store import find_session

    for found in [find_session(session).parent.name for session in sessions]:
        delete_session(found)
        show(f"deleted {found}")
    return 0


def _lines(record: AnyRecord) -> Iterator[str]:
    """A record as a person reads it; what only a replay needs is left out."""
    from laguna_agent.agent import store
    from laguna_agent.agent.compaction import compaction_event
    from laguna_agent.event_lines import one_line, summary_line

    match record:
        case store.Opened():
            yield f"session {record.id} in {record.cwd}, {record.model or 'no model'}, {record.created}"
        case store.Prompted() | store.Steered():
            text = "".join(getattr(block, "text", "[image]") for block in record.content)
            yield f"\n> {text}\n"
        case store.Expanded():
            yield record.problem or f"[/{record.name} stands for:]\n{record.text}\n"
        case store.Replied():
            text = "".join(getattr(delta, "text", "") for delta in record.deltas if type(delta).__name__ == "TextDelta")
            if text.strip():
                yield text
            if record.error:
                yield f"[{record.error[0]}: {one_line(record.error[1])}]"
        case store.ToolRan():
            arguments = ", ".join(f"{name}={one_line(str(value), 60)}" for name, value in record.call.arguments.items())
            yield f"- {record.call.name}({arguments}): {one_line(record.result.text)}"
        case store.Permitted(allowed=False):
            yield f"  denied: {one_line(record.reason)}"
        case store.Compacted():
            yield f"[compacted: {compaction_event(record).summary}]"
            if record.summary:
                yield record.summary
        case store.Rewound() | store.Redone() | store.Restored() | store.Uncompacted() | store.Forked():
            yield f"[{_turn_of_events(record)}]"
        case store.Checked():
            yield f"check {record.run.when}: exit {record.run.exit_code}: {one_line(record.run.command)}"
        case store.Ended():
            yield f"\n{summary_line(record.result)}"


def _turn_of_events(record: AnyRecord) -> str:
    """What a record says of the records before it."""
    from laguna_agent.agent import store

    match record:
        case store.Rewound():
            return f"{record.prompts} of the prompts before this were taken back"
        case store.Redone():
            return "what was taken back before this is there again"
        case store.Uncompacted():
            return "the compaction before this was taken back"
        case store.Restored():
            return f"files put back{f', but for {len(record.problems)}' if record.problems else ''}"
        case store.Forked():
            return f"copied to session {record.id}"
    raise AssertionError(f"{type(record).__name__} is none of them")


app = command_group("List, show, export, copy and delete recorded sessions, and put their files back.", list_all)
app.command("list")(list_all)
app.command("show")(show_one)
app.command("export")(export)
app.command("fork")(fork)
app.command("recover")(recover)
app.command("delete")(delete)
app.command("diff")(diff)
app.command("restore")(restore)
