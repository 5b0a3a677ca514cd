"""Random histories of edits by the agent and by the person: what is taken back is exact, and what is not the agent's
stays. The person's repository is never touched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laguna_agent.checkpoints.keep import Keep
from laguna_agent.checkpoints.plan import Span
from laguna_agent.sandbox.policy import policy_for
from tests.checkpoints.disks import State, edit, git, is_ignored, make, repository_of, state_of

ASIDE = b".before-undo"
steps = st.lists(
    st.tuples(
        st.sampled_from(["agent", "agent", "person", "person", "undo", "undo", "redo", "ignored"]),
        st.integers(0, 10**6),
    ),
    min_size=2,
    max_size=9,
)


class History:
    """A workspace, its checkpoints, and what was there at each point."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.keep = Keep(policy_for(root), "session")
        self.spans: list[Span] = []
        self.states: list[tuple[State, State]] = []
        self.statuses: list[bytes] = []
        self.undone: tuple[Span, State, list[Span], list[tuple[State, State]], list[bytes]] | None = None
        self.repository = repository_of(root)
        self.others_since = False

    def status(self) -> bytes:
        return git(self.root, "--no-optional-locks", "status", "--porcelain", "-z", "--untracked-files=all")

    def now(self) -> State:
        return state_of(self.root, ignored=lambda path: is_ignored(path) or ASIDE in path)

    def agent(self, seed: int) -> None:
        random = Random(seed)
        before, first = self.keep.take(), self.now()
        self.statuses.append(self.status())
        for _ in range(random.randrange(1, 6)):
            edit(self.root, random)
        after = self.keep.take()
        self.spans.append(Span(bytes.fromhex(before.tree), bytes.fromhex(after.tree)))
        self.states.append((first, self.now()))
        self.undone = None

    def person(self, seed: int) -> None:
        self.others_since = True
        touched = [path for first, last in self.states for path in differing(first, last)]
        edit(self.root, Random(seed), touched)

    def ignored(self, seed: int) -> None:
        self.others_since = True
        folder = Random(seed).choice([each for each in [self.root, *self.root.iterdir()] if each.is_dir()])
        if ".git" not in folder.parts and not folder.is_symlink():
            (folder / "junk.o").write_bytes(b"%d" % seed)

    def undo(self, seed: int) -> None:
        if not self.spans:
            return
        count = Random(seed).randrange(1, len(self.spans) + 1)
        spans, states, before = self.spans[-count:], self.states[-count:], self.now()
        theirs = self.changed_by_others(states, before)
        proposal = self.keep.propose(spans)
        assert self.now() == before, "a proposal changes nothing"
        touched = {path for first, last in states for path in differing(first, last)}
        known = {os.fsencode(path) for path in proposal.conflicts}
        for path in theirs & touched:
            at = next(at for at, (first, last) in enumerate(states) if path in differing(first, last))
            if path not in self.changed_by_others(states[at:], before):
                continue  # That was before the agent touched it, and is what it goes back to.
            wanted = states[at][0].get(path)
            both = (before.get(path), wanted)
            if both[0] != wanted and not all(each is None or each[0] == "directory" for each in both):
                # Also where what is in the way is a directory above.
                assert path in known or any(path.startswith(each + b"/") for each in known), path
        if not theirs and not proposal.plan.in_the_way:
            assert not proposal.conflicts
        if proposal.conflicts and seed % 2:
            return  # The person does not want it.
        done = self.keep.carry_out(proposal)
        assert not done.problems
        after = self.now()
        if not proposal.conflicts:
            for path in theirs - touched:
                if path in before:
                    assert after.get(path) == before[path], f"the person's {path!r} was changed"
            if not theirs:
                require_same(after, states[0][0])
                assert self.status() == self.statuses[-count]
            for path in touched - theirs:
                wanted = next(first for first, last in states if path in differing(first, last)).get(path)
                if wanted is None:
                    assert path not in after or after[path][0] == "directory"
                else:
                    assert after.get(path) == wanted, path
        gone, self.statuses = self.statuses[-count:], self.statuses[:-count]
        del self.spans[-count:], self.states[-count:]
        self.others_since = bool(proposal.plan.in_the_way)
        self.undone = (Span(bytes.fromhex(proposal.now), bytes.fromhex(done.tree)), before, spans, states, gone)

    def changed_by_others(self, states: list[tuple[State, State]], now: State) -> set[bytes]:
        following = [first for first, _ in states[1:]] + [now]
        return {path for (_, last), first in zip(states, following, strict=True) for path in differing(last, first)}

    def redo(self, _: int) -> None:
        if self.undone is None:
            return
        span, state, spans, states, statuses = self.undone
        proposal = self.keep.propose([span])
        if proposal.conflicts:
            assert self.others_since, "nobody changed anything since"
            return
        assert not self.keep.carry_out(proposal).problems
        if not self.others_since:
            require_same(self.now(), state)
        self.spans += spans
        self.states += states
        self.statuses += statuses
        self.undone = None

    def require_untouched(self) -> None:
        assert repository_of(self.root) == self.repository


def differing(one: State, other: State) -> set[bytes]:
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


def require_same(after: State, wanted: State) -> None:
    """They are alike, but for directories that hold ignored files, which are not taken away."""
    extra = {path for path in after.keys() - wanted.keys() if after[path][0] == "directory"}
    assert {path: each for path, each in after.items() if path not in extra} == wanted


@contextmanager
def workspace(nested: bool) -> Iterator[Path]:
    """One of its own for each example, with a state directory of its own."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(Path(folder) / "state"))
        patch.setenv("XDG_CONFIG_HOME", str(Path(folder) / "config"))
        root = Path(os.path.realpath(folder)) / "work"
        root.mkdir()
        make(root, nested=nested)
        yield root


def run(history: list[tuple[str, int]], *, nested: bool) -> None:
    with workspace(nested) as root:
        told = History(root)
        for what, seed in history:
            getattr(told, what)(seed)
            told.require_untouched()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_any_history(history: list[tuple[str, int]]) -> None:
    run(history, nested=False)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps)
def test_any_history_with_submodules_and_worktrees(history: list[tuple[str, int]]) -> None:
    run(history, nested=True)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps, st.booleans())
def test_very_many_histories(history: list[tuple[str, int]], nested: bool) -> None:
    run(history, nested=nested)
