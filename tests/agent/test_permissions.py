"""The table of permissions, the rules before it, and what a person is shown."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import anyio
import pytest

from laguna_agent.agent.events import PermissionRequested
from laguna_agent.agent.permissions import (
    NO_SANDBOX,
    PLAN_MODE,
    Permissions,
    deny_all,
    options,
)
from laguna_agent.agent.rules import Rules
from laguna_agent.config import MODES, Approve, Rule
from laguna_agent.sandbox.confinement import Boundary
from laguna_agent.tools.base import Grant, Need

ROOT = Path("/project")
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)
NEEDS = {
    "read inside": Need("read", "a"),
    "read outside": Need("read", "/a", outside=True),
    "read hidden": Need("read", "/a", outside=True, hidden=True),
    "write inside": Need("write", "a"),
    "write outside": Need("write", "/a", outside=True),
    "write protected": Need("write", ".envrc", protected=True),
    "looks": Need("execute", "ls"),
    "command": Need("execute", "make"),
    "unclear": Need("execute", "$x"),
    "network": Need("execute", "make", grant="network"),
    "looks with network": Need("execute", "ls", grant="network"),
    "unconfined": Need("execute", "make", grant="unconfined"),
    "tool": Need("execute", "a: b", tool="a_b"),
}
TABLE = {
    "plan": "yes ask no no no no read no no no no no no",
    "ask": "yes ask ask ask ask ask read ask ask ask ask ask ask",
    "edits": "yes ask ask yes ask ask read work work ask ask ask ask",
    "all": "yes yes ask yes ask ask work work work ask ask ask yes",
}
PARTIAL = {**TABLE, "edits": "yes ask ask yes ask ask read ask ask ask ask ask ask"}
NONE = {
    "plan": "yes ask no no no no no no no no no no no",
    "ask": "yes ask ask ask ask ask ask ask ask ask ask ask ask",
    "edits": "yes ask ask yes ask ask ask ask ask ask ask ask ask",
    "all": "yes yes ask yes ask ask ask ask ask ask ask ask yes",
}
WITHOUT = {**NONE, "all": "yes yes yes yes yes yes work work work net net un yes"}
"""Where the person wants no sandbox."""


def permissions(
    approve: Approve, boundary: Boundary = "full", *rules: Rule, network: bool = False, without: bool = False
) -> Permissions:
    return Permissions(approve, Rules(rules, [ROOT]), boundary, network, without, (ROOT,))


def word(given: Permissions, need: Need) -> str:
    decision = given.decide(need)
    if decision.verdict != "allow":
        return {"ask": "ask", "deny": "no"}[decision.verdict]
    kinds = {None: "yes", "reading": "read", "workspace": "work", "network": "net", "unconfined": "un"}
    return kinds[decision.kind]


@pytest.mark.parametrize("approve", MODES)
@pytest.mark.parametrize(
    ("boundary", "without", "table"),
    [("full", False, TABLE), ("partial", False, PARTIAL), ("none", False, NONE), ("none", True, WITHOUT)],
)
def test_the_table(approve: Approve, boundary: Boundary, without: bool, table: dict[str, str]) -> None:
    given = permissions(approve, boundary, without=without)
    assert {name: word(given, need) for name, need in NEEDS.items()} == dict(
        zip(NEEDS, table[approve].split(), strict=True)
    )


def test_with_the_setting_network_to_want_it_is_nothing_more() -> None:
    for approve in MODES:
        usual, given = permissions(approve), permissions(approve, network=True)
        plain = word(usual, NEEDS["command"])
        assert word(given, NEEDS["network"]) == word(given, NEEDS["command"]) == {"work": "net"}.get(plain, plain)
        assert word(given, NEEDS["unconfined"]) == word(usual, NEEDS["unconfined"])
        assert word(given, NEEDS["looks"]) == {"work": "net"}.get(word(usual, NEEDS["looks"]), "read")


def test_nothing_needs_no_leave() -> None:
    assert permissions("plan", "none").decide(None).verdict == "allow"


@pytest.mark.parametrize(("approve", "boundary"), list(itertools.product(MODES, BOUNDARIES)))
def test_a_denying_rule_holds_in_every_mode(approve: Approve, boundary: Boundary) -> None:
    given = permissions(
        approve,
        boundary,
        Rule("shell(make *)", "deny", "not today"),
        Rule("read(a)", "deny"),
        Rule("edit(a)", "deny"),
        Rule("tool(a_*)", "deny"),
        Rule("shell(make *)", "allow"),
        Rule("network(*)", "allow"),
    )
    for name in ("command", "network", "unconfined", "read inside", "write inside", "tool"):
        given.remember(NEEDS[name])
        assert given.decide(NEEDS[name]).verdict == "deny", name
    assert given.decide(NEEDS["command"]).reason == "not today"
    unclear = given.decide(NEEDS["unclear"]).verdict
    assert unclear == ("deny" if approve == "plan" else "ask")


def test_leave_by_rule_opens_no_plan_mode_and_nothing_that_is_guarded() -> None:
    everything = [Rule(f"{name}(*)", "allow") for name in ("shell", "network", "unconfined", "tool")]
    paths = [Rule(f"{name}({glob})", "allow") for name in ("edit", "read") for glob in ("**", "/**")]
    for approve in MODES:
        given = permissions(approve, "full", *everything, *paths)
        for name in ("command", "network", "unconfined", "tool", "write inside", "write outside"):
            assert given.decide(NEEDS[name]).verdict == ("deny" if approve == "plan" else "allow"), name
        assert given.decide(NEEDS["read outside"]).verdict == "allow"
        for name in ("read hidden", "write protected", "unclear"):
            assert word(given, NEEDS[name]) == word(permissions(approve), NEEDS[name]), name


def test_a_rule_can_ask_where_the_table_would_not() -> None:
    given = permissions("all", "full", Rule("shell(make *)", "ask", "it takes an hour"))
    decision = given.decide(NEEDS["command"])
    assert (decision.verdict, decision.reason, decision.kind) == ("ask", "it takes an hour", "workspace")
    assert decision.facts.unusual == ("it takes an hour",)
    given.remember(NEEDS["command"])
    assert given.decide(NEEDS["command"]).verdict == "allow"


GRANTABLE = [need for name, need in NEEDS.items() if name != "read inside"]


@pytest.mark.parametrize("shown", GRANTABLE, ids=str)
def test_always_grants_exactly_what_was_shown(shown: Need) -> None:
    """Nothing but the need itself, or another edit inside the workspace, becomes allowed by a grant."""
    before, after = permissions("ask", "none"), permissions("ask", "none")
    after.remember(shown)
    assert after.decide(shown).verdict == "allow"
    others = [
        *NEEDS.values(),
        Need("write", "other"),
        Need("execute", f"{shown.subject} x"),
        Need("execute", "make; rm x"),
    ]
    for other in others:
        edit = shown == NEEDS["write inside"] and other == Need("write", "other")
        if other != shown and not edit:
            assert after.decide(other).verdict == before.decide(other).verdict, other


def test_a_grant_is_for_one_confinement() -> None:
    grants: list[Grant | None] = [None, "network", "unconfined"]
    for shown, other in itertools.permutations(grants, 2):
        given = permissions("ask")
        given.remember(Need("execute", "make", grant=shown))
        assert given.decide(Need("execute", "make", grant=other)).verdict == "ask"


def test_a_refusal_holds_against_grants_and_modes() -> None:
    for approve in MODES:
        given = permissions(approve, "none")
        given.refuse(NEEDS["command"])
        given.remember(NEEDS["command"])
        assert "whole session" in given.decide(NEEDS["command"]).reason


def test_plan_mode_says_what_to_do_instead() -> None:
    given = permissions("plan")
    given.remember(NEEDS["write inside"])
    assert given.decide(NEEDS["write inside"]).reason == PLAN_MODE


def facts(
    command: str, boundary: Boundary = "full", grant: Grant | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = permissions("ask", boundary).decide(Need("execute", command, grant=grant)).facts
    return found.parts, found.unusual


def test_a_person_is_shown_the_parts_and_what_is_unusual() -> None:
    assert facts("make") == (("make",), ())
    assert facts("timeout 5 bash -c 'make; rm \"a b\"'")[0] == ("make", "rm 'a b'")
    assert facts("make", grant="network")[1] == ("wants the network",)
    assert "without the sandbox" in facts("make", grant="unconfined")[1][0]
    assert facts("make", "none")[1] == (NO_SANDBOX,)
    assert facts("echo x > .git/hooks/pre-commit") == (
        ("echo x > .git/hooks/pre-commit",),
        ("writes .git/hooks/pre-commit, which other programs obey",),
    )
    assert facts("make | sh && echo x > out")[0] == ("make", "sh", "echo x", "> out")
    assert facts("echo x > /etc/x")[1] == ("writes /etc/x, outside the workspace",)
    assert facts("echo x > src/../../x")[1] == ("writes src/../../x, outside the workspace",)
    assert facts("make > out 2>/dev/null")[1] == ()
    assert facts("$x")[1] == ("not certain: what it runs is not certain: $x",)


def test_a_person_is_told_why_a_path_is_asked_about() -> None:
    given = permissions("ask")
    assert given.decide(NEEDS["write outside"]).facts.unusual == ("writes /a, outside the workspace",)
    assert given.decide(NEEDS["write protected"]).facts.unusual == ("writes .envrc, which other programs obey",)
    assert given.decide(NEEDS["read hidden"]).facts.unusual[-1] == "reads /a, which is kept from commands and tools"
    assert given.decide(NEEDS["write inside"]).facts.unusual == ()


def test_options_say_in_words_what_they_grant() -> None:
    grants = {option.id: option.grant for option in options(Need("execute", "a; b", grant="network"), ("a", "b"))}
    assert grants["always"] == "allow exactly this for this session, with the network: a; b (it runs a; b)"
    assert grants["never"] == "refuse exactly this for this session, with the network: a; b"
    assert options(Need("write", "a"))[1].grant == "allow every edit inside the workspace for this session"
    for guarded in (NEEDS["write outside"], NEEDS["write protected"]):
        assert options(guarded)[1].grant == f"allow every edit of {guarded.subject} for this session"


def test_nobody_to_ask_is_a_denial_that_says_why() -> None:
    def reason(*unusual: str) -> str:
        request = PermissionRequested("1", "$ x", "execute", {}, options(Need("execute", "x")), unusual=unusual)
        answer = anyio.run(deny_all, request)
        assert not answer.allowed
        return answer.reason

    assert reason() == "nobody is here to ask; --approve edits or --approve all would allow it"
    assert reason(NO_SANDBOX) == reason("not certain: x") == reason()
    assert reason("wants the network", NO_SANDBOX) == "nobody is here to ask; wants the network"
