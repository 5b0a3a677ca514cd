"""What a call on a path needs leave for, and that it goes nowhere else once it has it.

A path is resolved twice: when leave is asked for, and when the call runs. In between a command may have put a link in
its way. So the call compares what it would need now with what it was given leave for. Knows places and needs; must not
know who decides.
"""

from __future__ import annotations

from typing import Literal

from laguna_agent.errors import ToolError
from laguna_agent.tools.base import Need, ToolContext
from laguna_agent.tools.workspace import Place, Workspace


def path_need(access: Literal["read", "write"], path: str, workspace: Workspace) -> Need:
    """What reading or writing the file or directory at `path` needs. ToolError where no leave would do."""
    return _need(access, workspace.resolve(path))


def reach(access: Literal["read", "write"], path: str, context: ToolContext, *, content: bool = True) -> Place:
    """The place of `path`. ToolError where it needs other leave than the call was given; without a leave of its own a
    call reaches what nobody has to be asked about. With `content` it must be one that the person does not deny reading:
    a name may be told, and what is changed is read first."""
    place = context.workspace.resolve(path)
    if content and place.denied:
        raise ToolError(f"{place.shown} is not read: the person's rules deny it. Do without it.")
    need = _need(access, place)
    if context.leave is None and not (need.outside or need.protected or need.hidden):
        return place
    if need != context.leave:
        raise ToolError(f"Nothing was done: there is no leave for {place.shown}, which is where {path} leads now.")
    return place


def inside(path: str, workspace: Workspace) -> Place:
    """The place of `path`, for what this program reads by itself. ToolError where a call would need leave for it."""
    place = workspace.resolve(path)
    if place.denied:
        raise ToolError(f"{path} is not read: the person's rules deny it.")
    if place.outside:
        raise ToolError(f"{path} leads out of the workspace, to {place.shown}.")
    return place


def _need(access: Literal["read", "write"], place: Place) -> Need:
    writing = access == "write"
    if writing and place.scope == "spool":
        raise ToolError(f"{place.shown} is kept output of a command; it can be read, not changed.")
    return Need(access, place.shown, place.outside, protected=writing and place.protected, hidden=place.hidden)
