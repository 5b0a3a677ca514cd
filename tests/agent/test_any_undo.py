"""Whole turns in any order, with tools, commands and a person who edits meanwhile: what is taken back is exact, the
person's repository stays as it is, and the log replays."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from random import Random

import anyio
import pytest

from laguna_agent.agent.events import Event, Forked, Redone, Rewound
from laguna_agent.agent.permissions import deny_all
from laguna_agent.agent.session import Session
from laguna_agent.agent.store import find_session
from laguna_agent.backend.base import Delta, Finished, ToolCallDelta
from laguna_agent.config import Settings
from laguna_agent.sandbox.policy import PROTECTED_NAMES
from tests.agent.driving import lines, replayed, talk
from tests.agent.listed_backend import ListedBackend, answer
from tests.checkpoints.disks import NAMES, State, is_ignored, make, repository_of, state_of

SETTINGS = Settings(model="local/listed", approve="all")
STEPS = {"prompt": 7, "look": 1, "person": 2, "/undo": 3, "/rewind 2": 2, "/redo": 3, "/fork 1": 1, "reopened": 1}
SPELLED = [name for name in NAMES if name.isprintable()]
EDITS = (
    "printf 'a\\r\\nb' > {one}", "mkdir -p {one}/deep && echo x > {one}/deep/{two}", "rm -rf {one}",
    "ln -sfn {two} {one}",
    "mv -f {one} {two}", "chmod 755 {one}", "chmod 600 {one}", "printf '\\0\\377' > {one}", "mkdir -p {one}",
    "echo y >> sub/inside", "echo z > tree/{one}", "echo ignored > {one}.o", "cp -a sub {one}",
)  # fmt: skip


def call(name: str, **arguments: object) -> list[Delta]:
    return [ToolCallDelta(0, "", name, json.dumps(arguments)), Finished("tool_calls")]


class Told:
    """A session, and the files before each of its prompts that are in force."""

    def __init__(self, root: Path, random: Random) -> None:
        self.root, self.random = root, random
        self.before: list[State] = []
        self.undone: list[tuple[list[State], State]] = []
        self.person = False
        self.events: list[Event] = []
        self.repository = repository_of(root)

    async def open(self, resumed: str | None = None) -> None:
        if resumed is None:
            self.session = await Session.start(self.root, SETTINGS, approver=deny_all)
        else:
            self.session = await Session.resume(resumed, SETTINGS, approver=deny_all)
        self.backend = ListedBackend()
        self.session.backend, self.session.wire_model = self.backend, "listed"

    def now(self) -> State:
        # While a sandbox is up, empty directories keep protected names from being taken.
        return state_of(self.root, ignored=lambda path: is_ignored(path) or os.fsdecode(path) in PROTECTED_NAMES)

    async def say(self, prompt: str) -> list[Event]:
        seen = await talk(self.session, prompt)
        self.events += seen
        return seen

    async def step(self, what: str) -> None:
        if what == "reopened":
            await self.session.aclose()
            await self.open(self.session.id)
        elif what == "person":
            self.person = True
            (self.root / f"mine {self.random.random()}").write_text("mine")
            self.before = [{**state, **self._mine()} for state in self.before]
            self.undone = [
                ([{**each, **self._mine()} for each in b], {**now, **self._mine()}) for b, now in self.undone
            ]
        elif what in ("prompt", "look"):
            await self._prompt(what)
        elif what == "/redo":
            await self._redo()
        else:
            await self._back(what)
        assert repository_of(self.root) == self.repository

    def _mine(self) -> State:
        return {path: each for path, each in self.now().items() if path.startswith(b"mine ")}

    async def _prompt(self, what: str) -> None:
        self.before.append(self.now())
        self.undone.clear()
        calls = [call("list")] if what == "look" else [self._edit() for _ in range(self.random.randrange(1, 4))]
        self.backend.answers = [*calls, answer("Done.")]
        await self.say(what)

    def _edit(self) -> list[Delta]:
        one, two = self.random.choice(SPELLED), self.random.choice(SPELLED)
        if self.random.random() < 0.3:
            return call("write", path=f"made/{one}", content=f"{self.random.random()}\r\n")
        command = self.random.choice(EDITS).format(one=shlex.quote(one), two=shlex.quote(two))
        return call("shell", command=command)

    async def _back(self, what: str) -> None:
        count, was = int(what.split()[1]) if " " in what else 1, self.now()
        seen = await self.say(what)
        rewound = any(isinstance(event, Rewound) for event in seen)
        forked = next((event.session_id for event in seen if isinstance(event, Forked)), None)
        if count > len(self.before):
            assert not rewound and forked is None
            return
        assert rewound or forked, "".join(getattr(event, "text", "") for event in seen)
        require_same(self.now(), self.before[-count])
        if rewound:
            self.undone.append((self.before[-count:], was))
            del self.before[-count:]
        elif self.now() != was:
            self.undone.append(([], was))

    async def _redo(self) -> None:
        seen = await self.say("/redo")
        if not self.undone:
            assert not any(isinstance(event, Redone) for event in seen)
            return
        before, was = self.undone.pop()
        require_same(self.now(), was)
        self.before += before


def require_same(after: State, wanted: State) -> None:
    """They are alike, but for directories that hold ignored files, which are not taken away."""
    extra = {path for path in after.keys() - wanted.keys() if after[path][0] == "directory"}
    assert {path: each for path, each in after.items() if path not in extra} == wanted


def run(root: Path, seed: int, steps: int) -> None:
    make(root, nested=True)
    random = Random(seed)

    async def go() -> Told:
        told = Told(Path(os.path.realpath(root)), random)
        await told.open()
        for step in random.choices(list(STEPS), list(STEPS.values()), k=steps):
            await told.step(step)
        await told.session.aclose()
        return told

    told = anyio.run(go)
    assert lines(replayed(find_session(told.session.id))) == lines(told.events)


@pytest.mark.parametrize("seed", range(4))
def test_any_order(workspace: Path, seed: int) -> None:
    run(workspace, seed, 14)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_any_order_for_long(workspace: Path, seed: int) -> None:
    run(workspace, seed, 60)
