"""What a tool is, and what it is given.

A tool is a class with a name, a kind, a msgspec Struct for its arguments and an async `run`. It acts only on the
`Workspace` it is given and never prints, never asks, never knows the model or the face. Whether a call may run is
decided before `run`, from `needs()`.

The words for the model of a tool of ours (`StructTool`) lie beside it in `<name>.md`: the first paragraph is the tool's
description, each line `- field: text` describes a field of the arguments. A tool that comes from elsewhere brings its
words and its JSON Schema along (`SchemaTool`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import msgspec

from laguna_agent.messages import ContentBlock, FileDiff, Location, PlanEntry, TextBlock, ToolKind, ToolSpec
from laguna_agent.tools.footprint import Footprint

if TYPE_CHECKING:
    from pathlib import Path

    from laguna_agent.sandbox.launcher import Granted
    from laguna_agent.tools.ledger import FileLedger
    from laguna_agent.tools.workspace import Workspace

Access = Literal["read", "write", "execute"]
Grant = Literal["network", "unconfined"]


class Need(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call needs leave for: `subject` is the path or the command; `outside` says it leaves the workspace.

    `protected` is a write to what other programs obey (see `sandbox.policy`), `hidden` a look at what nobody sees.
    `grant` is what a command wants of the sandbox: the network, or to run without it. `tool` is the tool of an MCP
    server that is called; then `subject` is how people read it, and no command.
    """

    access: Access
    subject: str
    outside: bool = False
    protected: bool = False
    hidden: bool = False
    grant: Grant | None = None
    tool: str = ""


class ToolResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call gave. `content` goes to the model; the rest is evidence for the person and the log. `hidden` says
    what invisible characters were made visible in it, `sandbox` what confined the command of a call that ran one."""

    content: tuple[ContentBlock, ...] = ()
    is_error: bool = False
    diffs: tuple[FileDiff, ...] = ()
    locations: tuple[Location, ...] = ()
    exit_code: int | None = None
    plan: tuple[PlanEntry, ...] | None = None
    hidden: str = ""
    sandbox: str = ""

    @property
    def text(self) -> str:
        """The text blocks, joined."""
        return "".join(block.text for block in self.content if isinstance(block, TextBlock))


def text_result(text: str, **evidence: Any) -> ToolResult:
    """A result of one text block."""
    return ToolResult(content=(TextBlock(text),), **evidence)


async def discard_output(_: str) -> None:
    """The `emit` of a call whose live output nobody watches."""


@dataclass
class ToolContext:
    """What the session lends to a call.

    `ledger` knows the content of each file as the model last saw it; `emit` takes live output, and
    `show_terminal` the id of a terminal where the face itself shows it; `footprint` finds what commands change on disk;
    `shell_timeout` is in seconds; `output_cap` is how many characters of a command's output reach the model. `spool` is
    where the whole of a long output is kept; `call_id` is the call's own, `leave` what it was given leave for, and
    `kind` what its command may reach.
    """

    workspace: Workspace
    ledger: FileLedger
    emit: Callable[[str], Awaitable[None]] = discard_output
    show_terminal: Callable[[str], Awaitable[None]] = discard_output
    footprint: Footprint = field(default_factory=Footprint)
    shell_timeout: float = 120.0
    output_cap: int = 16_000
    read_cap: int = 60_000
    spool: Path | None = None
    call_id: str = ""
    leave: Need | None = None
    kind: Granted = "workspace"


class Tool(Protocol):
    """One tool: a `StructTool` or a `SchemaTool`; instances hold no state between sessions."""

    @property
    def name(self) -> str:
        """What the model calls it by."""
        ...

    @property
    def kind(self) -> ToolKind:
        """What people take it for."""
        ...

    def title(self, args: Any) -> str:
        """One line for the person: `Edit src/app.py`, `$ pytest -q`."""
        ...

    def needs(self, args: Any, workspace: Workspace) -> Need | None:
        """What must be allowed before `run`; None where nothing needs leave."""
        ...

    def locations(self, args: Any) -> tuple[Location, ...]:
        """The files the call is about, for editors that follow along."""
        ...

    async def run(self, args: Any, context: ToolContext) -> ToolResult:
        """Do it. Raises ToolError for anything the model should hear about; being cancelled must leave no process
        and no half-written file."""
        ...


class StructTool(Tool, Protocol):
    """A tool of this program; its schema is derived from a Struct, which its methods get as `args`."""

    arguments: ClassVar[type[msgspec.Struct]]


@runtime_checkable
class SchemaTool(Tool, Protocol):
    """A tool that brings its own JSON Schema; its methods get the validated object as `args`."""

    @property
    def spec(self) -> ToolSpec:
        """The tool as the model sees it."""
        ...


@runtime_checkable
class Previewing(Protocol):
    """A tool that can tell what it would change, for the person who is asked for leave."""

    async def preview(self, args: Any, context: ToolContext) -> tuple[FileDiff, ...]:
        """What `run` would change, without changing it; raises what `run` would raise."""
        ...
