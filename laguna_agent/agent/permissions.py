"""Who may do what: decided once, before a tool runs, from what the call needs.

    approve   read inside   write inside   execute, or anything outside the workspace
    plan      yes           no             commands no, reading outside: ask
    ask       yes           ask            ask
    edits     yes           yes            ask
    all       yes           yes            yes

`ask` goes to the face's approver. A face without a person answers at once with a denial: nothing ever waits for
somebody who is not there. Grants that a person gives for "always" hold for the session and for exactly what was
shown: the same command, or writes inside the workspace. A refusal touches the call that was asked about and, for
"always", exactly that command or file for the rest of the session; the turn goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from laguna_agent.agent.events import PermissionOption, PermissionRequested
from laguna_agent.config import Approve
from laguna_agent.tools.base import Need


class PermissionAnswer(msgspec.Struct, frozen=True):
    """What the person (or the face on its own) answered; `remember` turns it into a grant for the session."""

    allowed: bool
    remember: bool = False
    reason: str = ""


PLAN_MODE = "plan mode only reads: say what you would change and how to check it"
Approver = Callable[[PermissionRequested], Awaitable[PermissionAnswer]]


async def deny_all(_: PermissionRequested) -> PermissionAnswer:
    """The approver of a face without a person."""
    return PermissionAnswer(False, reason="nobody is here to ask; --approve edits or --approve all would allow it")


@dataclass
class Permissions:
    """The session's policy and the grants given so far."""

    approve: Approve
    grants: set[tuple[str, str]] = field(default_factory=set)
    refusals: set[tuple[str, str]] = field(default_factory=set)

    def allows(self, need: Need | None) -> bool:
        """Whether the call may run without asking."""
        if need is None:
            return True
        if self.forbids(need):
            return False
        if self.approve == "all":
            return True
        if not need.outside:
            if need.access == "read":
                return True
            if need.access == "write" and self.approve == "edits":
                return True
        return self._grant(need) in self.grants

    def forbids(self, need: Need) -> str | None:
        """Why the call may not even be asked for; None where it may. Grants do not outlast a change to plan mode."""
        if self.approve == "plan" and need.access != "read":
            return PLAN_MODE
        if (need.access, need.subject) in self.refusals:
            return "the person refuses this for the whole session"
        return None

    def remember(self, need: Need) -> None:
        """Keep the grant that `options` described as "always"."""
        self.grants.add(self._grant(need))

    def refuse(self, need: Need) -> None:
        """Keep the refusal that `options` described as "always"."""
        self.refusals.add((need.access, need.subject))

    @staticmethod
    def _grant(need: Need) -> tuple[str, str]:
        if need.access == "write" and not need.outside:
            return ("write", "")
        return (need.access, need.subject)


def options(need: Need) -> tuple[PermissionOption, ...]:
    """The four answers to offer, each saying what it grants."""
    if need.access == "write" and not need.outside:
        always = "allow every edit inside the workspace for this session"
    else:
        always = f"allow exactly this for this session: {need.subject}"
    return (
        PermissionOption("allow", "allow_once", "allow this once"),
        PermissionOption("always", "allow_always", always),
        PermissionOption("reject", "reject_once", "refuse this once"),
        PermissionOption("never", "reject_always", f"refuse exactly this for this session: {need.subject}"),
    )
