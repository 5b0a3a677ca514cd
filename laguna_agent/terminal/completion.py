"""What the text before the cursor may go on with: `@` files, `/` commands, and what commands take.

Knows the text and where offers come from; must not know how they are drawn or which key takes one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from laguna_agent.errors import LagunaError
from laguna_agent.event_lines import one_line
from laguna_agent.terminal.fuzzy import matches
from laguna_agent.visible import visible_line

if TYPE_CHECKING:
    from laguna_agent.agent.commands import Command
    from laguna_agent.terminal.face import Face, SlashCommand
    from laguna_agent.terminal.file_index import FileIndex

Kind = Literal["file", "command", "argument"]
MOST_ARGUMENTS = 200
_MENTION = re.compile(r"""(?:^|(?<=[\s(\[{<,;:"'`]))@(?:"(?P<quoted>[^"\n]*)|(?P<bare>[^\s"]*))\Z""")
_NAME = re.compile(r"/(?P<name>[^\s/]*)\Z")
_ARGUMENT = re.compile(r"/(?P<name>[^\s/]+)[ \t]+(?P<argument>[^\n]*)\Z")
_TYPEABLE = re.compile(r"[\w:.@+-]{1,80}")
_HINT_PARTS = re.compile(r"[|,]|\bor\b")


@dataclass(frozen=True)
class Offer:
    """One way to go on. `text` takes the place of what was typed from `Offers.start` on; `ends` says that the person
    goes on with something else then, `sends` that nothing need follow. `hint` says what may follow."""

    text: str
    shown: str
    description: str = ""
    hint: str = ""
    ends: bool = True
    sends: bool = False


@dataclass(frozen=True)
class Offers:
    """The ways to go on from `start` to the cursor, the best one first. `typed` is what is there now."""

    kind: Kind
    start: int
    typed: str
    items: tuple[Offer, ...]


class Completer:
    """Completes the text of prompts.

    `commands` gives what `/` offers: the face's own and those that the agent answers. `face` is what commands list
    their arguments for. Both are asked on the face's thread.
    """

    def __init__(
        self,
        files: FileIndex,
        commands: Callable[[], Iterable[SlashCommand | Command]] = tuple,
        face: Callable[[], Face] | None = None,
    ) -> None:
        self.files = files
        self._commands = commands
        self._face = face
        self._arguments: tuple[str, tuple[str, ...]] = ("", ())

    def begun(self, before: str) -> int | None:
        """Where what could be completed begins in the text before the cursor; None where nothing could be. Cheap."""
        if _NAME.match(before) or _ARGUMENT.match(before):
            return 0
        mention = _MENTION.search(before[before.rfind("\n") + 1 :]) if "@" in before else None
        return None if mention is None else len(before) - len(mention[0])

    def at_once(self, before: str) -> Offers | None:
        """The commands or arguments that a text before the cursor may go on with; None where there are none."""
        if found := _NAME.match(before):
            return self._names(found["name"])
        if found := _ARGUMENT.match(before):
            return self._arguments_of(found["name"], found["argument"], len(before))
        return None

    def mentions(self, before: str) -> bool:
        """Whether a file is being named just before the cursor."""
        start = self.begun(before)
        return start is not None and before[start] == "@"

    async def files_for(self, before: str) -> Offers | None:
        """The files that may be meant there; None where there are none."""
        start = self.begun(before)
        if start is None or before[start] != "@":
            return None
        typed = before[start:]
        paths = await self.files.search(typed[1:].strip('"'))
        # A directory that is there already is gone on from.
        deeper = (path for path in paths if not (path.endswith("/") and typed.endswith(path)))
        items = tuple(offer for path in deeper if (offer := _file_offer(path)))
        return Offers("file", start, typed, items) if items else None

    def _names(self, typed: str) -> Offers | None:
        # A name that cannot be typed as it is comes from somebody who means no good.
        commands = {each.name: each for each in self._commands() if _TYPEABLE.fullmatch(each.name)}
        names = ranked(typed, commands)
        if not names:
            return None
        return Offers("command", 0, "/" + typed, tuple(_command_offer(commands[name]) for name in names))

    def _arguments_of(self, name: str, typed: str, end: int) -> Offers | None:
        known = {command.name: command for command in self._commands()}.get(name)
        if known is None:
            return None
        # Listing may look at files: once for each time that a command is typed.
        if self._arguments[0] != name or not typed:
            self._arguments = (name, self._possible(known))
        items = tuple(Offer(text, visible_line(text), sends=True) for text in ranked(typed, self._arguments[1]))
        return Offers("argument", end - len(typed), typed, items) if items else None

    def _possible(self, command: SlashCommand | Command) -> tuple[str, ...]:
        listing = getattr(command, "arguments", None)
        if listing is not None and self._face is not None:
            try:
                given = [text for text in listing(self._face()) if visible_line(text) == text]
            except LagunaError:
                # The command itself will say what is wrong.
                return ()
            return tuple(given[:MOST_ARGUMENTS])
        # A hint such as `how many, force | keep` names words to choose from among what it describes.
        parts = (part.strip() for part in _HINT_PARTS.split(command.hint))
        # In capitals it is what the person puts a name for.
        return tuple(part for part in parts if part.isalpha() and part.islower())


def ranked(typed: str, names: Iterable[str]) -> list[str]:
    """The names that a text may be meant for: those that begin with it, then those that hold it, then those that hold
    its letters in order; each group in the order of `names`."""
    wanted = typed.lower()
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for name in dict.fromkeys(names):
        folded = name.lower()
        if folded.startswith(wanted):
            groups[0].append(name)
        elif wanted in folded:
            groups[1].append(name)
        elif matches(wanted, folded):
            groups[2].append(name)
    return [*groups[0], *groups[1], *groups[2]]


def _command_offer(command: SlashCommand | Command) -> Offer:
    takes = bool(command.hint or getattr(command, "arguments", None))
    shown, hint = "/" + visible_line(command.name), one_line(command.hint)
    return Offer("/" + command.name, shown, one_line(command.description), hint, ends=takes, sends=True)


def _file_offer(path: str) -> Offer | None:
    """How a path is written into a prompt; None for one that cannot be: it would be taken for something else."""
    if '"' in path:
        return None
    directory = path.endswith("/")
    if not any(each.isspace() for each in path):
        return Offer("@" + path, path, ends=not directory)
    return Offer(f'@"{path}' if directory else f'@"{path}"', path, ends=not directory)
