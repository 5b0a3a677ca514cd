"""What is known of a connection at each moment: capabilities, open sessions, running prompts. It judges nothing.

`Connection.apply` is called after the rules have looked at a message, so they see the state that it arrived in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.acp.conformance.recording import Fault, Message, dig, id_key


@dataclass
class Session:
    """A session that is open, or being opened by `opening` (load or resume). `prompts` are those not answered yet."""

    id: str
    opening: Message | None = None
    prompts: dict[str, Message] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    prompted: bool = False

    @property
    def loading(self) -> bool:
        return self.opening is not None and self.opening.method == "session/load"


@dataclass
class Connection:
    """One run of the agent. `closed_at` is the line at which the client hung up, `heard` whether it read to the end."""

    closed_at: int
    heard: bool
    client: dict[str, Any] = field(default_factory=dict)
    agent: dict[str, Any] = field(default_factory=dict)
    initialized: bool = False
    greeted: bool = False
    sessions: dict[str, Session] = field(default_factory=dict)
    cancelled_requests: set[str] = field(default_factory=set)
    _replaced: dict[str, Session | None] = field(default_factory=dict)

    def session_of(self, message: Message) -> Session | None:
        """The session that a message names, as it is or as its request names it."""
        name = message.asked("sessionId") if message.request else message.get("sessionId")
        return self.sessions.get(name) if isinstance(name, str) else None

    def client_can(self, *path: str) -> bool:
        """Whether the client advertised a capability: true, or an object."""
        return advertised(dig(self.client, *path))

    def agent_can(self, *path: str) -> bool:
        return advertised(dig(self.agent, *path))

    def apply(self, message: Message) -> None:
        """Take in a message."""
        if message.sender == "client":
            self._asked(message)
        elif message.kind == "result":
            self._answered(message)
        elif message.kind == "error":
            self._failed(message)

    def _asked(self, message: Message) -> None:
        name = message.get("sessionId")
        session = self.session_of(message)
        if message.is_("request", "initialize"):
            self.greeted, self.client = True, message.get("clientCapabilities") or {}
        elif message.is_("request", "session/load", "session/resume") and isinstance(name, str):
            self._replaced[id_key(message.id)] = session
            if session is None or not session.prompts:
                self.sessions[name] = Session(name, message)
        elif message.is_("request", "session/prompt") and session is not None:
            session.prompts[id_key(message.id)] = message
        elif session is not None and (
            message.is_("notification", "session/cancel") or message.is_("request", "session/close", "session/delete")
        ):
            session.cancelled |= set(session.prompts)
        elif message.is_("notification", "$/cancel_request"):
            self.cancelled_requests.add(id_key(message.get("requestId")))

    def _answered(self, message: Message) -> None:
        session = self.session_of(message)
        if message.method == "initialize":
            self.initialized, self.agent = True, message.get("agentCapabilities") or {}
        elif message.method == "session/new" and isinstance(message.get("sessionId"), str):
            self.sessions[message.get("sessionId")] = Session(message.get("sessionId"))
        elif message.method in {"session/load", "session/resume"} and session is not None:
            session.opening = None
        elif message.method in {"session/close", "session/delete"}:
            self.sessions.pop(str(message.asked("sessionId")), None)
        self._prompt_over(message, session)

    def _failed(self, message: Message) -> None:
        session = self.session_of(message)
        if message.method in {"session/load", "session/resume"} and session is not None:
            replaced = self._replaced.get(id_key(message.id))
            if replaced is None:
                del self.sessions[session.id]
            else:
                self.sessions[session.id] = replaced
        self._prompt_over(message, session)

    def _prompt_over(self, message: Message, session: Session | None) -> None:
        if message.method == "session/prompt" and session is not None:
            session.prompts.pop(id_key(message.id), None)
            session.prompted = session.prompted or message.kind == "result"


def advertised(capability: Any) -> bool:
    """Left out, null and false all mean that it is not there; an empty object means that it is."""
    return capability is not None and capability is not False


class Keeper:
    """Keeps one group of rules over one connection."""

    RULES: ClassVar[dict[str, str]] = {}

    def __init__(self, connection: Connection, faults: list[Fault]) -> None:
        self.connection = connection
        self._faults = faults

    def see(self, message: Message) -> None:
        """Look at a message; the connection's state is the one before it."""

    def end(self) -> None:
        """The connection is over."""

    def fault(self, rule: str, message: Message, text: str) -> None:
        assert rule in self.RULES, rule
        self._faults.append(Fault(rule, message.sender, message.at, text))


def update_of(message: Message) -> tuple[str, dict[str, Any]] | None:
    """The variant and the body of a session/update; None for any other message."""
    update = message.get("update")
    if not message.is_("notification", "session/update") or not isinstance(update, dict):
        return None
    return str(update.get("sessionUpdate")), update
