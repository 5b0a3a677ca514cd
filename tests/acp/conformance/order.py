"""What may come when: https://agentclientprotocol.com/protocol/v1/prompt-turn, .../session-setup"""

from __future__ import annotations

from typing import ClassVar

from tests.acp.conformance.connection import Keeper, Session, update_of
from tests.acp.conformance.recording import Message, id_key

REQUEST_CANCELLED = -32800
# What belongs to a turn or to a replay. The rest (commands, mode, options, title, usage, notices) may come at any time.
OF_A_TURN = {
    "user_message_chunk",
    "agent_message_chunk",
    "agent_thought_chunk",
    "tool_call",
    "tool_call_update",
    "plan",
    "compaction_update",
    "compaction_summary_chunk",
}


class Order(Keeper):
    """Answers and updates in the right order."""

    RULES: ClassVar = {
        "order/initialize": "initialize comes first, and nothing of the agent comes before its answer",
        "order/session": "whatever names a session names one that was opened on this connection and is open",
        "order/resume": "session/resume replays nothing: no update comes between the request and its answer",
        "order/notice": "a replay holds no notice: notices are no part of the history",
        "order/turn": "what belongs to a turn comes between its prompt and the answer, or in a replay before its end",
        "order/cancel": "a prompt that was cancelled is answered with the stop reason cancelled, and no other is",
        "order/closed": "a session that was closed or deleted answers no prompt until it is opened again",
    }

    def see(self, message: Message) -> None:
        connection = self.connection
        if message.sender == "client":
            if not connection.greeted and message.kind == "request" and message.method != "initialize":
                self.fault("order/initialize", message, f"{message.method} before initialize")
            return
        if message.kind in {"request", "notification"}:
            if not connection.initialized:
                self.fault("order/initialize", message, f"{message.method} before the answer to initialize")
            self._of_session(message)
        elif message.method == "session/prompt":
            self._answered(message)

    def _of_session(self, message: Message) -> None:
        session = self.connection.session_of(message)
        if session is None:
            if isinstance(message.get("sessionId"), str):
                self.fault(
                    "order/session", message, f"{message.method} of {message.get('sessionId')}, which is not open"
                )
            return
        update = update_of(message)
        if update is None:
            if message.method == "session/request_permission" and not session.prompts:
                self.fault("order/turn", message, "a question to the person while no prompt is answered")
            return
        if session.opening is not None and not session.loading:
            self.fault("order/resume", message, f"{update[0]} before the answer to session/resume")
        if update[0] == "notice" and session.loading:
            self.fault("order/notice", message, "a notice in a replay")
        if update[0] in OF_A_TURN and not session.prompts and session.opening is None and left_over(update[0], session):
            self.fault("order/turn", message, f"{update[0]} while no prompt is answered")

    def _answered(self, message: Message) -> None:
        session = self.connection.session_of(message)
        if session is None:
            if message.kind == "result":
                self.fault("order/closed", message, "a prompt of a session that is not open was worked on")
            return
        key = id_key(message.id)
        reason = message.get("stopReason") if message.kind == "result" else None
        if key in session.cancelled and reason != "cancelled" and self._began(message, session):
            self.fault("order/cancel", message, f"cancelled, yet answered with {message.body}")
        elif key in self.connection.cancelled_requests:
            if message.kind == "error" and message.get("code") != REQUEST_CANCELLED:
                self.fault("order/cancel", message, f"cancelled by $/cancel_request, yet answered with {message.body}")
        elif reason == "cancelled" and key not in session.cancelled and message.at < self.connection.closed_at:
            self.fault("order/cancel", message, "answered as cancelled, and nobody had cancelled it")

    def _began(self, message: Message, session: Session) -> bool:
        """Whether this was the turn that ran: a second prompt beside it is refused, not cancelled."""
        return message.kind == "result" or next(iter(session.prompts)) == id_key(message.id)


def left_over(variant: str, session: Session) -> bool:
    """Whether an update outside of a turn would be of the last one.

    An agent's words before the first prompt are no part of a turn; that is how notices reach a client without them.
    """
    return session.prompted or variant not in {"agent_message_chunk", "agent_thought_chunk"}
