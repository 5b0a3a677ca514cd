"""What was done in a conversation, apart from its words: the plan as it stands, the files and what was done to each.

Follows from the calls and their results alone, so that a session that is resumed knows the same; knows no model, no
disk and no window.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from laguna_agent.messages import FileDiff, PlanEntry, ToolCall
from laguna_agent.tools.base import ToolResult

FILES = 200
"""Files that are remembered; the ones touched longest ago go first, those only read before all others."""


@dataclass
class Touched:
    """What was done to one file: whether it was made here, is gone, how often it was changed."""

    created: bool = False
    deleted: bool = False
    edits: int = 0

    def __str__(self) -> str:
        if self.deleted:
            return "created and deleted again" if self.created else "deleted"
        edited = "" if not self.edits else "edited" if self.edits == 1 else f"edited {self.edits} times"
        return ", ".join(filter(None, ["created" if self.created else "", edited])) or "read"


@dataclass
class Work:
    """See the module. `files` are by path, the one touched last at the end; `compactions` is how often the older part
    of the conversation gave place to what is known of it."""

    plan: tuple[PlanEntry, ...] = ()
    files: dict[str, Touched] = field(default_factory=dict)
    compactions: int = 0

    def observe(self, call: ToolCall, result: ToolResult) -> None:
        """Note one call that ran."""
        if result.plan is not None:
            self.plan = result.plan
        for diff in result.diffs:
            self._changed(diff)
        path = call.arguments.get("path")
        if call.name == "read" and isinstance(path, str) and not result.is_error:
            self._latest(path.removeprefix("./"))
        while len(self.files) > FILES:
            read = (path for path, touched in self.files.items() if str(touched) == "read")
            del self.files[next(read, next(iter(self.files)))]

    def _changed(self, diff: FileDiff) -> None:
        touched = self._latest(diff.path)
        if diff.new_text is None:
            touched.deleted = True
            return
        if diff.old_text is None and not touched.edits:
            touched.created, touched.deleted = True, False
        else:
            touched.deleted, touched.edits = False, touched.edits + 1

    def _latest(self, path: str) -> Touched:
        touched = self.files.pop(path) if path in self.files else Touched()
        self.files[path] = touched
        return touched
