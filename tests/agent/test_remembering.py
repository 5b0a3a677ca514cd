"""What a backend keeps beside a session: kept once, found again by the next run and by copies, never in the way."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import anyio
import pytest

from laguna_agent.agent import remembering
from laguna_agent.agent.archive import delete_session, fork_session
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.remembering import cache_folder, make_room
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import sessions_directory
from laguna_agent.backend.base import Backend, Remembering
from laguna_agent.config import Settings
from tests.agent.driving import lines, replayed, talk
from tests.agent.listed_backend import ListedBackend, answer


class KeepingBackend(ListedBackend):
    """Keeps how many messages it has read; `did` is what it was asked to do, in order."""

    def __init__(self, *texts: str) -> None:
        super().__init__([answer(text) for text in texts])
        self.did: list[str] = []
        self.known = 0
        self.slow = False
        self.broken: Exception | None = None

    async def remember(self, folder: Path) -> None:
        """A number in a file."""
        await self._trouble("remember")
        folder.mkdir(exist_ok=True)
        (folder / "messages").write_text(str(max(len(request.messages) for request in self.requests)))

    async def recall(self, folder: Path) -> None:
        """The number."""
        await self._trouble("recall" if folder.is_dir() else "recall nothing")
        if (folder / "messages").exists():
            self.known = int((folder / "messages").read_text())

    async def aclose(self) -> None:
        """Said too."""
        self.did.append("aclose")

    async def _trouble(self, what: str) -> None:
        assert not self.requests or what == "remember", "recalled after the first request"
        self.did.append(what)
        if self.slow:
            await anyio.sleep(60)
        if self.broken is not None:
            raise self.broken


def spoken(backend: Backend, workspace: Path, *prompts: str, resume: str | None = None) -> str:
    """Say the prompts in a session that has the backend; its id."""

    async def run() -> str:
        settings = Settings(model="local/listed")
        if resume is None:
            session = await Session.start(workspace, settings, approver=deny_all)
        else:
            session = await Session.resume(resume, settings, approver=deny_all)
        session.backend, session.wire_model = backend, "listed"
        for prompt in prompts:
            events = await talk(session, prompt)
            assert session.record().exit_code == 0, events
        await session.aclose()
        return session.id

    return anyio.run(run)


def test_the_next_run_takes_back_what_this_one_kept(workspace: Path) -> None:
    first, second = KeepingBackend("One.", "Two."), KeepingBackend("Three.", "Four.")
    assert isinstance(first, Remembering)
    session = spoken(first, workspace, "x", "y")
    assert first.did == ["remember", "aclose"]
    assert (cache_folder(session) / "messages").read_text() == "4"
    spoken(second, workspace, "z", "again", resume=session)
    assert second.did == ["recall", "remember", "aclose"]
    assert second.known == 4
    assert (cache_folder(session) / "messages").read_text() == "8"


def test_without_a_prompt_nothing_is_kept_and_a_run_that_was_killed_kept_nothing(workspace: Path) -> None:
    idle, first, second = KeepingBackend(), KeepingBackend("One."), KeepingBackend("Two.")
    session = spoken(first, workspace, "x")
    shutil.rmtree(cache_folder(session))
    spoken(idle, workspace, resume=session)
    assert idle.did == ["aclose"]
    spoken(idle, workspace, "/usage", resume=session)
    assert idle.did == ["aclose", "aclose"]
    spoken(second, workspace, "y", resume=session)
    assert second.did == ["recall nothing", "remember", "aclose"]


def test_a_copy_takes_back_what_its_origin_kept_and_keeps_its_own(workspace: Path) -> None:
    origin = spoken(KeepingBackend("One.", "Two."), workspace, "x", "y")
    copy = fork_session(fork_session(origin))
    assert not cache_folder(copy).exists()
    backend = KeepingBackend("Three.")
    spoken(backend, workspace, "z", resume=copy)
    assert (backend.did, backend.known) == (["recall", "remember", "aclose"], 4)
    assert (cache_folder(copy) / "messages").read_text() == "6"
    assert (cache_folder(origin) / "messages").read_text() == "4"
    again = KeepingBackend("Four.")
    spoken(again, workspace, "z", resume=copy)
    assert again.known == 6


def test_a_copy_outlives_its_origin(workspace: Path) -> None:
    origin = spoken(KeepingBackend("One."), workspace, "x")
    copy = fork_session(origin)
    delete_session(origin)
    assert not cache_folder(origin).exists()
    backend = KeepingBackend("Two.")
    spoken(backend, workspace, "y", resume=copy)
    assert (backend.did[0], backend.known) == ("recall nothing", 0)


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left on device"), ValueError("a bug of the backend's"), None], ids=str
)
def test_what_goes_wrong_is_a_line_in_the_log(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, problem: Exception | None
) -> None:
    monkeypatch.setattr(remembering, "PATIENCE", 0.1)
    session = spoken(KeepingBackend("One."), workspace, "x")
    backend = KeepingBackend("Two.")
    backend.broken, backend.slow = problem, problem is None
    with caplog.at_level(logging.WARNING):
        spoken(backend, workspace, "y", resume=session)
    assert backend.did == ["recall", "remember", "aclose"]
    assert [str(problem or "it took longer than 0.1 s") in record.getMessage() for record in caplog.records] == (
        [False, False] if isinstance(problem, ValueError) else [True, True]
    )
    assert (cache_folder(session) / "messages").read_text() == "2"


def test_a_replay_keeps_and_takes_back_nothing(workspace: Path) -> None:
    from laguna_agent.agent.store import find_session

    session = spoken(KeepingBackend("One."), workspace, "x")
    shutil.rmtree(cache_folder(session))
    spoken(KeepingBackend("Two."), workspace, "y", resume=session)
    kept = (cache_folder(session) / "messages").stat().st_mtime_ns
    assert lines(replayed(find_session(session)))
    assert (cache_folder(session) / "messages").stat().st_mtime_ns == kept


def test_what_is_kept_of_all_sessions_has_a_bound() -> None:
    folders = []
    for number in range(5):
        folder = sessions_directory() / f"s{number}" / "cache"
        folder.mkdir(parents=True)
        (folder / "state").write_bytes(b"x" * 1000)
        # The middle one was written last.
        os.utime(folder / "state", (1000 + (number + 2) % 5, 1000 + (number + 2) % 5))
        folders.append(folder)
    make_room(5000)
    assert all(folder.exists() for folder in folders)
    make_room(2500)
    assert [folder.exists() for folder in folders] == [False, True, True, False, False]
    make_room(0)
    assert [folder.exists() for folder in folders] == [False, False, True, False, False]
