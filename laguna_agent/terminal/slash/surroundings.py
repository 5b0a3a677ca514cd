"""`/mcp`, `/tools`, `/sandbox` and `/doctor`: what the session works with, and whether it works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio.to_thread
from rich.console import RenderableType

from laguna_agent.event_lines import one_line
from laguna_agent.terminal.face import SlashCommand
from laguna_agent.terminal.slash.tables import Cell, indented, show, table, text

if TYPE_CHECKING:
    from laguna_agent.agent.permissions import Permissions
    from laguna_agent.agent.session import Session
    from laguna_agent.mcp.servers import ServerState
    from laguna_agent.sandbox.tiers import Proof
    from laguna_agent.sandbox.walls import Walls
    from laguna_agent.terminal.face import Face
    from laguna_agent.terminal.theme import Theme

ABOUT = 200
SHOWN_PATHS = 12
STATES = {"ready": "ok", "starting": "accent", "failed": "error", "ended": "warning"}
VERDICTS = {"allow": ("unasked", "ok"), "ask": ("asks", "text"), "deny": ("refused", "warning")}


def _own(face: Face) -> Session:
    assert face.link.session is not None, "the command needs our own session"
    return face.link.session


# -- MCP servers ----------------------------------------------------------------------------------------------------


async def _mcp(face: Face, argument: str) -> None:
    servers = _own(face).servers
    found = await face.link.call(servers.states) if servers is not None else ()
    if not found:
        face.say("No MCP servers. A workspace brings them in .mcp.json, once you have trusted it (/trust).", "dim")
        return
    rows = [row for state in found for row in _server(state, face.theme)]
    show(face, *rows)


def _server(state: ServerState, theme: Theme) -> Iterator[RenderableType]:
    whose = ", of this workspace" if state.project else ""
    yield text(
        theme,
        (one_line(state.name), "strong"),
        "  ",
        (state.state, STATES[state.state]),
        (f"  {state.transport}{whose}", "dim"),
    )
    if state.problem:
        yield indented(text(theme, (one_line(state.problem, 400), "warning")))
    if state.held:
        yield indented(
            text(theme, ("its tools are not used: you have not trusted them as they are (/trust)", "warning"))
        )
    if state.tools:
        rows = [(f"  {one_line(name, 40)}", (one_line(about, ABOUT), "dim")) for name, about in state.tools]
        yield table(theme, rows, narrow=True)


# -- tools ----------------------------------------------------------------------------------------------------------


async def _tools(face: Face, argument: str) -> None:
    session = _own(face)
    rows = await face.link.call(_tool_rows, session)
    head = f"The model has {len(rows)} tools; in mode {session.permissions.approve} this is what they need:"
    show(face, text(face.theme, head), table(face.theme, rows))


def _tool_rows(session: Session) -> list[tuple[Cell, ...]]:
    """Name, leave and words of each tool that the newest turn offered, or the session has."""
    turn = session.latest_turn
    registry = turn.execution.registry if turn is not None else session.registry
    rows: list[tuple[Cell, ...]] = []
    for spec in registry.specs():
        first = one_line(spec.description, 400).split(". ")[0].rstrip(".")
        rows.append(((spec.name, "accent"), _leave(registry.get(spec.name), session.permissions), (first, "dim")))
    return rows


def _leave(tool: object, permissions: Permissions) -> Cell:
    """What the mode says of an ordinary call of a tool: one inside the workspace, one that does not only look."""
    from laguna_agent.tools.base import Need, SchemaTool, Tool

    assert isinstance(tool, object)
    ours: Tool = tool  # type: ignore[assignment]
    if isinstance(tool, SchemaTool):
        need: Need | None = Need("execute", ours.name, tool=ours.name)
    else:
        need = {
            "edit": Need("write", "a file"),
            "execute": Need("execute", "make"),
            "read": Need("read", "a file"),
            "search": Need("read", "a file"),
        }.get(ours.kind)
    return VERDICTS[permissions.decide(need).verdict]


# -- the sandbox ----------------------------------------------------------------------------------------------------


async def _sandbox(face: Face, argument: str) -> None:
    session = _own(face)
    walls = session.walls
    if walls is None:
        face.say("This session runs no commands.", "dim")
        return
    from laguna_agent.sandbox.tiers import prove

    proof = await anyio.to_thread.run_sync(prove, session.settings.sandbox)
    show(face, *_walls(walls, proof, face.theme, whole=argument.strip() == "all"))


def _walls(walls: Walls, proof: Proof, theme: Theme, whole: bool) -> Iterator[RenderableType]:
    from laguna_agent.sandbox.policy import PROTECTED_GIT, PROTECTED_NAMES

    style = {"full": "ok", "partial": "warning", "none": "warning"}[walls.boundary]
    yield text(theme, ("Commands run in: ", "strong"), (walls.summary, style))
    for reason in proof.reasons:
        yield indented(text(theme, (f"not {one_line(reason, 400)}", "dim")))
    if proof.tier == walls.tier:
        yield from _claims(proof, theme, whole)
    policy = walls.policy
    paths = {
        "may be written": (*policy.workspace, *policy.git_directories, *policy.writable),
        "read-only there": policy.protected,
        "hidden": policy.hidden,
    }
    for words, found in paths.items():
        if found:
            yield text(theme, (f"{words[0].upper()}{words[1:]}:", "strong"))
            yield from (indented(text(theme, one_line(str(path), 400))) for path in found[:SHOWN_PATHS])
            if len(found) > SHOWN_PATHS:
                yield text(theme, (f"  and {len(found) - SHOWN_PATHS} more", "dim"))
    names = ", ".join([*(f".git/{name}" for name in PROTECTED_GIT), *PROTECTED_NAMES])
    kept = "" if walls.tier != "landlock" else "; what this sandbox cannot keep is put back after each command"
    yield text(theme, ("Read-only there, by name: ", "strong"), names + kept)
    if policy.denied:
        yield text(theme, ("Denied by your rules:", "strong"), " " + ", ".join(policy.denied))


def _claims(proof: Proof, theme: Theme, whole: bool) -> Iterator[RenderableType]:
    """What was tried; of what held only the number, where not the whole is wanted."""
    held = sum(each[1] for each in proof.claims)
    if not held:
        return
    more = "" if whole else " (/sandbox all lists them)"
    yield text(theme, (f"Tried here from inside: {held} of {len(proof.claims)} hold{more}", "strong"))
    rows: list[tuple[Cell, ...]] = []
    for words, holds, how in proof.claims:
        if whole or not holds:
            rows.append((("  held", "ok") if holds else ("  NOT held", "error"), words, (one_line(how), "dim")))
    if rows:
        yield table(theme, rows)


def _all(_: Face) -> tuple[str, ...]:
    return ("all",)


# -- doctor ---------------------------------------------------------------------------------------------------------


async def _doctor(face: Face, argument: str) -> None:
    from laguna_agent.findings import examine

    settings = face.settings
    face.say("looking at the installation, the configuration and the server ...", "dim")
    flags: dict[str, object] = {"model": settings.model, "base_url": settings.base_url}
    found = await anyio.to_thread.run_sync(examine, face.link.facts.cwd, flags)
    styles = {"ok": "ok", "warn": "warning", "fail": "error"}
    rows: list[tuple[Cell, ...]] = []
    for each in found:
        rows.append(((each.status, styles[each.status]), each.name, one_line(each.detail, 1_000)))
        if each.next and each.status != "ok":
            rows.append(("", "", (f"next: {each.next}", "dim")))
    fit = all(each.status != "fail" for each in found)
    said = ("A turn can run.", "ok") if fit else ("No turn can run before what failed is mended.", "error")
    show(face, table(face.theme, rows), text(face.theme, said))


MCP = SlashCommand("mcp", "Show the MCP servers and their tools", _mcp, at_work=True, session=True)
TOOLS = SlashCommand("tools", "Show the tools, and which need your leave", _tools, at_work=True, session=True)
SANDBOX = SlashCommand(
    "sandbox", "Show what confines commands, as it was proved here", _sandbox, "all", _all, at_work=True, session=True
)
DOCTOR = SlashCommand("doctor", "Check the installation, the configuration and the server", _doctor, at_work=True)
