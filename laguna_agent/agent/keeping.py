"""The checkpoints of a session's prompts: when they are taken, and what the log says of them.

The files are kept once per prompt, before its first call that may change them has begun, and again when it has ended,
so that later the agent's work can be told from the person's. A replay takes none: it reads the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import anyio
import anyio.to_thread
import msgspec

from laguna_agent.agent.commands import is_for_the_model
from laguna_agent.agent.conversation import in_force
from laguna_agent.agent.events import Checkpoint, Event, Notice
from laguna_agent.agent.store import (
    AnyRecord,
    Checkpointed,
    Compacted,
    Prompted,
    Redone,
    Restored,
    Restoring,
    Rewound,
    Shortened,
    ToolRan,
    Uncompacted,
)
from laguna_agent.agent.tape import Tape
from laguna_agent.checkpoints.keep import Keep
from laguna_agent.checkpoints.plan import Span
from laguna_agent.checkpoints.store import CheckpointError

TURNED_OFF = "checkpoints are turned off"


class Keeping:
    """Takes them for one session; without a `keep` it takes none, and says so where one is missed."""

    def __init__(self, keep: Keep | None) -> None:
        self.keep = keep
        self._problem = ""
        self._begun = self._kept = False
        self._told = False
        self.tree = ""
        """How the files were when the last prompt began to write."""

    def begin(self) -> None:
        """A prompt begins."""
        self._begun = self._kept = False

    async def before_writing(self, tape: Tape, emit: Callable[[Event], Awaitable[None]]) -> None:
        """Something that may change files is about to begin."""
        if tape.recorded:
            if not isinstance(tape.peek(), Checkpointed):
                return
        elif self._begun or self.keep is None:
            return
        self._begun = True
        record = await tape.take(Checkpointed, self._before)
        if record.tree:
            self._kept, self.tree = True, record.tree
            await emit(Checkpoint(record.tree))
        elif not self._told:
            self._told = True
            await emit(Notice("warning", f"what this session does to files cannot be undone: {record.problem}"))

    async def _before(self) -> Checkpointed:
        # Looked at once in vain, it is not looked at again: that it takes too long is the likeliest reason.
        assert self.keep is not None, "asked for by before_writing"
        if self._problem:
            return Checkpointed("before", problem=self._problem)
        try:
            kept = await anyio.to_thread.run_sync(self.keep.take, abandon_on_cancel=True)
        except CheckpointError as error:
            self._problem = str(error)
            return Checkpointed("before", problem=self._problem)
        except anyio.get_cancelled_exc_class():
            self.keep.give_up()
            raise
        return Checkpointed("before", kept.tree, kept.left)

    async def after(self) -> Checkpointed | None:
        """How the prompt left the files, where they were kept before it."""
        if not self._kept or self.keep is None:
            return None
        with anyio.CancelScope(shield=True):
            try:
                kept = await anyio.to_thread.run_sync(self.keep.take)
            except CheckpointError as error:
                return Checkpointed("after", problem=str(error))
        return Checkpointed("after", kept.tree, kept.left)


class PromptFiles(msgspec.Struct):
    """What the log knows of the files of one prompt: the trees before and after it, what was not kept, and why nothing
    was. `changed` are files that its tools told of."""

    before: str = ""
    after: str = ""
    left: tuple[str, ...] = ()
    problem: str = ""
    changed: bool = False

    @property
    def span(self) -> Span | None:
        """For a plan; None where nothing was kept."""
        if not self.before:
            return None
        return Span(bytes.fromhex(self.before), bytes.fromhex(self.after) if self.after else None)


def prompt_files(records: Iterable[AnyRecord]) -> list[PromptFiles]:
    """That of every prompt for the model that is in force, the oldest first."""
    found: list[PromptFiles] = []
    for record in in_force(records):
        match record:
            case Prompted(content=content) if is_for_the_model(content):
                found.append(PromptFiles())
            case ToolRan(result=result) if found and result.diffs:
                found[-1].changed = True
            case Checkpointed(when="before") if found:
                found[-1].before, found[-1].left = record.tree, record.left
                found[-1].problem = record.problem
            case Checkpointed(when="after") if found:
                found[-1].after = record.tree
    return found


class Undone(msgspec.Struct):
    """What could be redone: the files from `now` to `tree`, and whether the conversation was taken back with them."""

    now: str = ""
    tree: str = ""
    conversation: bool = False


def undone(records: Iterable[AnyRecord]) -> tuple[list[Undone], bool]:
    """What was taken back since the last prompt for the model, the newest last; and whether the last attempt to put
    files back was cut off."""
    found: list[Undone] = []
    files, begun, cut_off, redone = Undone(), Undone(), Undone(), False
    for record in records:
        match record:
            case Prompted(content=content):
                # What a prompt found is where it goes on from, half put back or not.
                if is_for_the_model(content):
                    found.clear()
                    begun = Undone()
                files, cut_off, redone = Undone(), begun, False
            case Restoring():
                begun = Undone(record.now, record.target)
            case Restored(failed=failed) if failed:
                begun = cut_off
            case Restored():
                redone = record.redone
                if not redone:
                    # One that finishes what was cut off is one with it.
                    files = Undone(cut_off.now or begun.now, record.tree)
                    found.append(files)
                elif not cut_off.now:
                    del found[-1:]
                begun = Undone()
            case Rewound():
                if found and found[-1] is files:
                    found.pop()
                found.append(Undone(files.now, files.tree, conversation=True))
            case Redone():
                if not redone:
                    del found[-1:]
            case Compacted() | Uncompacted() | Shortened():
                # What came before is not as it was: what was taken back from it fits no more.
                found.clear()
            case _:
                pass
    if begun.now:
        found.append(begun)
    return found, bool(begun.now)
