"""The checkpoints of one session: taken, compared, put back.

    kept = keep.take()                         the files as they are now
    proposal = keep.propose([Span(...)])       what taking back would do, and whose work it would lose
    done = keep.carry_out(proposal)            do exactly that, or nothing where the disk has moved on

Blocking and thread-safe. Knows the store, the scanner and the plans; must not know prompts, logs or faces.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from laguna_agent.checkpoints.housekeeping import tidy
from laguna_agent.checkpoints.plan import Plan, Span, plan_back, plan_whole
from laguna_agent.checkpoints.restore import Restorer
from laguna_agent.checkpoints.scan import Look, Scanner, outermost
from laguna_agent.checkpoints.store import CheckpointError, Store, store_directory
from laguna_agent.checkpoints.trees import Entry, written
from laguna_agent.messages import FileDiff
from laguna_agent.sandbox.policy import Policy

SHOWN_BYTES = 200_000
"""Bytes of the longest file whose change is shown as text."""
TIDY_EVERY = 100
"""Looks after which it is found out how much is kept."""
NAMED = 20
"""Files that are named as left out; more are counted."""


class Kept(msgspec.Struct, frozen=True):
    """A checkpoint: the name of its tree in hex, and what of the workspace is not in it though nothing says that it
    should be left out."""

    tree: str
    left: tuple[str, ...] = ()


class Proposal(msgspec.Struct, frozen=True):
    """What would be done from the tree `now` to the tree `target`. `changed` and `conflicts` are paths as people name
    them; `diffs` show what the conflicts would lose, where that is text."""

    now: str
    target: str
    plan: Plan
    changed: tuple[str, ...]
    conflicts: tuple[str, ...] = ()
    diffs: tuple[FileDiff, ...] = ()
    left: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True):
    """What came of it: the tree as it is now, and a line for each path that was not put back."""

    tree: str
    problems: tuple[str, ...] = ()


class Keep:
    """See the module. `session` is whose checkpoints these are."""

    def __init__(self, policy: Policy, session: str) -> None:
        self._policy, self._session = policy, session
        self._lock = threading.Lock()
        self._scanner: Scanner | None = None
        self._pinned: set[bytes] = set()
        self._looks = 0

    def _opened(self) -> Scanner:
        if self._scanner is None:
            self._scanner = Scanner(Store(store_directory(outermost(self._policy.workspace))), self._policy)
        return self._scanner

    def take(self) -> Kept:
        """Keep everything as it is now. Raises CheckpointError where that cannot be."""
        scanner = self._opened()
        with self._lock, scanner.store.locked():
            look = self._look(scanner)
        return Kept(look.tree.hex(), self._named(look))

    def give_up(self) -> None:
        """Whoever is in `take` need not go on: it raises CheckpointError."""
        if self._scanner is not None:
            self._scanner.stop.set()

    def propose(self, spans: Sequence[Span], *, unfinished: bool = False) -> Proposal:
        """What taking back these spans would do now. Keeps the files as they are, whatever becomes of it."""
        scanner = self._opened()
        with self._lock, scanner.store.locked():
            look = self._look(scanner)
            plan = plan_back(spans, look.tree, look.left, scanner.store.read, unfinished=unfinished)
            return self._proposal(scanner, look, plan)

    def propose_whole(self, tree: str) -> Proposal:
        """What making everything as in a checkpoint would do now."""
        scanner = self._opened()
        with self._lock, scanner.store.locked():
            look = self._look(scanner)
            plan = plan_whole(bytes.fromhex(tree), look.tree, look.left, scanner.store.read)
            return self._proposal(scanner, look, plan)

    def carry_out(self, proposal: Proposal) -> Done:
        """Do what was proposed, conflicts too. Raises CheckpointError where the files are not as they were then."""
        scanner = self._opened()
        with self._lock, scanner.store.locked():
            look = self._look(scanner)
            if look.tree.hex() != proposal.now:
                raise CheckpointError("files were changed in the meantime, so nothing was put back; look at it again")
            problems = Restorer(scanner.roots, scanner.store.read).carry_out(proposal.plan, look.files)
            after = self._look(scanner)
        return Done(after.tree.hex(), tuple(problems))

    def name(self, path: bytes) -> str:
        """A path of a tree as people name it: relative to the first root, absolute in others."""
        number, _, below = path.partition(b"/")
        text = os.fsdecode(below)
        return text if number == b"0" else str(self._opened().roots[int(number)] / text)

    def absolute(self, path: bytes) -> Path:
        """Where it lies."""
        number, _, below = path.partition(b"/")
        return self._opened().roots[int(number)] / os.fsdecode(below)

    def read(self, id: bytes) -> bytes:
        """An object's content. Raises CheckpointError."""
        return self._opened().store.read(id)

    def _look(self, scanner: Scanner) -> Look:
        if self._looks % TIDY_EVERY == 0:
            tidy(scanner.store, self._session)
        self._looks += 1
        scanner.stop.clear()
        look = scanner.look()
        self._pin(scanner, look.tree)
        return look

    def _pin(self, scanner: Scanner, tree: bytes) -> None:
        if tree not in self._pinned:
            scanner.store.pin(self._session, tree)
            self._pinned.add(tree)

    def _named(self, look: Look) -> tuple[str, ...]:
        names = [self.name(path) for path, why in sorted(look.left.items()) if why in ("large", "unreadable")]
        return (*names[:NAMED], f"{len(names) - NAMED} more") if len(names) > NAMED else tuple(names)

    def _proposal(self, scanner: Scanner, look: Look, plan: Plan) -> Proposal:
        shown = (self._diff(path, plan.now.get(path), plan.target.get(path), scanner) for path in plan.conflicts)
        target = written(plan.target, scanner.store.add)
        scanner.store.flush()
        self._pin(scanner, target)
        return Proposal(
            look.tree.hex(),
            target.hex(),
            plan,
            tuple(map(self.name, plan.changed)),
            tuple(map(self.name, plan.conflicts)),
            tuple(diff for diff in shown if diff is not None),
            self._named(look),
        )

    def _diff(self, path: bytes, now: Entry | None, then: Entry | None, scanner: Scanner) -> FileDiff | None:
        old, new = text_of(now, scanner.store), text_of(then, scanner.store)
        if (old is None) != (now is None) or (new is None) != (then is None):
            return None
        return FileDiff(self.name(path), old, new)


def text_of(entry: Entry | None, store: Store) -> str | None:
    """The text of a file, None where there is none to show."""
    if entry is None or entry.is_directory:
        return None
    content = store.read(entry.id)
    if len(content) > SHOWN_BYTES or b"\0" in content:
        return None
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
