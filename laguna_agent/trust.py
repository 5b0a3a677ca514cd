"""Which files of a workspace a person has trusted: by their content, never by their name.

A repository's own configuration, MCP servers and instructions ask for power, and whoever wrote the repository wrote
them. They do nothing until a person has looked at exactly this text (`Pinned`); another text is inert again. Knows
where such files are, how they are read once and compared, and where trust is kept; must not know what they mean.

    <state>/trust/<hash of the workspace's real path>.json    mode 0600, replaced whole

Only the bytes that were hashed are handed on. A file that is reached through a symbolic link, is no regular file, is
larger than 256 KiB (a command: 32) or no UTF-8 is never trusted; nothing is where this state itself lies inside the
workspace, for then a command could write it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from laguna_agent.atomic import OWNER_ONLY, replace_file
from laguna_agent.directories import state_directory
from laguna_agent.errors import UsageError
from laguna_agent.trust_reading import bytes_below, names_below, why_not

CONFIG, SERVERS, INSTRUCTIONS = ".laguna/config.toml", ".mcp.json", "AGENTS.md"
KINDS = (CONFIG, SERVERS, INSTRUCTIONS)
COMMANDS = ".laguna/commands"
"""A directory of such files: the slash commands of the project, `NAME.md` each."""
COMMAND_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.md")
MOST_COMMANDS, MOST_ENTRIES, LARGEST_COMMAND = 100, 2_000, 32 * 1024
"""How many of them there may be, and things in their directory; bytes of one."""
TOOLS = "tools of MCP server "
"""Before a server's name: the list of its tools, which is trusted as the files are."""
LARGEST = 256 * 1024
"""Bytes that a person can be expected to have looked at, and more."""


class Pinned(msgspec.Struct, frozen=True):
    """A text that was trusted."""

    sha256: str
    text: str


class Record(msgspec.Struct):
    """What is kept of one workspace: by name what was trusted, and the lists of tools that wait for it."""

    root: str
    pinned: dict[str, Pinned] = {}
    offered: dict[str, str] = {}


class Asking(msgspec.Struct, frozen=True):
    """A text of the workspace that asks for power. `name` is its path below the root, `kind` one of KINDS, COMMANDS or
    TOOLS.

    `problem` says why it can never be trusted; `before` is the text that was trusted last, where there was one.
    """

    kind: str
    name: str
    text: str = ""
    problem: str = ""
    before: str | None = None
    trusted: bool = False

    @property
    def sha256(self) -> str:
        """The hash that trust goes by."""
        return digest(self.text)


class Ground(msgspec.Struct, frozen=True):
    """What of a workspace asks for power, as it was at one moment."""

    root: Path
    asking: tuple[Asking, ...] = ()

    def text(self, kind: str) -> str | None:
        """The text of that kind, if it is trusted."""
        return next((each.text for each in self.asking if each.kind == kind and each.trusted), None)

    def find(self, kind: str) -> Asking | None:
        """What there is of that kind, trusted or not."""
        return next((each for each in self.asking if each.kind == kind), None)

    @property
    def waiting(self) -> tuple[Asking, ...]:
        """What a person could trust, and has not."""
        return tuple(each for each in self.asking if not each.trusted and not each.problem)

    @property
    def inert(self) -> tuple[Asking, ...]:
        """What is not used."""
        return tuple(each for each in self.asking if not each.trusted)

    def granted(self) -> Ground:
        """The same with all trusted that can be: a person's word for one run."""
        granted = [msgspec.structs.replace(each, trusted=not each.problem) for each in self.asking]
        return Ground(self.root, tuple(granted))


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def root_of(cwd: Path) -> Path:
    """The directory whose files are trusted together: the git root above `cwd`, else `cwd`; with no link on the way."""
    directory = Path(os.path.realpath(cwd))
    return next((at for at in (directory, *directory.parents) if os.path.lexists(at / ".git")), directory)


def look(cwd: Path) -> Ground:
    """What of the workspace around `cwd` asks for power now. Of each kind the nearest counts, from `cwd` up to the
    root. Never raises for what lies there."""
    directory, root = Path(os.path.realpath(cwd)), root_of(cwd)
    record = _read(root)
    inside = _state_lies_in(directory)
    asking = []
    for kind in KINDS:
        found = _nearest(directory, root, kind)
        if found is not None:
            asking.append(_judged(found if not inside else _refused(found, inside), record))
    for found in _commands(directory, root):
        asking.append(_judged(found if not inside else _refused(found, inside), record))
    for name, text in sorted(record.offered.items()):
        asking.append(_judged(Asking(TOOLS, name, text), record))
    return Ground(root, tuple(asking))


def trust(ground: Ground) -> None:
    """Trust what `ground` shows, exactly these texts, from now on. Raises UsageError where that cannot be kept."""
    waiting = ground.waiting
    with _changing(ground.root) as record:
        if any(each.kind == SERVERS for each in waiting):
            # Other servers are meant now: what the former ones offered says nothing of them.
            record.pinned = {name: pinned for name, pinned in record.pinned.items() if not name.startswith(TOOLS)}
            record.offered.clear()
            waiting = tuple(each for each in waiting if each.kind != TOOLS)
        for each in waiting:
            record.pinned[each.name] = Pinned(each.sha256, each.text)
            if record.offered.get(each.name) == each.text:
                del record.offered[each.name]


def revoke(cwd: Path) -> list[str]:
    """Trust nothing here any more; the names of what was trusted. Raises UsageError."""
    with _changing(root_of(cwd)) as record:
        names = sorted(record.pinned)
        record.pinned.clear()
        record.offered.clear()
    return names


def accept_tools(cwd: Path, server: str, listing: str) -> bool:
    """Whether the tools that a trusted server of the workspace lists are those that it listed first. Others wait until
    a person has trusted them. Raises UsageError where that cannot be kept."""
    name = TOOLS + server
    with _changing(root_of(cwd)) as record:
        pinned = record.pinned.setdefault(name, Pinned(digest(listing), listing))
        accepted = pinned.sha256 == digest(listing)
        if accepted:
            record.offered.pop(name, None)
        else:
            record.offered[name] = listing
    return accepted


class Trust:
    """What a session goes by: what is kept, what a person granted for this run alone, what they were shown and told."""

    def __init__(self, cwd: Path, granted: Ground | None = None) -> None:
        """`granted` is trusted for as long as it stays the same, and nothing of it is kept."""
        self.cwd = cwd
        self._granted = {each.name: each.sha256 for each in granted.asking if each.trusted} if granted else {}
        self._this_run = granted is not None
        self._shown: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()

    def look(self) -> Ground:
        """What asks for power now, with what the person granted."""
        ground = look(self.cwd)
        asking = [
            msgspec.structs.replace(each, trusted=True)
            if not each.problem and self._granted.get(each.name) == each.sha256
            else each
            for each in ground.asking
        ]
        return Ground(ground.root, tuple(asking))

    def show(self) -> Ground:
        """What asks for power now, noted as shown to the person."""
        ground = self.look()
        self._shown = {each.name: each.sha256 for each in ground.waiting}
        return ground

    def accept(self) -> tuple[Ground, bool]:
        """Trust what the person was shown. False where something is not what they saw: it is shown now, and nothing is
        trusted. Raises UsageError."""
        seen = dict(self._shown)
        ground = self.show()
        if self._shown != seen:
            return ground, False
        trust(ground)
        self._shown = {}
        return ground, True

    def news(self, ground: Ground) -> list[Asking]:
        """What is not used and the person was not told of yet."""
        new = [each for each in ground.inert if (each.name, each.problem or each.sha256) not in self._told]
        self._told |= {(each.name, each.problem or each.sha256) for each in new}
        return new

    def first(self, lines: Sequence[str]) -> list[str]:
        """Those of the lines that the person was not told yet."""
        new = [line for line in lines if ("", line) not in self._told]
        self._told |= {("", line) for line in new}
        return new

    def accept_tools(self, server: str, listing: str) -> bool:
        """As the function of that name; in a run that a person granted, the first list holds for this run."""
        if not self._this_run:
            return accept_tools(self.cwd, server, listing)
        return self._granted.setdefault(TOOLS + server, digest(listing)) == digest(listing)


# -- reading -------------------------------------------------------------------------------------------------------


def _nearest(cwd: Path, root: Path, kind: str) -> Asking | None:
    for at in (cwd, *cwd.parents):
        name = (at.relative_to(root) / kind).as_posix()
        try:
            data = bytes_below(root, name, LARGEST)
        except OSError as error:
            return Asking(kind, name, problem=why_not(error))
        if data is not None:
            return _as_text(kind, name, data)
        if at == root:
            break
    return None


def _commands(cwd: Path, root: Path) -> list[Asking]:
    """The files of the nearest directory of commands. One that holds too much is refused whole: nobody has looked at
    it all."""
    for at in (cwd, *cwd.parents):
        folder = (at.relative_to(root) / COMMANDS).as_posix()
        try:
            names = names_below(root, folder, MOST_ENTRIES + 1)
        except OSError as error:
            return [Asking(COMMANDS, folder, problem=why_not(error))]
        if names is not None:
            found = sorted(name for name in names if name.endswith(".md"))
            if len(names) > MOST_ENTRIES or len(found) > MOST_COMMANDS:
                most = f"{MOST_ENTRIES:,} entries" if len(names) > MOST_ENTRIES else f"{MOST_COMMANDS} commands"
                return [Asking(COMMANDS, folder, problem=f"it holds more than {most}")]
            return [each for name in found if (each := _command(root, folder, name)) is not None]
        if at == root:
            break
    return []


def _command(root: Path, folder: str, name: str) -> Asking | None:
    if not COMMAND_FILE.fullmatch(name):
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        return Asking(COMMANDS, f"{folder}/{shown}", problem="a command's name is letters, digits, - and _")
    path = f"{folder}/{name}"
    try:
        data = bytes_below(root, path, LARGEST_COMMAND)
    except OSError as error:
        return Asking(COMMANDS, path, problem=why_not(error))
    return None if data is None else _as_text(COMMANDS, path, data, LARGEST_COMMAND)


def too_large(largest: int) -> str:
    """What is wrong with a file of more bytes."""
    return f"it is larger than {largest // 1024} KiB"


def _as_text(kind: str, name: str, data: bytes, largest: int = LARGEST) -> Asking:
    if len(data) > largest:
        return Asking(kind, name, problem=too_large(largest))
    try:
        return Asking(kind, name, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Asking(kind, name, problem=f"it is not UTF-8 text (byte {error.start})")


def _refused(found: Asking, why: str) -> Asking:
    return Asking(found.kind, found.name, problem=found.problem or why)


def _judged(found: Asking, record: Record) -> Asking:
    pinned = record.pinned.get(found.name)
    if pinned is None:
        return found
    trusted = not found.problem and pinned.sha256 == found.sha256
    return msgspec.structs.replace(found, before=pinned.text, trusted=trusted)


# -- keeping -------------------------------------------------------------------------------------------------------


def _state_lies_in(workspace: Path) -> str:
    state = Path(os.path.realpath(state_directory()))
    return f"this program's own state lies inside the workspace, in {state}" if workspace in state.parents else ""


def record_file(root: Path) -> Path:
    """Where the trust in a workspace is kept, whether or not there is any."""
    return state_directory() / "trust" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:40]}.json"


def _read(root: Path) -> Record:
    """The record; an empty one where there is none, or one that no person's word made: then nothing is trusted."""
    try:
        record = msgspec.json.decode(record_file(root).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return Record(_spelled(root))
    whole = all(pinned.sha256 == digest(pinned.text) for pinned in record.pinned.values())
    return record if whole and record.root == _spelled(root) else Record(_spelled(root))


def _spelled(root: Path) -> str:
    return os.fsencode(root).decode("utf-8", "backslashreplace")


@contextmanager
def _changing(root: Path) -> Iterator[Record]:
    """The record, to be changed; written whole at the end. Two programs take turns: neither may bring back what the
    other has just revoked."""
    file = record_file(root)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (file.parent / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            record = _read(root)
            before = msgspec.json.encode(record)
            yield record
            record.root = _spelled(root)
            after = msgspec.json.encode(record)
            if after != before:
                replace_file(file, after, mode=OWNER_ONLY)
    except OSError as error:
        raise UsageError(f"the trust in {root} cannot be kept in {file.parent}: {error.strerror}") from error
