"""A recorded session as a file for others: as a trajectory, as its log, or as a page that people read.

Knows the formats; must not know where the file goes. Of `md` and `atif` what may be a secret is left out (`exports`);
the log keeps what a replay needs, so only known keys are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from laguna_agent.errors import UsageError

FORMATS = ("md", "atif", "log")
LONGEST_RESULT = 4_000
"""Characters of a call's result on a page."""


def exported(log: Path, form: str) -> bytes:
    """The session whose log is at `log` in one of FORMATS. Blocking. Raises UsageError."""
    from laguna_agent.credentials import know_stored_keys
    from laguna_agent.redaction import bytes_without_keys

    know_stored_keys()
    match form:
        case "log":
            return bytes_without_keys(log.read_bytes())
        case "atif":
            from laguna_agent.agent.trajectory import atif

            return msgspec.json.format(msgspec.json.encode(atif(log))) + b"\n"
        case "md":
            return _page(log).encode()
    raise UsageError(f"--format {form!r} is not valid; expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")


def _page(log: Path) -> str:
    from laguna_agent.agent.conversation import in_force
    from laguna_agent.agent.exports import text_for_export
    from laguna_agent.agent.store import iterate_log
    from laguna_agent.visible import visible

    parts = list(_parts(in_force(iterate_log(log))))
    if len(parts) < 2:
        raise UsageError("nothing was said in this session yet")
    return visible(text_for_export("\n\n".join(parts))) + "\n"


def _parts(records: Iterable[object]) -> Iterator[str]:
    """The conversation in Markdown; what was taken back is left out."""
    from laguna_agent.agent import store
    from laguna_agent.backend.base import TextDelta

    opened = False
    for record in records:
        match record:
            case store.Opened() if not opened:
                opened = True
                yield f"# Session {record.id}\n\n{record.model or 'no model'} in `{record.cwd}`, {record.created}"
            case store.Prompted():
                text = "".join(getattr(block, "text", "[image]") for block in record.content)
                yield "## Prompt\n\n" + "\n".join(f"> {line}" for line in text.split("\n"))
            case store.Replied():
                text = "".join(delta.text for delta in record.deltas if isinstance(delta, TextDelta)).strip()
                if text:
                    yield text
            case store.ToolRan():
                yield _call(record.call.name, record.call.arguments, record.result.text, record.result.is_error)
            case store.Ended():
                yield f"*{record.result.outcome}*" + (f": {record.result.message}" if record.result.message else "")


def _call(name: str, arguments: dict[str, object], result: str, failed: bool) -> str:
    command = arguments.get("command") if name == "shell" else None
    head = f"**{name}**" + (" failed" if failed else "")
    asked = str(command) if command is not None else json.dumps(arguments, ensure_ascii=False, indent=1)
    if len(result) > LONGEST_RESULT:
        result = f"{result[:LONGEST_RESULT]}\n... {len(result) - LONGEST_RESULT} more characters"
    return f"{head}\n\n{_fenced(asked)}\n\n{_fenced(result)}"


def _fenced(text: str) -> str:
    """A block that no text in it can end."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text.rstrip()}\n{fence}"
