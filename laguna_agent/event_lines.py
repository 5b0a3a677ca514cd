"""Events as lines of plain text, for the faces that write to a terminal or a log.

Knows the wording of tool cards, diffs, permission questions and the closing summary; must not know colours, widths or
where the lines go. All text that came from a model, a tool or a file passes through `printable`, because a terminal
would obey control sequences in it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from laguna_agent.visible import visible

if TYPE_CHECKING:
    from laguna_agent.agent.events import (
        ModelProgress,
        PermissionRequested,
        Retrying,
        Steered,
        ToolCallStarted,
        ToolCallUpdate,
    )
    from laguna_agent.agent.outcome import RunRecord
    from laguna_agent.agent.permissions import PermissionAnswer
    from laguna_agent.messages import FileDiff

TITLE_CHARACTERS = 160
DIFF_LINES = 60
ANSWER_KEYS = {"allow_once": "y", "allow_always": "a", "reject_once": "n", "reject_always": "x"}
WISHES = frozenset({"timeout", "background", "network", "unconfined"})
"""Arguments of our own shell that its title or what is unusual about it tells, or that nobody has to judge."""


def printable(text: str) -> str:
    """`text` with every character visible that a terminal would obey, or that hides or reorders what is read."""
    # A carriage return is part of a line end only where it stands right before it: of two the first is shown.
    return visible(text).replace("\r\n", "\n").replace("\f", "\\u{C}")


def one_line(text: str, limit: int = TITLE_CHARACTERS) -> str:
    """`text` on one printable line of at most `limit` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "\u2026"


def started_line(event: ToolCallStarted) -> str:
    """The card of a call that begins: `> $ pytest -q`."""
    return f"> {one_line(event.title or event.name)}"


def ended_line(event: ToolCallUpdate, title: str) -> str:
    """The card of a call that is over; says the exit code, the time, and for a failure what went wrong."""
    facts = [] if event.exit_code is None else [f"exit {event.exit_code}"]
    if event.seconds is not None:
        facts.append(f"{event.seconds:.1f} s")
    if event.sandbox:
        facts.append(f"sandbox: {event.sandbox}")
    failed = event.status == "failed"
    line = f"{'failed' if failed else 'done'}: {one_line(title)}"
    line += f" ({', '.join(facts)})" if facts else ""
    if failed:
        text = "".join(getattr(block, "text", "") for block in event.content)
        line += f": {one_line(text)}" if text else ""
    return line


def progress_line(event: ModelProgress) -> str:
    """How far the work before the first token is: `loading qwen2.5-coder-1.5b 45 %`."""
    match event.stage:
        case "waiting":
            return "waiting for the requests before this one"
        case "reading" if not event.total:
            return "reading the prompt"
        case "reading":
            return f"reading {event.done:,} of {event.total:,} tokens"
        case "retrying":
            return f"asking {event.model} again in {event.total - event.done} s"
        case stage:
            return f"{stage} {event.model}" + (f" {100 * event.done // event.total} %" if event.total else "")


def retry_line(event: Retrying) -> str:
    """An attempt that failed: `busy (503); what it had said is void; attempt 2 in 0.5 s`."""
    void = "; what it had said is void" if event.void else ""
    return f"{event.reason}{void}; attempt {event.attempt + 1} in {event.delay:.1f} s"


def steered_line(event: Steered) -> str:
    """The person's words into a running turn, whole: `you: use the other file`."""
    images = f" [{_count(len(event.images), 'image')}]" if event.images else ""
    return f"you: {printable(event.text)}{images}"


def diff_lines(diff: FileDiff, limit: int = DIFF_LINES) -> Iterator[str]:
    """The change as a unified diff of at most `limit` lines, without line ends."""
    old, new = _lines(diff.old_text), _lines(diff.new_text)
    before = "/dev/null" if diff.old_text is None else f"a/{diff.path}"
    after = "/dev/null" if diff.new_text is None else f"b/{diff.path}"
    lines = list(difflib.unified_diff(old, new, before, after, lineterm=""))
    for line in lines[:limit]:
        yield printable(line)
    if len(lines) > limit:
        yield f"... {len(lines) - limit} more lines"


def _lines(text: str | None) -> list[str]:
    # Not `splitlines`: a character that ends lines elsewhere is to be seen where it is.
    return text.removesuffix("\n").split("\n") if text else []


def summary_line(record: RunRecord) -> str:
    """How a run ended, what it cost and what it touched."""
    cost = "" if record.cost is None else f", ${record.cost:.4f}"
    cached = f" ({record.cached_tokens:,} cached)" if record.cached_tokens else ""
    files = len(record.files_changed)
    line = (
        f"{record.outcome}: {_count(record.turns, 'turn')}, {record.input_tokens:,} tokens in{cached}, "
        f"{record.output_tokens:,} out{cost}, {record.seconds:.1f} s, {_count(files, 'file')} changed"
    )
    line += evidence_words(record.evidence, record.evidence_note)
    return line + (f"; session {record.session_id}" if record.session_id else "")


def evidence_words(evidence: str, note: str) -> str:
    """What stands behind an end, to be added to a line; nothing where there is nothing to say."""
    if evidence == "unverified":
        return f", unverified ({one_line(note)})"
    return ", verified" if evidence == "verified" else ""


def question_lines(request: PermissionRequested) -> list[str]:
    """A permission request with what each answer grants, as `y`, `a`, `n` and `x`.

    Nothing of a command is cut or folded: what is not shown is not allowed knowingly.
    """
    first, *more = printable(request.title).split("\n")
    lines = [f"? {first}", *(f"  {line}" for line in more)]
    lines += [f"  {argument}" for argument in untold_arguments(request)]
    for diff in request.diffs or proposed(request):
        lines.extend(diff_lines(diff))
    if len(request.parts) > 1:
        lines += ["  it runs:", *(f"  - {on_one_line(part)}" for part in request.parts)]
    lines += [f"  ! {on_one_line(fact)}" for fact in request.unusual]
    for option in request.options:
        lines.append(f"  [{ANSWER_KEYS[option.kind]}] {on_one_line(option.grant)}")
    return lines


def on_one_line(text: str) -> str:
    """`text` printable and whole, its line ends shown."""
    return printable(text).replace("\n", " \u21b5 ")


def proposed(request: PermissionRequested) -> tuple[FileDiff, ...]:
    """What an edit that brings no diff would put in place of what, as far as its arguments tell."""
    from laguna_agent.messages import FileDiff

    given = request.input
    new = given.get("new", given.get("content"))
    if request.kind != "edit" or not isinstance(new, str):
        return ()
    old = given.get("old")
    return (FileDiff(str(given.get("path", "")), old if isinstance(old, str) else None, new),)


def untold_arguments(request: PermissionRequested) -> Iterator[str]:
    """`name: value` of what a call is given, as far as neither its title nor a change shows it. Our own titles say it
    all; those of other agents say what they like."""
    if request.kind != "other" and (request.diffs or proposed(request)):
        return
    for name, value in request.input.items():
        # A whole word of it: the `/` that is to be deleted is not told by `Delete a/b`.
        told = any(f" {each} " in f" {request.title} " for each in (value, repr(value)))
        if request.kind != "other" and (told or (request.parts and name in WISHES)):
            continue
        yield printable(f"{name}: {json.dumps(value, ensure_ascii=False)}")


def answer_to(line: str, request: PermissionRequested) -> PermissionAnswer | None:
    """What a typed line means for the request: the key of an option or its first word; None where it is neither."""
    from laguna_agent.agent.permissions import PermissionAnswer

    typed = line.strip().lower()
    words = {"yes": "y", "always": "a", "no": "n"}
    key = words.get(typed, typed)
    kind = next((each.kind for each in request.options if ANSWER_KEYS[each.kind] == key), None)
    if kind is None:
        return None
    allowed = kind.startswith("allow")
    reason = "" if allowed else "the person refused"
    return PermissionAnswer(allowed, remember=kind.endswith("always"), reason=reason)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
