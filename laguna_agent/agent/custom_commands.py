"""Slash commands that people write themselves: Markdown files whose text is a prompt in short.

    <config>/laguna-agent/commands/NAME.md     the person's own, always live
    <workspace>/.laguna/commands/NAME.md       the project's, inert until a person has trusted exactly this text

    ---
    description: Review a change        both lines are optional, and so is this block
    hint: which commit
    ---
    Review the commit $1. Pay attention to $ARGUMENTS.

`$ARGUMENTS` is what follows the name, `$1` to `$9` are its words (quoted as in a shell); everything else is text, and
nothing is executed. The person's own go before the project's, the program's before both. Knows files and their meaning;
what is trusted is `trust`'s to say. What a command was written out to is on the tape, so a replay needs no file.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec

from laguna_agent.agent.commands import COMMANDS, RESERVED, Command, argument_of, command_in, expanded, first_words
from laguna_agent.agent.store import Expanded
from laguna_agent.directories import config_directory
from laguna_agent.errors import Denied, UsageError
from laguna_agent.messages import ContentBlock, TextBlock
from laguna_agent.trust import COMMAND_FILE, LARGEST_COMMAND, MOST_COMMANDS, Asking, Ground, too_large
from laguna_agent.trust import COMMANDS as KIND
from laguna_agent.trust_lines import notices
from laguna_agent.visible import visible_line

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

DESCRIBED = 200
"""Characters of a description or a hint."""
LARGEST_PROMPT = 1 << 20
"""Characters that a command may be written out to."""
_CALLED = re.compile(r"\s*/([A-Za-z0-9][A-Za-z0-9_-]*)(?!\S)")
_PLACE = re.compile(r"\$(?:ARGUMENTS(?![A-Za-z0-9_])|([1-9])(?![0-9]))")


class CustomCommand(Command, frozen=True):
    """A command with its text, and the file that it is from, as people are told of it."""

    text: str = ""
    file: str = ""


class Refused(msgspec.Struct, frozen=True):
    """A file that is no command now: `why` is a sentence's end. `asking` is set where it lacks trust."""

    name: str
    file: str
    why: str
    asking: Asking | None = None


class Found(msgspec.Struct):
    """What there is at one moment, by name; `hidden` says which files are not reached for the sake of others."""

    commands: dict[str, CustomCommand] = {}
    refused: dict[str, Refused] = {}
    hidden: list[str] = []

    def add(self, name: str, file: str, text: str) -> None:
        """Take a file's text up as a command, unless an earlier file has its name, usable or not."""
        if name in self.commands or name in self.refused:
            earlier = self.commands[name].file if name in self.commands else self.refused[name].file
            self.hidden.append(f"{file} is not used: /{name} is {earlier}")
            return
        if name.casefold() in RESERVED:
            self.refuse(Refused(name, file, f"/{name} is a command of the program itself; give the file another name"))
            return
        read = _read_command(name, file, text)
        if isinstance(read, Refused):
            self.refuse(read)
        else:
            self.commands[name] = read

    def refuse(self, refused: Refused) -> None:
        """Note what is no command, where nothing else has its name."""
        if refused.name not in self.commands:
            self.refused.setdefault(refused.name, refused)

    @property
    def unusable(self) -> list[str]:
        """What the person should know, a line each; what lacks trust is told with all that does."""
        broken = [f"{each.file} is not used: {each.why}" for each in self.refused.values() if each.asking is None]
        return broken + self.hidden


def commands_of(session: Session) -> tuple[Command, ...]:
    """All slash commands that prompts of this session may be, the program's own first. Blocking: it reads files. They
    change with these, and with what is trusted."""
    found = find(session.trust.look())
    own = [Command(each.name, each.description, each.hint) for _, each in sorted(found.commands.items())]
    return (*COMMANDS, *own)


def find(ground: Ground) -> Found:
    """The person's commands and those of the workspace. Blocking; never raises for what lies there."""
    found = Found()
    for name, file, text in _own_files(found):
        found.add(name, file, text)
    for each in ground.asking:
        if each.kind != KIND:
            continue
        name = each.name.rpartition("/")[2].removesuffix(".md")
        if each.trusted:
            found.add(name, visible_line(each.name), each.text)
        else:
            found.refuse(Refused(name, visible_line(each.name), "", each))
    return found


async def written_out(session: Session, content: tuple[ContentBlock, ...]) -> tuple[ContentBlock, ...]:
    """The prompt that the model gets: a command's text in its place. Raises Denied where it lacks trust, UsageError
    where it cannot be used; what is no command is a prompt as it is."""
    called, tape = _CALLED.match(first_words(content)), session.tape
    if called is None or command_in(content) is not None:
        return expanded(content)
    record: Expanded | None = None
    if not tape.recorded:
        record = await anyio.to_thread.run_sync(_look_up, session, called[1], argument_of(content))
    if record is None and not isinstance(tape.peek(), Expanded):
        return content

    async def produce() -> Expanded:
        assert record is not None, "looked up above"
        return record

    done = await tape.take(Expanded, produce)
    if done.problem:
        raise (Denied if done.untrusted else UsageError)(done.problem)
    session.words[-1] = done.text
    return (TextBlock(done.text), *content[1:])


def _look_up(session: Session, name: str, argument: str) -> Expanded | None:
    found = find(session.trust.look())
    command, refused = found.commands.get(name), found.refused.get(name)
    if command is not None:
        text = filled(command.text, argument)
        if text is None:
            return Expanded(name, problem=f"/{name} {command.file}: with these arguments its text is too long")
        return Expanded(name, text)
    if refused is None:
        return None
    if refused.asking is not None:
        why = notices([refused.asking], here=session.trusting)[0]
        return Expanded(name, problem=f"/{name} was not run: {why}", untrusted=True)
    return Expanded(name, problem=f"/{name} was not run: {refused.file}: {refused.why}")


def filled(text: str, argument: str) -> str | None:
    """The text with the arguments in their places, behind it where it has none; None where that would be too long."""
    try:
        words = shlex.split(argument)
    except ValueError:
        # An apostrophe, most likely.
        words = argument.split()
    places = [match[1] for match in _PLACE.finditer(text)]
    if len(text) + len(argument) * max(1, len(places)) > LARGEST_PROMPT:
        return None

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return argument
        return words[int(match[1]) - 1] if int(match[1]) <= len(words) else ""

    # In one go: what an argument holds is text, whatever it looks like.
    result = _PLACE.sub(value, text)
    return result if places or not argument else f"{result}\n\n{argument}"


def _read_command(name: str, file: str, text: str) -> CustomCommand | Refused:
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    told: dict[str, str] = {}
    if lines[0].rstrip() == "---":
        end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
        if end is None:
            return Refused(name, file, "the block that begins with --- has no end")
        for line in lines[1:end]:
            key, _, value = line.partition(":")
            # Other programs have other lines there, which say nothing to this one.
            told.setdefault(key.strip().lower(), value.strip().strip("\"'"))
        lines = lines[end + 1 :]
    body = "\n".join(lines).strip()
    if not body:
        return Refused(name, file, "it has no text")
    described = told.get("description") or body.split("\n", 1)[0].lstrip("# ")
    return CustomCommand(name, _short(described), _short(told.get("hint", "")), body, file)


def _short(text: str) -> str:
    line = visible_line(" ".join(text.split()))
    return line if len(line) <= DESCRIBED else line[: DESCRIBED - 1] + "\u2026"


def _own_files(found: Found) -> Iterator[tuple[str, str, str]]:
    """Name, file and text of each of the person's own; what cannot be read is refused."""
    folder = config_directory() / "commands"
    try:
        names = sorted(each.name for each in folder.iterdir() if each.name.endswith(".md"))
    except OSError:
        return
    for at, file_name in enumerate(names):
        file, name = visible_line(os.fsencode(folder / file_name).decode("utf-8", "backslashreplace")), file_name[:-3]
        if at >= MOST_COMMANDS:
            found.refuse(Refused(name, file, f"there are more than {MOST_COMMANDS} commands"))
        elif not COMMAND_FILE.fullmatch(file_name):
            found.refuse(Refused(name, file, "a command's name is letters, digits, - and _"))
        else:
            text = _own_text(folder / file_name)
            if isinstance(text, str):
                yield name, file, text
            else:
                found.refuse(Refused(name, file, text[0]))


def _own_text(path: os.PathLike[str]) -> str | tuple[str]:
    """The text of a file of the person's, who may keep it behind a link; or why there is none."""
    try:
        # What lies there may be a FIFO, and opening one would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return ("it is no regular file",)
            data = file.read(LARGEST_COMMAND + 1)
        return (too_large(LARGEST_COMMAND),) if len(data) > LARGEST_COMMAND else data.decode("utf-8")
    except OSError as error:
        return (f"it cannot be read: {error.strerror or error}",)
    except UnicodeDecodeError as error:
        return (f"it is not UTF-8 text (byte {error.start})",)
