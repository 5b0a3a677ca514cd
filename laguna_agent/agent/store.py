"""The session log: one append-only JSON-lines file per session, one fsync per record.

A record is a whole line or it is nothing: after `kill -9` the torn tail is ignored on reading and cut before the next
append. The log holds every input that the core cannot compute again (what the model sent, what tools gave, what the
person allowed, what checks printed), which is why a session can be resumed exactly and a run replayed offline.

Layout: `<state>/sessions/<id>/log.jsonl`; beside it `output/` keeps whole command outputs. Only their owner reads them.
"""

from __future__ import annotations

import datetime
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from laguna_agent.agent.events import CheckRun
from laguna_agent.agent.log_file import is_whole
from laguna_agent.agent.outcome import RunRecord
from laguna_agent.agent.pieces import Pieces, unpacked
from laguna_agent.backend.base import Delta, ModelInfo
from laguna_agent.directories import state_directory
from laguna_agent.errors import UsageError
from laguna_agent.mcp.tool import ServedTool
from laguna_agent.messages import ContentBlock, FileDiff, Message, ToolCall
from laguna_agent.sandbox.confinement import Tier
from laguna_agent.tools.base import Need, ToolResult

LOG_VERSION = 1
RECOVER = "`laguna-agent sessions recover {}` makes a session of what is before it"


class Record(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="record"):
    """Base of all records."""


class Opened(Record, frozen=True, tag="opened"):
    """The session's first record, or a later run of it: who, where, with what. `created` is ISO 8601, UTC; `roots` are
    further directories of the workspace. `copy_of` is the session that this one began as a copy of. `sandbox` confined
    its commands: what runs unasked follows from it."""

    id: str
    cwd: str
    model: str
    created: str
    program: str
    settings: dict[str, object] = {}
    check: str | None = None
    output_schema: dict[str, object] | None = None
    version: int = LOG_VERSION
    roots: tuple[str, ...] = ()
    copy_of: str = ""
    sandbox: Tier = "none"


class Configured(Record, frozen=True, tag="configured"):
    """The person changed settings between two prompts; they hold for what follows. `anew` says that a session that had
    fallen back is to begin with its model again."""

    settings: dict[str, object]
    anew: bool = False


class Prompted(Record, frozen=True, tag="prompted"):
    """A prompt of the person, as typed; what the model was shown of it follows as `Said`.

    `given` is the prompt as the face has it, where that says more (links, attached files): only the face reads it.
    """

    content: tuple[ContentBlock, ...]
    given: tuple[dict[str, object], ...] = ()


class Waiting(Record, frozen=True, tag="waiting"):
    """The person said this into the running turn; it reaches the model as `Steered` or not at all; not replayed."""

    content: tuple[ContentBlock, ...]


class Expanded(Record, frozen=True, tag="expanded"):
    """The prompt called a custom command: the text that stands for it, or why it was not run."""

    name: str
    text: str = ""
    problem: str = ""
    untrusted: bool = False


class Described(Record, frozen=True, tag="described"):
    """What the server said of the model; `model` is the server's own name for it."""

    model: str
    provider: str
    info: ModelInfo


class FellBack(Record, frozen=True, tag="fell_back"):
    """The model failed for good and the session goes on with another, `model` as the settings name it; `notices` are
    what the person is told. What the new one's server says of it follows as `Described`."""

    model: str
    notices: tuple[str, ...] = ()


class Distrusted(Record, frozen=True, tag="distrusted"):
    """What of the workspace this prompt goes without, for nobody has trusted it, as the person is told. Only where
    there is something to tell."""

    notices: tuple[str, ...]


class Offered(Record, frozen=True, tag="offered"):
    """What the session's MCP servers offer for this prompt, and what the person is told of them. Only in sessions that
    have servers; the servers' later answers are ToolRan records like all others."""

    tools: tuple[ServedTool, ...] = ()
    notices: tuple[str, ...] = ()


class Said(Record, frozen=True, tag="said"):
    """A message that entered the conversation.

    The rest is for small models (`code_dialect`): `shown` names the files that the message puts before the model, each
    with the symbols that it defines; `strategy` is how the answer is asked for; `restore` are calls to make first.
    """

    message: Message
    shown: dict[str, tuple[str, ...]] = {}
    strategy: str = ""
    restore: tuple[ToolCall, ...] = ()


class Steered(Record, frozen=True, tag="steered"):
    """The oldest words of the person that waited, and how the model got them: in the place of a `Said`, so that words
    which were taken are in the conversation whatever happens next."""

    content: tuple[ContentBlock, ...]
    said: Said


class Replied(Record, frozen=True, tag="replied"):
    """One answer of the model; `deltas` are those that came, in the log in runs. `request` is the SHA-256 of the
    request that it answers, `size` its bytes as `context.size_of` counts them; `error` is (type, message) where the
    stream did not end well. It took `seconds` in all, `first` of them until something came."""

    request: str
    stored: tuple[Delta | Pieces, ...] = msgspec.field(name="deltas")
    error: tuple[str, str] | None = None
    size: int = 0
    seconds: float = 0.0
    first: float = 0.0

    @property
    def deltas(self) -> tuple[Delta, ...]:
        return tuple(unpacked(self.stored))


class Tried(Record, frozen=True, tag="tried"):
    """An attempt at a request that failed, written while the next one is waited for; it is in the `Replied` that
    follows too, unless the run is killed before that, so a replay passes over it."""

    attempt: int
    delay: float
    reason: str


class Shortened(Record, frozen=True, tag="shortened"):
    """Old results left the conversation to make room: by their positions in the history as it was, the messages that
    went, and those that became mere words. `results` counts what was given up."""

    dropped: tuple[int, ...] = ()
    replaced: tuple[tuple[int, str], ...] = ()
    results: int = 0


class Compacted(Record, frozen=True, tag="compacted"):
    """The older part of the conversation gave place to what is known of it: `messages` stand where, in the history as
    it was, those from position 1 up to `until` were. `summary` is the model's part of that; empty where none was to be
    had, for which `problem` is the reason. `before` and `after` are tokens of the conversation, as the session counted
    them."""

    until: int
    messages: tuple[Message, ...]
    summary: str = ""
    problem: str = ""
    before: int = 0
    after: int = 0


class Uncompacted(Record, frozen=True, tag="uncompacted"):
    """The person took the newest compaction back that is in force, and with it what was shortened since."""


class Asked(Record, frozen=True, tag="asked"):
    """What a person is asked to allow, the change that it would make, and what the question says of a command: none of
    it can be told again from paths, or behind another sandbox."""

    call_id: str
    need: Need
    diffs: tuple[FileDiff, ...] = ()
    parts: tuple[str, ...] = ()
    unusual: tuple[str, ...] = ()


class Permitted(Record, frozen=True, tag="permitted"):
    """The person's answer to a permission request."""

    call_id: str
    allowed: bool
    remember: bool = False
    reason: str = ""


class ToolRan(Record, frozen=True, tag="tool"):
    """One executed call, with its live output as it came and how long it took."""

    call: ToolCall
    result: ToolResult
    output: tuple[str, ...] = ()
    seconds: float = 0.0


class Checked(Record, frozen=True, tag="checked"):
    """One run of the check command; `moving` says that a background command was changing files meanwhile.
    It took `seconds`."""

    run: CheckRun
    moving: bool = False
    seconds: float = 0.0


class Ended(Record, frozen=True, tag="ended"):
    """The end of a prompt. Absent after a crash.

    `error` is the name of the error class that ended it, `events` how many events had gone out before the last one:
    a run that was interrupted stops between two events, and so does its replay.
    """

    result: RunRecord
    error: str = ""
    events: int = 0


class Checkpointed(Record, frozen=True, tag="checkpoint"):
    """The files were kept, before the first call of a prompt that may write, or after the prompt had ended; then it
    comes behind Ended, and no replay reads it. `tree` names them in the workspace's store, `left` what is not in it;
    where they could not be kept, `problem` says why."""

    when: Literal["before", "after"]
    tree: str = ""
    left: tuple[str, ...] = ()
    problem: str = ""


class Proposed(Record, frozen=True, tag="proposed"):
    """What putting files back would do, found out by a look at the disk: it goes from the tree `now` to `target`.
    `paths` become something else; `conflicts` are those of them that others changed, with `diffs` that show what would
    be lost. Of what `left` names nothing is kept, and `said` is what else the person should know. Where it cannot be,
    `problem` says why. `conversation` says whether a `/redo` brings that back too."""

    now: str = ""
    target: str = ""
    paths: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    diffs: tuple[FileDiff, ...] = ()
    left: tuple[str, ...] = ()
    said: str = ""
    problem: str = ""
    conversation: bool = False


class Restoring(Record, frozen=True, tag="restoring"):
    """Files are put back from here on: from the tree `now` to the tree `target`."""

    now: str
    target: str


class Restored(Record, frozen=True, tag="restored"):
    """They were: the workspace is now as in `tree`, and `problems` has a line for each path that was left. With
    `failed` nothing was changed; `redone` says that an undo was taken back by it."""

    tree: str = ""
    problems: tuple[str, ...] = ()
    failed: str = ""
    redone: bool = False


class Redone(Record, frozen=True, tag="redone"):
    """The person took the newest Rewound back; nothing was asked of the model in between."""


class Rewound(Record, frozen=True, tag="rewound"):
    """The person took back the newest `prompts` prompts that were for the model, with all that followed them up to
    here, commands too. Who reads a log for what the conversation is reads it through `conversation.in_force`."""

    prompts: int


class Forked(Record, frozen=True, tag="forked"):
    """The person made a copy of the session; `id` is the copy's."""

    id: str


class Remarked(Record, frozen=True, tag="remarked"):
    """Words of the program to the person that the model does not hear: the answer to a slash command."""

    text: str


AnyRecord = (
    Opened
    | Configured
    | Prompted
    | Waiting
    | Steered
    | Expanded
    | Distrusted
    | Described
    | FellBack
    | Offered
    | Said
    | Tried
    | Replied
    | Shortened
    | Compacted
    | Uncompacted
    | Asked
    | Permitted
    | ToolRan
    | Checked
    | Checkpointed
    | Proposed
    | Restoring
    | Restored
    | Redone
    | Rewound
    | Forked
    | Remarked
    | Ended
)


_decode = msgspec.json.Decoder(AnyRecord).decode


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_session_id() -> str:
    """Sortable by time, unique without coordination: `20260131-142501-9f3a1c`."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def sessions_directory() -> Path:
    """Where all sessions lie."""
    return state_directory() / "sessions"


def session_directory(session_id: str) -> Path:
    """Where the session's log and spooled outputs lie."""
    return sessions_directory() / session_id


def iterate_log(path: Path) -> Iterator[AnyRecord]:
    """The records of a log, one at a time; a torn last line is passed over, a damaged inner line is an error."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n") and not is_whole(line):
                return
            try:
                yield _decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                way_out = f"; {RECOVER.format(path.parent.name)}" if path.name == "log.jsonl" else ""
                raise UsageError(f"{path}:{number}: not a record of a session log: {error}{way_out}") from error


def read_log(path: Path) -> list[AnyRecord]:
    """All records of a log."""
    return list(iterate_log(path))


def find_session(id_or_prefix: str) -> Path:
    """The log of a session, by id or unique prefix; raises UsageError when there is none or more than one."""
    if not re.fullmatch(r"[0-9A-Za-z-]+", id_or_prefix):
        raise UsageError(f"not a session id: {id_or_prefix!r}")
    found = sorted(sessions_directory().glob(f"{id_or_prefix}*/log.jsonl"))
    exact = [path for path in found if path.parent.name == id_or_prefix]
    if len(exact or found) != 1:
        what = "no session" if not found else f"{len(found)} sessions"
        raise UsageError(f"{what} with id {id_or_prefix!r}; `laguna-agent sessions list` shows them")
    return (exact or found)[0]
