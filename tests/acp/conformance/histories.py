"""What is kept of sessions from one connection to the next: replays and lists."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.acp.conformance.connection import Keeper, update_of
from tests.acp.conformance.recording import Message, dig, id_key

# Refused before anything came of it, so no part of the history.
REFUSED = {-32600, -32602, -32002, -32000}
Item = tuple[str, str]


@dataclass
class Memory:
    """Over all connections: the history of each session as (kind, text), what ids were used for, deleted sessions."""

    histories: dict[str, list[Item]] = field(default_factory=dict)
    message_ids: dict[str, set[str]] = field(default_factory=dict)
    compactions: dict[tuple[str, str], str] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)


class Histories(Keeper):
    """session/load gives back what was said."""

    RULES: ClassVar = {
        "order/replay": "session/load replays prompts, answers and calls, whole and in order, before its answer"
    }

    def __init__(self, *args: Any, memory: Memory) -> None:
        super().__init__(*args)
        self._memory = memory
        self._turns: dict[str, list[Item]] = {}
        self._replays: dict[str, list[Item]] = {}

    def see(self, message: Message) -> None:
        session = str(message.asked("sessionId") if message.request else message.get("sessionId"))
        update = update_of(message)
        if message.is_("request", "session/load"):
            self._replays[session] = []
        elif message.is_("request", "session/prompt"):
            self._turns[id_key(message.id)] = [("user", text) for text in texts(message.get("prompt"))]
        elif update is not None:
            self._told(message, session, *update)
        elif message.method == "session/prompt" and message.request is not None:
            turn = self._turns.pop(id_key(message.id), [])
            if message.kind == "result" or message.get("code") not in REFUSED:
                # Half an answer may be forgotten, and a prompt withdrawn before anything came of it. What was asked and
                # done else may not.
                whole = message.kind == "result" and message.get("stopReason") == "end_turn"
                withdrawn = message.get("stopReason") == "cancelled" and all(item[0] == "user" for item in turn)
                kept = [item for item in turn if whole or (item[0] != "agent" and not withdrawn)]
                self._memory.histories.setdefault(session, []).extend(kept)
        elif message.is_("result", "session/load"):
            self._compare(message, session)

    def _told(self, message: Message, name: str, variant: str, update: dict[str, Any]) -> None:
        session = self.connection.session_of(message)
        if session is None:
            return
        into = self._replays.get(name) if session.loading else None
        if into is None and session.prompts:
            into = self._turns[next(iter(session.prompts))]
        item = item_of(variant, update)
        if into is None or item is None:
            return
        if into and item[0] == into[-1][0] != "call":
            into[-1] = (item[0], into[-1][1] + item[1])
        else:
            into.append(item)

    def _compare(self, message: Message, session: str) -> None:
        replay = iter(self._replays.pop(session, []))
        said = ("", "")
        for kind, text in self._memory.histories.get(session, []):
            while said[0] != kind or text not in said[1]:
                following = next(replay, None)
                if following is None:
                    self.fault("order/replay", message, f"missing, or out of order: {kind} {text[:200]!r}")
                    return
                said = following
            said = ("", "") if kind == "call" else (kind, said[1].split(text, 1)[1])


class Lists(Keeper):
    """session/list: https://agentclientprotocol.com/protocol/v1/session-list"""

    RULES: ClassVar = {
        "list/filter": "a list for a folder holds only sessions of that folder",
        "list/pages": "no session is on two pages of one list",
        "list/deleted": "a deleted session is neither listed nor opened",
    }

    def __init__(self, *args: Any, memory: Memory) -> None:
        super().__init__(*args)
        self._memory = memory
        self._pages: dict[str, set[str]] = {}

    def see(self, message: Message) -> None:
        if message.is_("result", "session/delete"):
            self._memory.deleted.add(str(message.asked("sessionId")))
        elif message.is_("result", "session/load", "session/resume"):
            if message.asked("sessionId") in self._memory.deleted:
                self.fault("list/deleted", message, f"{message.asked('sessionId')} was deleted and opens")
        elif message.is_("result", "session/list"):
            self._listed(message)

    def _listed(self, message: Message) -> None:
        sessions = message.get("sessions") or []
        names = {str(dig(each, "sessionId")) for each in sessions}
        wanted = message.asked("cwd")
        if wanted and any(dig(each, "cwd") != wanted for each in sessions):
            self.fault("list/filter", message, f"asked for {wanted}, got {sessions}")
        before = self._pages.get(str(message.asked("cursor")), set()) if message.asked("cursor") else set()
        if before & names or len(names) < len(sessions):
            self.fault("list/pages", message, f"twice: {before & names or sessions}")
        if isinstance(message.get("nextCursor"), str):
            self._pages[message.get("nextCursor")] = before | names
        if names & self._memory.deleted:
            self.fault("list/deleted", message, f"deleted and still listed: {names & self._memory.deleted}")


def texts(blocks: Iterable[Any] | None) -> list[str]:
    """The text blocks of a prompt that are part of the conversation; slash commands are none."""
    found = [str(dig(block, "text")) for block in blocks or [] if dig(block, "type") == "text"]
    return [text for text in found if text.strip() and not text.startswith("/")]


def item_of(variant: str, update: dict[str, Any]) -> Item | None:
    """An update as a piece of the history; None where it is none."""
    if variant in {"user_message_chunk", "agent_message_chunk"}:
        return variant.split("_")[0], str(dig(update, "content", "text") or "")
    if variant in {"tool_call", "tool_call_update"} and update.get("status") in {"completed", "failed"}:
        return "call", f"{update.get('toolCallId')} {update.get('status')}"
    return None
