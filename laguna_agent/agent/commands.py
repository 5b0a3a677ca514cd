"""Slash commands that the core answers itself, so that they mean the same in every face.

A prompt that begins with the name of one is a command; any other text with a slash in front is a prompt. `init` is a
prompt in short; the others ask nothing of the model, whose conversation does not see them. `obeying` carries them out.
"""

from __future__ import annotations

import msgspec

from laguna_agent.messages import ContentBlock, ImageBlock, TextBlock

INIT = """\
Write the file AGENTS.md for this project (improve it where it exists): what a coding agent must know that it cannot \
see at a glance. How to build, test and lint, for a single test too; how the code is laid out and what depends on \
what; the conventions that the code follows. Read the README, the configuration and enough of the code first, and try \
the commands before you name them. At most 60 lines, nothing that any programmer knows anyway."""


class Command(msgspec.Struct, frozen=True):
    """A command as a face lists it; `hint` says what may follow its name."""

    name: str
    description: str
    hint: str = ""


COMMANDS = (
    Command("compact", "Summarise the older part of the conversation to make room; undo", "what to keep, or undo"),
    Command("context", "Say what fills the model's window"),
    Command("usage", "Say how many tokens this session has used, and what they cost"),
    Command("undo", "Take back your last prompt and all that followed, what it did to files too", "force | keep"),
    Command("rewind", "Take back your last prompts and all that followed, files too", "how many prompts, force | keep"),
    Command("redo", "Bring back what was taken back last", "force | keep"),
    Command("fork", "Copy this conversation into a new session; with a number, from that many prompts ago", "how many"),
    Command("trust", "Show what this workspace brings and whether it is trusted; trust what was shown", "yes"),
    Command("init", "Write AGENTS.md, the project's instructions for coding agents", "what to pay attention to"),
)

_OF_FACES = (
    "agent", "approve", "clear", "config", "diff", "doctor", "editor", "exit", "export", "help", "login", "logout",
    "mcp", "mode", "model", "new", "permissions", "plan", "quit", "resume", "sandbox", "sessions", "status", "theme",
    "tools", "unfold", "vi",
)  # fmt: skip
RESERVED = frozenset((*_OF_FACES, *(command.name for command in COMMANDS)))
"""Names that no command of a person or a project can have: these commands', and those that faces answer themselves."""


def command_in(content: tuple[ContentBlock, ...]) -> str | None:
    """The name of the command that a prompt is, None where it is none."""
    words = first_words(content).split(None, 1)
    name = words[0][1:] if words and words[0].startswith("/") else ""
    return name if any(command.name == name for command in COMMANDS) else None


def expanded(content: tuple[ContentBlock, ...]) -> tuple[ContentBlock, ...]:
    """The prompt that the model gets: that of `/init` in full, any other as it is."""
    if command_in(content) != "init":
        return content
    return (TextBlock("\n\n".join(filter(None, [INIT, argument_of(content)]))), *content[1:])


def argument_of(content: tuple[ContentBlock, ...]) -> str:
    """What follows the command's name."""
    return "".join(first_words(content).split(None, 1)[1:]).strip()


def is_for_the_model(content: tuple[ContentBlock, ...]) -> bool:
    """Whether the prompt goes to the model, so that it can be taken back."""
    return command_in(content) in (None, "init")


def text_of(content: tuple[ContentBlock, ...]) -> str:
    """The words of a prompt."""
    return "".join(block.text for block in content if isinstance(block, TextBlock))


def images_of(content: tuple[ContentBlock, ...]) -> tuple[ImageBlock, ...]:
    """The images of a prompt."""
    return tuple(block for block in content if isinstance(block, ImageBlock))


def first_words(content: tuple[ContentBlock, ...]) -> str:
    """The text that a prompt begins with."""
    first = content[0] if content else None
    return first.text if isinstance(first, TextBlock) else ""
