"""The ledger remembers what was seen, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from laguna_agent.errors import ToolError
from laguna_agent.tools import ledger
from laguna_agent.tools.ledger import FileLedger

A = Path("/a")


def test_unseen_and_unchanged_files_pass() -> None:
    book = FileLedger()
    book.check(A, "a", b"anything")
    book.saw(A, b"x")
    book.check(A, "a", b"x")
    assert book.knows(A)
    book.forget(A)
    assert not book.knows(A)


def test_a_long_file_must_be_read_again() -> None:
    book = FileLedger()
    book.saw(A, b"x" * (ledger.TEXT_CAP + 1))
    for _ in range(2):
        with pytest.raises(ToolError, match="Read it again"):
            book.check(A, "a", b"y")


def test_a_long_diff_must_be_read_again() -> None:
    book = FileLedger()
    book.saw(A, b"x\n" * 500)
    with pytest.raises(ToolError, match=r"501 lines|\d+ lines of diff"):
        book.check(A, "a", b"y\n" * 500)
    assert book.knows(A)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "TOTAL_CAP", 10_000)
    monkeypatch.setattr(ledger, "FILES_CAP", 50)
    book = FileLedger()
    for number in range(100):
        book.saw(Path(f"/{number}"), b"x" * 900)
    assert book.held <= 10_000
    assert not book.knows(Path("/0"))
    with pytest.raises(ToolError, match="Read it again"):
        book.check(Path("/60"), "60", b"y")
    with pytest.raises(ToolError, match=r"-x+\n\+y"):
        book.check(Path("/99"), "99", b"y")
