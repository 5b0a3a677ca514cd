"""Trees of a checkpoint: what lies at each path, as git trees, as one flat table, and two of them compared.

A tree here is git's own, but the mode of an entry holds all permission bits, a directory may be empty, and the top has
one entry for each root of the workspace ("0", "1", ...). Paths are bytes below that top. Knows the object store.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator

import msgspec

EMPTY_TREE = bytes.fromhex("4b825dc642cb6eb9a060e54bf8d69288fbee4904")

Read = Callable[[bytes], bytes]
"""The content of a tree or blob by its name of 20 bytes."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What lies at a path: `mode` as of stat, without what permissions are not; `id` names the blob of a file or of a
    link's target, and is empty for a directory."""

    mode: int
    id: bytes = b""

    @property
    def is_directory(self) -> bool:
        """Whether it is one."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


Table = dict[bytes, Entry]
Differences = dict[bytes, tuple[Entry | None, Entry | None]]
"""By path: what one tree has there, and the other."""


def encoded(children: Iterable[tuple[bytes, int, bytes]]) -> bytes:
    """A tree object's content from (name, mode, id)."""
    # git's order: a directory sorts as if its name ended in a slash.
    ordered = sorted(children, key=lambda child: child[0] + b"/" if stat.S_ISDIR(child[1]) else child[0])
    return b"".join(b"%o %s\0%s" % (mode, name, id) for name, mode, id in ordered)


def children(content: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """The (name, mode, id) of a tree object's content. Raises ValueError for what is none."""
    at = 0
    while at < len(content):
        space = content.index(b" ", at)
        end = content.index(b"\0", space)
        name, mode, id = content[space + 1 : end], int(content[at:space], 8), content[end + 1 : end + 21]
        if not name or b"/" in name or name in (b".", b"..") or len(id) != 20:
            raise ValueError("not a tree")
        yield name, mode, id
        at = end + 21


def table_of(tree: bytes, read: Read) -> Table:
    """Everything in the tree named `tree`."""
    found: Table = {}
    waiting = [(b"", tree)]
    while waiting:
        above, id = waiting.pop()
        for name, mode, child in children(read(id)):
            path = above + name
            if stat.S_ISDIR(mode):
                found[path] = Entry(mode)
                waiting.append((path + b"/", child))
            else:
                found[path] = Entry(mode, child)
    return found


def written(table: Table, add: Callable[[bytes, bytes], bytes]) -> bytes:
    """The name of a tree of which `table` is all there is; `add` keeps an object of a kind."""
    inside: dict[bytes, list[tuple[bytes, int, bytes]]] = {b"": []}
    for path, entry in table.items():
        if entry.is_directory:
            inside.setdefault(path, [])
        else:
            above, _, name = path.rpartition(b"/")
            inside.setdefault(above, []).append((name, entry.mode, entry.id))
    for path in sorted(inside, key=lambda path: path.count(b"/") if path else -1, reverse=True):
        tree = add(b"tree", encoded(inside[path]))
        if not path:
            return tree
        above, _, name = path.rpartition(b"/")
        inside[above].append((name, table[path].mode, tree))
    raise AssertionError("the top is always there")


def differences(before: bytes, after: bytes, read: Read) -> Differences:
    """Where two trees differ. What both have alike is not even read."""
    found: Differences = {}
    waiting: list[tuple[bytes, bytes | None, bytes | None]] = [(b"", before, after)]
    while waiting:
        above, old_id, new_id = waiting.pop()
        if old_id == new_id:
            continue
        old = {} if old_id is None else {name: (mode, id) for name, mode, id in children(read(old_id))}
        new = {} if new_id is None else {name: (mode, id) for name, mode, id in children(read(new_id))}
        for name in old.keys() | new.keys():
            one, other = old.get(name), new.get(name)
            if one == other:
                continue
            path = above + name
            left, right = _entry(one), _entry(other)
            if left != right:
                found[path] = (left, right)
            below = (_subtree(one), _subtree(other))
            if below != (None, None):
                waiting.append((path + b"/", *below))
    return found


def _entry(child: tuple[int, bytes] | None) -> Entry | None:
    if child is None:
        return None
    return Entry(child[0]) if stat.S_ISDIR(child[0]) else Entry(*child)


def _subtree(child: tuple[int, bytes] | None) -> bytes | None:
    return child[1] if child is not None and stat.S_ISDIR(child[0]) else None


def parents(path: bytes) -> Iterator[bytes]:
    """The directories on the way to a path, the nearest first."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path
