"""What an undo puts back, and what of that is somebody else's work.

A prompt has a span: the tree before it and the tree after it. Whatever differs between the two is its doing; what
differs between one span's end and the next one's beginning, or the disk now, is the person's. Only what the prompts did
is put back. Where the person changed the same path later, or something of theirs lies in the way, that is a conflict,
and nothing is written unless they say so. Knows trees; must not know disks.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence

import msgspec

from laguna_agent.checkpoints.trees import Differences, Entry, Read, Table, differences, parents, table_of

NEW_DIRECTORY = stat.S_IFDIR | 0o755


class Span(msgspec.Struct, frozen=True):
    """The trees before and after one prompt, by name; no `after` where the run was cut off, so that nobody knows who
    changed what came later."""

    before: bytes
    after: bytes | None = None


class Plan(msgspec.Struct, frozen=True):
    """From the table `now` to the table `target`. `conflicts` are paths where work is lost by it that is not the
    agent's, as far as is known; `in_the_way` are those among them that no checkpoint holds, which are moved aside."""

    now: Table
    target: Table
    conflicts: tuple[bytes, ...] = ()
    in_the_way: tuple[bytes, ...] = ()

    @property
    def changed(self) -> tuple[bytes, ...]:
        """The paths that become something else, by name; directories aside."""
        paths = self.now.keys() | self.target.keys()
        both = ((path, self.now.get(path), self.target.get(path)) for path in sorted(paths))
        return tuple(
            path
            for path, now, then in both
            if now != then and not all(each is None or each.is_directory for each in (now, then))
        )

    @property
    def is_nothing(self) -> bool:
        """Whether the disk is as it should be."""
        return self.now == self.target


def plan_back(spans: Sequence[Span], now: bytes, left: Mapping[bytes, str], read: Read, *, unfinished: bool) -> Plan:
    """Take back what the spans did, oldest first, where the disk is as in the tree `now`, without what was `left` out
    of it. `unfinished` says that an earlier attempt was cut off, so that what is absent may be its doing."""
    table = table_of(now, read)
    wanted, foreign = _wanted(spans, now, read)
    target = dict(table)
    for path, entry in wanted.items():
        _put(target, path, entry)
    conflicts = {path for path in foreign if table.get(path) != wanted[path] and not (unfinished and path not in table)}
    return _consistent(table, target, wanted, conflicts, left)


def plan_whole(tree: bytes, now: bytes, left: Mapping[bytes, str], read: Read) -> Plan:
    """Make everything as in `tree`: whatever differs from it is somebody's work."""
    table = table_of(now, read)
    wanted: dict[bytes, Entry | None] = {path: pair[0] for path, pair in differences(tree, now, read).items()}
    target = dict(table)
    for path, entry in wanted.items():
        _put(target, path, entry)
    # What is on the disk and not to be is lost; what is missing is not.
    return _consistent(table, target, wanted, {path for path in wanted if path in table}, left)


def _wanted(spans: Sequence[Span], now: bytes, read: Read) -> tuple[dict[bytes, Entry | None], set[bytes]]:
    """What each path that the spans touched was before the first of them that did; and the paths that were touched by
    others since."""
    wanted: dict[bytes, Entry | None] = {}
    foreign: set[bytes] = set()
    held: dict[bytes, list[Entry | None]] = {}
    for at, span in enumerate(spans):
        following = spans[at + 1].before if at + 1 < len(spans) else now
        done = differences(span.before, following if span.after is None else span.after, read)
        for path, (was, _) in done.items():
            wanted.setdefault(path, was)
            held.setdefault(path, []).append(was)
        since: Differences = {} if span.after is None else differences(span.after, following, read)
        # That a directory has other permissions is no work that could be lost.
        changed = {path for path, pair in since.items() if not all(each and each.is_directory for each in pair)}
        # Nor what is as it was before one of them, as after an undo that left the conversation: a checkpoint holds it.
        changed -= {path for path in changed if since[path][1] in held.get(path, ())}
        foreign |= wanted.keys() & (done.keys() if span.after is None else changed)
    return wanted, foreign


def _put(table: Table, path: bytes, entry: Entry | None) -> None:
    if entry is None:
        table.pop(path, None)
    else:
        table[path] = entry


def _consistent(
    now: Table,
    target: Table,
    wanted: Mapping[bytes, Entry | None],
    conflicts: set[bytes],
    left: Mapping[bytes, str],
) -> Plan:
    """The plan, with a target in which everything lies in a directory."""
    for path in sorted(target):
        for above in reversed(list(parents(path))) if path in target else ():
            holder = target.get(above)
            if holder is not None and holder.is_directory:
                continue
            if holder is None:
                # Somebody put something into a directory that the agent made: it stays.
                held = now.get(above)
                target[above] = held if held is not None and held.is_directory else Entry(NEW_DIRECTORY)
                if held is not None and not held.is_directory and above not in wanted:
                    conflicts.add(above)
            elif path in wanted:
                conflicts.add(above)
                target[above] = Entry(NEW_DIRECTORY)
            else:
                conflicts.add(path)
                target.pop(path, None)
                break
    in_the_way = _in_the_way(now, target, left)
    conflicts |= in_the_way
    # A directory alone is nobody's work.
    real = {path for path in conflicts if path in in_the_way or not _only_directories(path, now, target)}
    return Plan(now, target, tuple(sorted(real)), tuple(sorted(in_the_way)))


def _only_directories(path: bytes, now: Table, target: Table) -> bool:
    return all(each is None or each.is_directory for each in (now.get(path), target.get(path)))


def _in_the_way(now: Table, target: Table, left: Mapping[bytes, str]) -> set[bytes]:
    """What was left out of the look and lies where something is to be put. A directory that holds such a thing and is
    not wanted any more stays."""
    found: set[bytes] = set()
    for path in left:
        if path in target and path not in now:
            found.add(path)
        for above in reversed(list(parents(path))):
            holder = target.get(above)
            if holder is not None and not holder.is_directory:
                found.add(above)
                break
            if holder is None and above in now:
                target[above] = now[above]
    return found
