"""Lists of long sessions: each long log is read once for as long as it stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from laguna_agent.agent.archive import LONG_LOG, SUMMARY_FILE, delete_session, list_sessions, set_title, summarize
from laguna_agent.agent.journal import Journal
from laguna_agent.agent.store import Opened, Prompted, Said, session_directory
from laguna_agent.messages import TextBlock, text_message

ID = "20260101-000000-abcdef"


@pytest.fixture
def log(workspace: Path) -> Path:
    """A session's log, long enough."""
    path = session_directory(ID) / "log.jsonl"
    journal = Journal(path)
    journal.append(Opened(ID, str(workspace), "m", "2026-01-01T00:00:00Z", "laguna-agent 0"), durable=False)
    journal.append(Prompted((TextBlock("The first prompt"),)), durable=False)
    for _ in range(5):
        journal.append(Said(text_message("assistant", "word " * (LONG_LOG // 20))), durable=False)
    journal.close()
    assert path.stat().st_size > LONG_LOG
    return path


def test_it_is_read_once(log: Path) -> None:
    (first,) = list_sessions()
    assert first == summarize(log)
    kept = log.with_name(SUMMARY_FILE)
    assert kept.stat().st_mode & 0o077 == 0
    # The same size and the same time: nobody looks into it again.
    times = log.stat()
    log.write_bytes(b"x" * times.st_size)
    os.utime(log, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert list_sessions() == [first]


def test_whatever_changes_is_seen(log: Path) -> None:
    (first,) = list_sessions()
    journal = Journal(log)
    journal.append(Prompted((TextBlock("The second"),)))
    journal.close()
    (second,) = list_sessions()
    assert (first.prompts, second.prompts) == (1, 2)
    set_title(ID, "A name of its own")
    assert [each.title for each in list_sessions()] == ["A name of its own"]


def test_a_spoilt_summary_is_made_again(log: Path) -> None:
    (first,) = list_sessions()
    for spoilt in (b"", b"{}", b"[1]", b'{"stamp":[1,2,3],"summary":{}}'):
        log.with_name(SUMMARY_FILE).write_bytes(spoilt)
        assert list_sessions() == [first]
    delete_session(ID)
    assert not log.parent.exists()
