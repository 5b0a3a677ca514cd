"""Who may do what: decided once, before a tool runs, from what the call needs.

    approve   read     read      write    write outside or   command that   other      network,      MCP
              inside   outside   inside   protected;         only looks     command    unconfined    tool
                                          read hidden
    plan      yes      ask       no       no                 yes            no         no            no
    ask       yes      ask       ask      ask                yes            ask        ask           ask
    edits     yes      ask       yes      ask                yes            yes        ask           ask
    all       yes      yes       yes      ask                yes            yes        ask           yes

That is for commands in a full sandbox. In a partial one `edits` asks about other commands; where there is none, `plan`
runs no command and all else ask about every one, but for `all` where the person wants no sandbox: that allows
everything. A command that only looks runs in the confinement "reading", where the kernel forbids writing (not in `all`,
where it may turn out to do more). With the setting `network` all others have the network, and to want it is nothing
more. The person's own rules go before the table, the strictest of them first; none of them opens plan mode, or what is
protected or hidden.

`ask` goes to the face's approver. A face without a person answers at once with a denial: nothing ever waits for
somebody who is not there. Grants that a person gives for "always" hold for the session and for exactly what was
shown: the same command, the same file or tool, or writes inside the workspace. A refusal touches the call that was
asked about and, for "always", exactly that command, file or tool for the rest of the session; the turn goes on.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from laguna_agent.agent.events import PermissionOption, PermissionRequested
from laguna_agent.agent.rule_paths import absolute
from laguna_agent.agent.rules import Judgement, Rules
from laguna_agent.code.looking import only_looks
from laguna_agent.code.shell_command import Parsed, Part, parts
from laguna_agent.config import Approve, RuleVerdict, Settings
from laguna_agent.sandbox.confinement import Boundary, Kind
from laguna_agent.sandbox.policy import protects
from laguna_agent.sandbox.walls import Walls
from laguna_agent.tools.base import Need
from laguna_agent.tools.workspace import Workspace

PLAN_MODE = "plan mode only reads: say what you would change and how to check it"
NOT_CERTAIN = "not certain: "
NO_SANDBOX = "there is no sandbox here: it runs with your rights"


class PermissionAnswer(msgspec.Struct, frozen=True):
    """What the person (or the face on its own) answered; `remember` turns it into a grant for the session. `option` is
    the id of the one chosen, where several are of the same kind."""

    allowed: bool
    remember: bool = False
    reason: str = ""
    option: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What a person needs to judge a command: the parts that it really runs, and what is unusual about the call."""

    parts: tuple[str, ...] = ()
    unusual: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """`reason` says why it is denied, or asked about. `kind` is the confinement of a command once it is allowed; None
    for what is no command."""

    verdict: RuleVerdict
    reason: str = ""
    kind: Kind | Literal["unconfined"] | None = None
    facts: Facts = Facts()


Approver = Callable[[PermissionRequested], Awaitable[PermissionAnswer]]
Refusal = tuple[str, str, str, str]


async def deny_all(request: PermissionRequested) -> PermissionAnswer:
    """The approver of a face without a person."""
    # What a wider mode would not allow either is the reason; elsewhere the mode is.
    why = [fact for fact in request.unusual if fact != NO_SANDBOX and not fact.startswith(NOT_CERTAIN)]
    how = "--approve edits or --approve all would allow it"
    return PermissionAnswer(False, reason=f"nobody is here to ask; {'; '.join(why) or how}")


@dataclass
class Permissions:
    """The session's policy and the grants given so far. `boundary` is what the sandbox was proved to hold, `network`
    the setting, and `without` says that the person wants no sandbox; where it `leaks`, commands can read what
    the person's rules deny reading. `roots` are the directories of the workspace."""

    approve: Approve
    rules: Rules = field(default_factory=Rules)
    boundary: Boundary = "none"
    network: bool = False
    without: bool = False
    roots: tuple[Path, ...] = ()
    leaks: bool = False
    grants: set[Need] = field(default_factory=set)
    refusals: set[Refusal] = field(default_factory=set)

    def decide(self, need: Need | None) -> Decision:
        """Whether a call may run, and how; what it needs is None where nothing needs leave."""
        if need is None:
            return Decision("allow")
        parsed = parts(need.subject) if is_command(need) else None
        looks = parsed is not None and need.grant is None and only_looks(parsed)
        decision = self._decided(need, parsed, looks)
        kind = self._kind(need, looks) if parsed is not None else None
        return msgspec.structs.replace(decision, kind=kind, facts=self._facts(need, parsed, decision))

    def remember(self, need: Need) -> None:
        """Keep the grant that `options` described as "always"."""
        self.grants.add(_grant(need))

    def refuse(self, need: Need) -> None:
        """Keep the refusal that `options` described as "always"."""
        self.refusals.add(_exactly(need))

    # -- the decision -----------------------------------------------------------------------------------------------

    def _decided(self, need: Need, parsed: Parsed | None, looks: bool) -> Decision:
        if _exactly(need) in self.refusals:
            return Decision("deny", "the person refuses this for the whole session")
        rule = self.rules.judge(need, parsed)
        if rule is not None and rule.verdict == "deny":
            return Decision("deny", rule.reason)
        usual = self._usual(need, looks)
        # Grants and rules do not outlast a change to plan mode.
        if usual == "deny":
            return Decision("deny", PLAN_MODE)
        if _grant(need) in self.grants:
            return Decision("allow")
        return _with_rule(usual, rule, guarded=need.protected or need.hidden or (self.leaks and is_command(need)))

    def _usual(self, need: Need, looks: bool) -> RuleVerdict:
        """The table."""
        if self.approve == "all" and self.boundary == "none" and self.without:
            return "allow"
        if need.access == "execute":
            return self._usual_tool() if need.tool else self._usual_command(need, looks)
        if need.access == "read":
            if need.hidden:
                return "deny" if self.approve == "plan" else "ask"
            return "ask" if need.outside and self.approve != "all" else "allow"
        if self.approve == "plan":
            return "deny"
        within = not (need.outside or need.protected or need.hidden)
        return "allow" if within and self.approve in {"edits", "all"} else "ask"

    def _usual_tool(self) -> RuleVerdict:
        return "deny" if self.approve == "plan" else "allow" if self.approve == "all" else "ask"

    def _usual_command(self, need: Need, looks: bool) -> RuleVerdict:
        if looks and self.boundary != "none" and not self.leaks:
            return "allow"
        if self.approve == "plan":
            return "deny"
        if self.leaks:
            return "ask"
        # With the setting every command has the network, so to want it changes nothing.
        if need.grant is not None and not (need.grant == "network" and self.network):
            return "ask"
        confined = self.approve == "all" or (self.approve == "edits" and self.boundary == "full")
        return "allow" if confined and self.boundary != "none" else "ask"

    def _kind(self, need: Need, looks: bool) -> Kind | Literal["unconfined"]:
        if need.grant is not None:
            return need.grant
        if looks and self.approve != "all":
            return "reading"
        return "network" if self.network else "workspace"

    # -- what a person needs to judge -------------------------------------------------------------------------------

    def _facts(self, need: Need, parsed: Parsed | None, decision: Decision) -> Facts:
        if decision.verdict != "ask":
            return Facts()
        unusual = [decision.reason] if decision.reason else []
        if parsed is None:
            verb = "reads" if need.access == "read" else "writes"
            if need.tool or need.access == "execute":
                return Facts((), tuple(unusual))
            return Facts((), (*unusual, *_about_path(verb, need)))
        if need.grant == "network":
            unusual.append("wants the network")
        elif need.grant == "unconfined":
            unusual.append("wants to run without the sandbox, with all your rights")
        if self.boundary == "none":
            unusual.append(NO_SANDBOX)
        elif self.leaks:
            unusual.append("this sandbox cannot keep it from reading what your rules deny")
        unusual += [NOT_CERTAIN + reason for reason in parsed.unclear]
        unusual += self._about_writes(parsed)
        shown = [part for part in parsed.parts if not part.through]
        return Facts(tuple(map(part_line, shown)), tuple(dict.fromkeys(unusual)))

    def _about_writes(self, parsed: Parsed) -> list[str]:
        """What is unusual about where redirections write."""
        found = []
        for target in (target for part in parsed.parts for target in part.writes):
            if not self.roots or target.startswith("/dev/"):
                continue
            path = Path(absolute(target, self.roots[0]))
            root = next((root for root in self.roots if path.is_relative_to(root)), None)
            if root is None:
                found.append(f"writes {target}, outside the workspace")
            elif protects(path.relative_to(root).parts):
                found.append(f"writes {target}, which other programs obey")
        return found


def permissions_for(settings: Settings, workspace: Workspace, walls: Walls | None) -> Permissions:
    """Those of a session whose commands run behind `walls`; raises ConfigError for a rule that cannot be used."""
    roots = (workspace.root, *workspace.roots)
    return Permissions(
        settings.approve,
        Rules(settings.rules, roots),
        walls.boundary if walls else "none",
        settings.network,
        settings.sandbox == "none",
        roots,
        walls.leaks if walls else False,
    )


def is_command(need: Need) -> bool:
    """Whether what is needed is leave for a shell command."""
    return need.access == "execute" and not need.tool


def part_line(part: Part) -> str:
    """One part for a person: its words as the program gets them, and what its redirections write."""
    if not part.words:
        # A redirection of a whole list, whose commands are parts of their own.
        return " ".join(f"> {target}" for target in part.writes) or part.text
    words = [word if at in part.vague else shlex.quote(word) for at, word in enumerate(part.words)]
    return " ".join([*words, *(f"> {target}" for target in part.writes)])


def _with_rule(usual: RuleVerdict, rule: Judgement | None, *, guarded: bool) -> Decision:
    """The table's verdict, and that of a rule before it. What is guarded is opened by no rule."""
    if rule is None or (rule.verdict == "allow" and guarded):
        return Decision(usual)
    return Decision(rule.verdict, rule.reason if rule.verdict == "ask" else "")


def _about_path(verb: str, need: Need) -> list[str]:
    facts = {
        "outside the workspace": need.outside,
        "which other programs obey": need.protected,
        "which is kept from commands and tools": need.hidden,
    }
    return [f"{verb} {need.subject}, {fact}" for fact, holds in facts.items() if holds]


def _exactly(need: Need) -> Refusal:
    """What is refused stays refused where it has become something else, such as a protected path."""
    return (need.access, need.subject, need.grant or "", need.tool)


def _grant(need: Need) -> Need:
    """What is granted is granted as it was shown, down to whether it leaves the workspace."""
    return Need("write", "") if _is_plain_edit(need) else need


def _is_plain_edit(need: Need) -> bool:
    return need.access == "write" and not (need.outside or need.protected or need.hidden)


def options(need: Need, shown: tuple[str, ...] = ()) -> tuple[PermissionOption, ...]:
    """The four answers to offer, each saying what it grants; `shown` are the parts of a command."""
    covered = _covered(need)
    always = "every edit inside the workspace for this session" if _is_plain_edit(need) else covered
    always += f" (it runs {'; '.join(shown)})" if len(shown) > 1 else ""
    return (
        PermissionOption("allow", "allow_once", "allow this once"),
        PermissionOption("always", "allow_always", f"allow {always}"),
        PermissionOption("reject", "reject_once", "refuse this once"),
        PermissionOption("never", "reject_always", f"refuse {covered}"),
    )


def _covered(need: Need) -> str:
    """What a lasting answer is about. Only a command is the same the next time: a tool or a file is granted whatever
    a later call does with it, which the words must not hide."""
    if need.tool:
        return f"every call of {need.subject} for this session, whatever it is given"
    if need.access != "execute":
        what = "reading" if need.access == "read" else "every edit of"
        return f"{what} {need.subject} for this session"
    how = {"network": ", with the network", "unconfined": ", without the sandbox"}.get(need.grant or "", "")
    return f"exactly this for this session{how}: {need.subject}"
