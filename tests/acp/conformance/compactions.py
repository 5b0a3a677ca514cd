"""Compactions: https://agentclientprotocol.com/rfds/session-compaction"""

from __future__ import annotations

from typing import Any, ClassVar

from tests.acp.conformance.connection import Keeper, update_of
from tests.acp.conformance.recording import Message

FINAL = {"completed", "failed", "cancelled"}


class Compactions(Keeper):
    """Each one is an entity of its own. `statuses` outlives the connection: ids are unique within a session."""

    RULES: ClassVar = {
        "compaction/once": "a compaction ends once, and its id is never used for another one",
        "compaction/chunk": "pieces of a summary come while their compaction is in progress",
        "compaction/ended": "a compaction that began has ended when its prompt is answered",
    }

    def __init__(self, *args: Any, statuses: dict[tuple[str, str], str]) -> None:
        super().__init__(*args)
        self._statuses = statuses

    def see(self, message: Message) -> None:
        update = update_of(message)
        session = str(message.asked("sessionId") if message.request else message.get("sessionId"))
        if update is not None and update[0] in {"compaction_update", "compaction_summary_chunk"}:
            key = (session, str(update[1].get("compactionId")))
            before = self._statuses.get(key, "")
            if update[0] == "compaction_summary_chunk":
                if before != "in_progress":
                    self.fault("compaction/chunk", message, f"{key[1]} is {before or 'unknown'}")
                return
            opened = self.connection.session_of(message)
            if before in FINAL and not (opened is not None and opened.loading):
                self.fault("compaction/once", message, f"{key[1]} was {before} and is {update[1].get('status')} now")
            self._statuses[key] = str(update[1].get("status"))
        elif message.method == "session/prompt" and message.request is not None:
            for (owner, id), status in self._statuses.items():
                if owner == session and status not in FINAL:
                    self.fault("compaction/ended", message, f"{id} is still {status}")
