"""Recordings by hand: the lines that a client and an agent would say, short enough to read many of them."""

from __future__ import annotations

import json
from typing import Any

from tests.acp.conformance.recording import Entry

S = "s1"
FULL: dict[str, Any] = {
    "fs": {"readTextFile": True, "writeTextFile": True},
    "terminal": True,
    "elicitation": {"form": {}},
    "session": {"notices": {}, "compaction": {}, "configOptions": {"boolean": {}}},
    "auth": {"terminal": True},
}
AGENT: dict[str, Any] = {
    "loadSession": True,
    "promptCapabilities": {"image": True},
    "sessionCapabilities": {"list": {}, "close": {}, "delete": {}, "resume": {}},
    "auth": {"logout": {}},
}
Recording = list[Entry]
LEFT: Entry = {"from": "client", "end": True}
UNHEARD: Entry = {"from": "agent", "end": True, "unheard": True}


def line(sender: str, **message: Any) -> Entry:
    return {"from": sender, "line": json.dumps({"jsonrpc": "2.0"} | message)}


def ask(id: Any, method: str, sender: str = "client", **params: Any) -> Entry:
    return line(sender, id=id, method=method, params=params)


def tell(method: str, sender: str = "client", **params: Any) -> Entry:
    return line(sender, method=method, params=params)


def result(id: Any, value: Any = None, sender: str = "agent") -> Entry:
    return line(sender, id=id, result={} if value is None else value)


def error(id: Any, code: int, sender: str = "agent") -> Entry:
    return line(sender, id=id, error={"code": code, "message": "no"})


def update(variant: str, **fields: Any) -> Entry:
    return tell("session/update", "agent", sessionId=S, update={"sessionUpdate": variant} | fields)


def chunk(words: str, id: str | None = "m1", kind: str = "agent_message_chunk") -> Entry:
    return update(kind, content={"type": "text", "text": words}, **({"messageId": id} if id else {}))


def hello(client: Any = FULL, agent: Any = AGENT, **fields: Any) -> Recording:
    answer = {"protocolVersion": 1, "agentCapabilities": agent, "authMethods": [{"id": "a", "name": "A"}]} | fields
    return [ask("hello", "initialize", protocolVersion=1, clientCapabilities=client), result("hello", answer)]


def opened(client: Any = FULL, agent: Any = AGENT, **fields: Any) -> Recording:
    new = [ask("new", "session/new", cwd="/w", mcpServers=[]), result("new", {"sessionId": S} | fields)]
    return [*hello(client, agent), *new]


def ask_prompt(id: Any = "p", session: str = S, words: str = "Hi") -> Entry:
    return ask(id, "session/prompt", sessionId=session, prompt=[{"type": "text", "text": words}])


def stop(id: Any = "p", reason: str = "end_turn") -> Entry:
    return result(id, {"stopReason": reason})


def turn(*inside: Entry, **opening: Any) -> Recording:
    """A session with one turn that holds `inside`."""
    return [*opened(**opening), ask_prompt(), *inside, stop()]


def call(id: str = "c", status: str = "pending", **fields: Any) -> Entry:
    return update("tool_call", toolCallId=id, title="Run", kind="execute", status=status, **fields)


def moved(status: str, id: str = "c", **fields: Any) -> Entry:
    return update("tool_call_update", toolCallId=id, status=status, **fields)


OPTIONS = [
    {"optionId": "y", "name": "Yes", "kind": "allow_once"},
    {"optionId": "n", "name": "No", "kind": "reject_once"},
    {"optionId": "Y", "name": "Always", "kind": "allow_always"},
    {"optionId": "N", "name": "Never", "kind": "reject_always"},
]


def question(id: Any = 1, options: Any = OPTIONS, **fields: Any) -> Entry:
    about = {"toolCallId": "c", "title": "Run", "kind": "execute", "rawInput": {"command": "ls"}} | fields
    return ask(id, "session/request_permission", "agent", sessionId=S, toolCall=about, options=options)


def elicitation(mode: str = "form", **fields: Any) -> Entry:
    form = {"requestedSchema": {"type": "object", "properties": {}}} if mode == "form" else {}
    asked = {"message": "?", "mode": mode, "toolCallId": "c"} | form | fields
    return ask(1, "elicitation/create", "agent", sessionId=S, **asked)


def chosen(option: str, id: Any = 1) -> Entry:
    return result(id, {"outcome": {"outcome": "selected", "optionId": option}}, "client")


def terminal(id: Any, method: str, sender: str = "agent", **fields: Any) -> Entry:
    return ask(id, f"terminal/{method}", sender, sessionId=S, **fields)


CREATED = [terminal(10, "create", command="ls"), result(10, {"terminalId": "t"}, "client")]
RELEASED = [terminal(11, "release", terminalId="t"), result(11, {}, "client")]
SHOWN: dict[str, Any] = {"content": [{"type": "terminal", "terminalId": "t"}]}


def select(id: str = "mode", current: str = "a", values: tuple[str, ...] = ("a", "b"), **fields: Any) -> Any:
    options = [{"value": value, "name": value} for value in values]
    return {"id": id, "name": id, "type": "select", "currentValue": current, "options": options} | fields


def modes(current: str = "a") -> Any:
    return {"currentModeId": current, "availableModes": [{"id": "a", "name": "A"}, {"id": "b", "name": "B"}]}


def reopened(method: str, *inside: Entry) -> Recording:
    return [*hello(), ask("open", method, sessionId=S, cwd="/w", mcpServers=[]), *inside, result("open")]


def listed(id: Any, *names: str, cursor: str = "", following: str = "", folder: str = "") -> Recording:
    asked = ({"cursor": cursor} if cursor else {}) | ({"cwd": folder} if folder else {})
    page = {"sessions": [{"sessionId": name, "cwd": "/w"} for name in names]}
    return [ask(id, "session/list", **asked), result(id, page | ({"nextCursor": following} if following else {}))]


def compaction(status: str) -> Entry:
    return update("compaction_update", compactionId="c", status=status)


SUMMARY = update("compaction_summary_chunk", compactionId="c", content={"type": "text", "text": "x"})


def plan(*entries: str) -> Entry:
    return update("plan", entries=[{"content": each, "priority": "high", "status": "pending"} for each in entries])


USER = "user_message_chunk"
REPLAYED = [chunk("Hi", "u", USER), call(), moved("completed"), chunk("Done.", "a")]
SAID = turn(call(), moved("in_progress"), moved("completed"), chunk("Do"), chunk("ne."))
