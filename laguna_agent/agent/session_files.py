"""The files of a recorded session, from outside of it: what its prompts changed, and the files as they were.

Prompts count from 1, as the conversation in force has them. Blocking. Raises UsageError where a session kept no files.
"""

from __future__ import annotations

import os
from pathlib import Path

from laguna_agent.agent.journal import Journal
from laguna_agent.agent.keeping import PromptFiles, prompt_files, undone
from laguna_agent.agent.rules import denied_globs
from laguna_agent.agent.store import AnyRecord, Opened, Restored, Restoring, find_session, read_log
from laguna_agent.checkpoints.changes import FileChange, changes
from laguna_agent.checkpoints.keep import Done, Keep, Proposal
from laguna_agent.checkpoints.restore import write_out
from laguna_agent.checkpoints.scan import outermost
from laguna_agent.checkpoints.store import Store, store_directory
from laguna_agent.config import load
from laguna_agent.errors import UsageError
from laguna_agent.sandbox.policy import policy_for


class NothingChanged(UsageError):
    """The session has touched no file."""


class SessionFiles:
    """What the log and the store of one session say of its files."""

    def __init__(self, id_or_prefix: str) -> None:
        self.log = find_session(id_or_prefix)
        self.id = self.log.parent.name
        self._records: list[AnyRecord] = read_log(self.log)
        self.prompts: list[PromptFiles] = prompt_files(self._records)
        opened = [record for record in self._records if isinstance(record, Opened)]
        if not opened:
            raise UsageError(f"session {self.id} was cut off before it began")
        self._roots = [Path(os.path.realpath(path)) for path in (opened[-1].cwd, *opened[-1].roots)]
        if not any(each.before for each in self.prompts):
            why = next((each.problem for each in self.prompts if each.problem), "")
            problem = UsageError if why else NothingChanged
            raise problem(f"no files are kept of session {self.id}: {why or 'it changed none'}")
        directory = store_directory(outermost(self._roots))
        if not directory.is_dir():
            raise UsageError(f"the checkpoints of session {self.id} are gone: there is no {directory}")
        self._store = Store(directory)

    def changes(self, first: int, last: int) -> list[FileChange]:
        """What changed from the beginning of one prompt to the end of another."""
        self._require(first)
        self._require(last)
        if first > last:
            raise UsageError(f"--from {first} comes after --to {last}")
        begun = next((each.before for each in self.prompts[first - 1 : last] if each.before), "")
        done = next((each for each in reversed(self.prompts[first - 1 : last]) if each.before), None)
        if done is None:
            return []
        # Of a prompt that was cut off the end is not known; what the next one found comes nearest.
        following = [each.before for each in self.prompts[self.prompts.index(done) + 1 :] if each.before]
        after = done.after or next(iter(following), "")
        if not after:
            raise UsageError(f"how the last prompt of session {self.id} left the files is not known: it was cut off")
        return list(changes(bytes.fromhex(begun), bytes.fromhex(after), self._store.read))

    def tree_before(self, prompt: int | None) -> str:
        """The files as they were before a prompt; None for how the last one left them."""
        if prompt is None:
            last = next(each for each in reversed(self.prompts) if each.before)
            return last.after or last.before
        self._require(prompt)
        kept = [each.before for each in self.prompts[prompt - 1 :] if each.before]
        # Where nothing was changed from there on, they are as the prompts before left them.
        return kept[0] if kept else self.tree_before(None)

    def write_out(self, prompt: int | None, directory: Path) -> int:
        """Write the files as they were into a new or empty directory; returns how many there are."""
        tree = bytes.fromhex(self.tree_before(prompt))
        return write_out(tree, directory, [root.name for root in outermost(self._roots)], self._store.read)

    def propose(self, prompt: int | None) -> tuple[Keep, Proposal]:
        """What putting the files back where they came from would do now. From a prompt on, only what the prompts did is
        put back; with None everything is made as the last one left it."""
        root, *more = self._roots
        if not root.is_dir():
            raise UsageError(f"the session's working directory is gone: {root}; --to DIR writes the files elsewhere")
        keep = Keep(policy_for(root, more, denied=denied_globs(load(root, {}).rules)), self.id)
        if prompt is None:
            return keep, keep.propose_whole(self.tree_before(None))
        self._require(prompt)
        spans = [each.span for each in self.prompts[prompt - 1 :] if each.span is not None]
        return keep, keep.propose(spans, unfinished=undone(self._records)[1])

    def carry_out(self, keep: Keep, proposal: Proposal) -> Done:
        """Do that; the session's log tells of it, so that its `/redo` takes it back. Raises UsageError while another
        process has the session open."""
        journal = Journal(self.log)
        try:
            journal.append(Restoring(proposal.now, proposal.target))
            done = keep.carry_out(proposal)
            journal.append(Restored(done.tree, done.problems))
        finally:
            journal.close()
        return done

    def _require(self, prompt: int) -> None:
        if not 1 <= prompt <= len(self.prompts):
            raise UsageError(f"session {self.id} has prompts 1 to {len(self.prompts)}, and no prompt {prompt}")
