"""Recorded sessions as the pages of session/list: https://agentclientprotocol.com/protocol/v1/session-list"""

from __future__ import annotations

import base64
from pathlib import Path

from laguna_agent.acp import schema
from laguna_agent.agent.archive import SessionSummary, newest_first
from laguna_agent.errors import UsageError
from laguna_agent.visible import visible


def session_page(cwd: str | None, cursor: str | None, size: int) -> schema.ListSessionsResponse:
    """At most `size` sessions (of one directory), newest first, from where `cursor` says; raises UsageError for a
    cursor that no page gave. Sessions without a prompt are left out: an editor makes one with each new window."""
    place = None if cursor is None else read_cursor(cursor)
    sessions: list[schema.SessionInfo] = []
    last = ""
    for mark, summary in newest_first(None if cwd is None else Path(cwd).resolve(), place):
        if not summary.prompts:
            continue
        if len(sessions) == size:
            return schema.ListSessionsResponse(sessions=sessions, next_cursor=write_cursor(last))
        sessions.append(session_info(summary))
        last = mark
    return schema.ListSessionsResponse(sessions=sessions)


def session_info(summary: SessionSummary) -> schema.SessionInfo:
    """A summary as the protocol has it."""
    return schema.SessionInfo(
        session_id=summary.id,
        cwd=summary.cwd,
        title=visible(summary.title) or None,
        updated_at=summary.updated,
        additional_directories=list(summary.roots) or None,
    )


def write_cursor(place: str) -> str:
    """A cursor that means a place to us and nothing to anybody else."""
    return base64.urlsafe_b64encode(place.encode()).decode()


def read_cursor(cursor: str) -> str:
    """The place that a cursor means; raises UsageError."""
    try:
        return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except ValueError:
        raise UsageError(repr(cursor)) from None
