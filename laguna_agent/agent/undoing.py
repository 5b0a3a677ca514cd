"""`/undo`, `/rewind`, `/redo` and `/fork N`: the conversation goes back, and the files with it.

What the person changed meanwhile is shown to them first, and only their word overwrites it. Everything that is found
out on the disk, asked or done passes through the tape, so a replay does the same and touches nothing. Before files are
put back they are kept as they are, so this can be undone as well; the log says that it begins, so that one which was
cut off is known.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread
import msgspec

from laguna_agent.agent import events
from laguna_agent.agent.keeping import TURNED_OFF, PromptFiles, prompt_files, undone
from laguna_agent.agent.store import Permitted, Proposed, Redone, Remarked, Restored, Restoring
from laguna_agent.checkpoints.keep import Proposal
from laguna_agent.checkpoints.plan import Span
from laguna_agent.checkpoints.store import CheckpointError
from laguna_agent.tools.footprint import Change

if TYPE_CHECKING:
    from laguna_agent.agent.session import Session

Emit = Callable[[events.Event], Awaitable[None]]
NAMED = 10
"""Paths that are named in a sentence."""
SHOWN = 20
"""Files whose changes are shown before they are overwritten."""
NO_FILES = "No files had to be put back."
LISTED = 500
"""Paths that an event and the log list."""


class NotDone(Exception):
    """Nothing was taken back; the words say why."""


class Wish:
    """What a person gave with the command: how many prompts, and what is to become of files that others changed.
    Raises NotDone for what it cannot be."""

    def __init__(self, name: str, argument: str, there_are: int, *, number: bool = True) -> None:
        words = argument.split()
        self.force, self.keep = "force" in words, "keep" in words
        others = [word for word in words if word not in ("force", "keep")]
        self.prompts = 1
        if others:
            wanted = " ".join(others)
            if not number:
                raise NotDone(f"/{name} takes nothing but force or keep, and not {wanted!r}")
            if not (wanted.isascii() and wanted.isdigit() and int(wanted)):
                raise NotDone(f"/{name} takes a number of prompts, such as /{name} 2, and not {wanted!r}")
            self.prompts = int(wanted)
        if self.prompts > there_are:
            known = f"only {there_are} of your prompts" if there_are else "no prompt"
            raise NotDone(f"there is {known} to take back")


async def take_back(wish: Wish, session: Session, emit: Emit) -> None:
    """Carry out `/undo` or `/rewind`."""
    try:
        said, files = await put_back_files(wish, session, emit)
    except NotDone as refusal:
        await _remark(str(refusal), session, emit)
        return
    what = "your last prompt" if wish.prompts == 1 else f"your last {wish.prompts} prompts"
    # Said first: the record that takes back is the last, so that a run killed in between took back nothing.
    await _remark(f"Took back {what} and all that followed. {said}", session, emit)
    await emit(events.Rewound(wish.prompts, session.rewind(wish.prompts), files))


async def redo(argument: str, session: Session, emit: Emit) -> None:
    """Carry out `/redo`: what was taken back last, or begun to be, is as it was."""

    def find() -> Found:
        steps, cut_off = undone(session.records())
        if not steps:
            return Found(problem="there is nothing to redo: nothing was taken back since your last prompt")
        last = steps[-1]
        spans = (Span(bytes.fromhex(last.now), bytes.fromhex(last.tree)),) if last.now and last.tree else ()
        return Found(() if wish.keep else spans, cut_off, conversation=last.conversation)

    try:
        wish = Wish("redo", argument, 1, number=False)
        proposed, said = await _put_back(find, wish, session, emit, redone=True)
    except NotDone as refusal:
        await _remark(str(refusal), session, emit)
        return
    if not proposed.conversation:
        await _remark(f"The conversation is as it was. {said}", session, emit)
        return
    await _remark(f"What you had taken back is there again. {said}", session, emit)
    session.tape.note(Redone())
    session.look_again()
    await emit(events.Redone(proposed.paths))


async def put_back_files(wish: Wish, session: Session, emit: Emit) -> tuple[str, tuple[str, ...]]:
    """Put back what the newest prompts did to files; returns what to say of it, and the paths. Raises NotDone where
    the person's own work would be lost and they do not want that."""
    if wish.keep:
        return "Files were left as they are.", ()

    def find() -> Found:
        records = list(session.records())
        known = prompt_files(records)[-wish.prompts :]
        spans = tuple(each.span for each in known if each.span is not None)
        off = f"Files were left as they are: {TURNED_OFF}." if session.keeping.keep is None else ""
        return Found(spans, undone(records)[1], off or _lost(known))

    proposed, said = await _put_back(find, wish, session, emit)
    return said, proposed.paths


def _lost(known: Sequence[PromptFiles]) -> str:
    """What is to be said of prompts whose files were not kept."""
    problem = next((each.problem for each in known if each.problem), "")
    if problem:
        return f"Files were left as they are: {problem}."
    if any(each.changed and not each.before for each in known):
        return "Files that were changed before checkpoints were kept were left as they are."
    return ""


class Found(msgspec.Struct, frozen=True):
    """What the log says of the files that are to be put back: what prompts, or an undo, did to them. The rest is as in
    `Proposed` and `plan_back`."""

    spans: tuple[Span, ...] = ()
    unfinished: bool = False
    said: str = ""
    problem: str = ""
    conversation: bool = False


async def _put_back(
    find: Callable[[], Found], wish: Wish, session: Session, emit: Emit, *, redone: bool = False
) -> tuple[Proposed, str]:
    """What was proposed, done, and what to say of it. Raises NotDone. Live, `find` reads the log; replayed, what it
    found then is on the tape, for that log has gone on since."""
    proposal: Proposal | None = None
    keep = session.keeping.keep

    async def propose() -> Proposed:
        nonlocal proposal
        found = find()
        if found.problem or not found.spans or keep is None:
            return Proposed(said=found.said, problem=found.problem, conversation=found.conversation)
        try:
            proposal = await anyio.to_thread.run_sync(lambda: keep.propose(found.spans, unfinished=found.unfinished))
        except CheckpointError as error:
            return Proposed(problem=f"{error}. With `keep` behind the command files are left as they are")
        return Proposed(
            proposal.now,
            proposal.target,
            proposal.changed[:LISTED],
            proposal.conflicts[:LISTED],
            proposal.diffs[:SHOWN],
            proposal.left,
            found.said,
            conversation=found.conversation,
        )

    proposed = await session.tape.take(Proposed, propose)
    if proposed.problem:
        raise NotDone(f"Nothing was changed: {proposed.problem}.")
    if proposed.conflicts and not wish.force:
        await _ask(proposed, session, emit)
    said = "" if proposed.said else NO_FILES
    if proposed.now != proposed.target:
        said = await _carry_out(proposal, proposed, session, redone)
    return proposed, " ".join(filter(None, (said, proposed.said)))


async def _carry_out(proposal: Proposal | None, proposed: Proposed, session: Session, redone: bool) -> str:
    keep = session.keeping.keep

    async def begin() -> Restoring:
        assert proposal is not None, "a live session has proposed"
        return Restoring(proposal.now, proposal.target)

    async def do() -> Restored:
        assert keep is not None and proposal is not None, "a live session has proposed"
        chosen = proposal
        try:
            done = await anyio.to_thread.run_sync(lambda: keep.carry_out(chosen))
        except CheckpointError as error:
            return Restored(failed=str(error))
        changes = [Change(Path(keep.absolute(path))) for path in chosen.plan.changed]
        await session.workspace.follow(changes)
        return Restored(done.tree, done.problems, redone=redone)

    await session.tape.take(Restoring, begin)
    restored = await session.tape.take(Restored, do)
    if restored.failed:
        raise NotDone(f"Nothing was changed: {restored.failed}.")
    said = f"Put back {_listed(proposed.paths) or 'directories alone'}."
    if restored.problems:
        said += f" Not put back: {'; '.join(restored.problems[:NAMED])}."
    if proposed.left:
        said += f" Not kept, and so left as they are: {_listed(proposed.left)}."
    return said


async def _ask(proposed: Proposed, session: Session, emit: Emit) -> None:
    """Show the person what of their own would be overwritten. Raises NotDone where they do not want it, or nobody is
    there to say so."""
    call_id = f"undo-{session.prompt_number}"
    shown = {diff.path for diff in proposed.diffs}
    others = tuple(f"{path} was changed too" for path in proposed.conflicts if path not in shown)
    title = f"Overwrite what was changed since in {_listed(proposed.conflicts)}"
    request = events.PermissionRequested(
        call_id,
        title,
        "edit",
        {},
        (
            events.PermissionOption(
                "allow_once", "allow_once", "put these files back as well; /redo brings them again"
            ),
            events.PermissionOption("reject_once", "reject_once", "leave everything as it is"),
        ),
        proposed.diffs,
        unusual=others[:LISTED],
    )
    await emit(events.ToolCallStarted(call_id, "undo", "edit", title))
    await emit(request)

    async def produce() -> Permitted:
        answer = await session.approver(request)
        return Permitted(call_id, answer.allowed, False, answer.reason)

    answer = await session.tape.take(Permitted, produce)
    await emit(events.PermissionResolved(call_id, answer.allowed, answer.reason))
    await emit(events.ToolCallUpdate(call_id, "completed" if answer.allowed else "failed"))
    if not answer.allowed:
        raise NotDone(
            f"Nothing was changed: {_listed(proposed.conflicts)} changed since, and not by the agent as far as is "
            "known. With `force` behind the command such files are put back as well, with `keep` files are left aside."
        )


def _listed(paths: Sequence[str]) -> str:
    named = ", ".join(paths[:NAMED])
    return named + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")


async def _remark(words: str, session: Session, emit: Emit) -> None:
    session.tape.note(Remarked(words))
    await emit(events.TextDelta(words))
