"""The judge itself: it lets a proper recording pass, and each of its rules fails on a recording that breaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acp.conformance.judge import RULES, judge
from tests.acp.conformance.recording import Entry, methods, updates

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
BROKEN: dict[str, list[Recording | list[Recording]]] = {
    "wire/json": [
        [*hello(), {"from": "agent", "line": "Loading model ..."}],
        [*hello(), {"from": "agent", "line": "[]"}],
        [*hello(), {"from": "agent", "line": '"\udcff"'}],
        [*hello(), line("agent", method="_x", params={}) | {"unterminated": True}],
    ],
    "wire/envelope": [
        [*hello(), {"from": "agent", "line": '{"method": "_x"}'}],
        [*hello(), ask(1, "_x"), line("agent", id=1, result={}, error={"code": 1, "message": ""}), error(1, -32601)],
        [*hello(), line("agent", method="_x", params=[])],
        [*hello(), line("agent", result={})],
        [*hello(), line("agent", id=None, result={})],
    ],
    "wire/method": [[*hello(), tell("window/show", "agent")], [*hello(), tell("session/prompt", "client")]],
    "wire/schema": [
        turn(update("hologram")),
        turn(update("agent_message_chunk", content="Hi")),
        [*opened(), ask_prompt(), result("p", {"stopReason": "tired"})],
        [*opened(), ask_prompt(), line("agent", id="p", error={"code": "x", "message": "no"})],
        [*opened(), ask_prompt(), result("p")],
    ],
    "wire/id-reused": [[*opened(), ask_prompt(), stop(), ask_prompt(), stop()]],
    "wire/answer-unasked": [
        [*hello(), result(7)],
        [*turn(), stop()],
        [*hello(), ask("1", "_x"), error(1, -32601), error("1", -32601)],
    ],
    "wire/unanswered": [[*opened(), ask_prompt()]],
    "order/initialize": [
        [ask("new", "session/new", cwd="/w", mcpServers=[]), error("new", -32600)],
        [tell("_x", "agent")],
    ],
    "order/session": [
        [
            *hello(),
            ask("new", "session/new", cwd="/w", mcpServers=[]),
            update("session_info_update"),
            result("new", {"sessionId": S}),
        ],
        [*opened(), ask("c", "session/close", sessionId=S), result("c"), update("session_info_update")],
    ],
    "order/resume": [
        reopened("session/resume", update("session_info_update")),
        reopened("session/resume", chunk("Hi", "u", USER)),
    ],
    "order/turn": [
        [*turn(), chunk("late")],
        [*turn(), plan("late")],
        [*opened(), call(), moved("completed")],
        [*reopened("session/load"), chunk("late", "u", USER)],
        [*opened(), call(), question(), chosen("y"), moved("completed")],
    ],
    "order/notice": [reopened("session/load", update("notice", severity="info", title="x"))],
    "order/cancel": [
        [*opened(), ask_prompt(), tell("session/cancel", sessionId=S), stop()],
        [*opened(), ask_prompt(), tell("session/cancel", sessionId=S), error("p", -32603)],
        [*opened(), ask_prompt(), ask("c", "session/close", sessionId=S), stop(), result("c")],
        [*opened(), ask_prompt(), tell("$/cancel_request", requestId="p"), error("p", -32603)],
        [*opened(), ask_prompt(), stop(reason="cancelled")],
    ],
    "order/closed": [[*opened(), ask("c", "session/close", sessionId=S), result("c"), ask_prompt(), stop()]],
    "order/replay": [
        [SAID, reopened("session/load")],
        [SAID, reopened("session/load", *REPLAYED[1:])],
        [SAID, reopened("session/load", REPLAYED[3], *REPLAYED[:3])],
        [SAID, reopened("session/load", *REPLAYED[:3], chunk("Do", "a"))],
    ],
    "calls/announced": [turn(moved("completed")), turn(call(), call(), moved("completed"))],
    "calls/final": [
        turn(call(), moved("completed"), moved("failed")),
        turn(call(), moved("completed"), moved("completed")),
        turn(call(), moved("in_progress"), moved("pending"), moved("failed")),
    ],
    "calls/ended": [
        turn(call()),
        reopened("session/load", call()),
        [*opened(), ask_prompt(), call(), error("p", -32603)],
    ],
    "calls/paths": [
        turn(call(locations=[{"path": "a.py"}]), moved("completed")),
        turn(call(), moved("completed", content=[{"type": "diff", "path": "a.py", "newText": ""}])),
    ],
    "permission/call": [turn(question(), chosen("y")), turn(call(), moved("completed"), question(), chosen("y"))],
    "elicitation/call": [turn(elicitation(), result(1, {"action": "cancel"}, "client"))],
    "permission/complete": [
        turn(call(), question(rawInput=None), chosen("y"), moved("completed")),
        turn(call(), question(title=None), chosen("y"), moved("completed")),
        turn(call(), question(options=OPTIONS[:1]), chosen("y"), moved("completed")),
        turn(call(), question(options=[*OPTIONS, OPTIONS[0]]), chosen("y"), moved("completed")),
    ],
    "permission/answer": [turn(call(), question(), chosen("maybe"), moved("failed"))],
    "permission/refused": [
        turn(call(), question(), chosen("n"), moved("in_progress"), moved("failed")),
        turn(call(), question(), result(1, {"outcome": {"outcome": "cancelled"}}, "client"), moved("completed")),
    ],
    "plan/whole": [turn(plan("one", "two"), plan("one"))],
    "messages/id": [
        turn(chunk("a"), chunk("b", "m2"), chunk("c")),
        turn(chunk("a"), chunk("b", kind="agent_thought_chunk")),
        [*turn(chunk("a")), ask_prompt("q"), chunk("b"), stop("q")],
        [turn(chunk("a")), [*reopened("session/resume"), ask_prompt(), chunk("b"), stop()]],
    ],
    "compaction/once": [
        turn(compaction("completed"), compaction("completed")),
        turn(compaction("in_progress"), compaction("failed"), compaction("in_progress"), compaction("completed")),
        [turn(compaction("completed")), [*reopened("session/resume"), ask_prompt(), compaction("completed"), stop()]],
    ],
    "compaction/chunk": [turn(SUMMARY), turn(compaction("in_progress"), compaction("completed"), SUMMARY)],
    "compaction/ended": [turn(compaction("in_progress"))],
    "capability/client": [
        turn(ask(1, "fs/read_text_file", "agent", sessionId=S, path="/a"), error(1, -32601, "client"), client={}),
        turn(terminal(1, "create", command="ls"), error(1, -32601, "client"), client={"terminal": False}),
        turn(
            ask(
                1,
                "elicitation/create",
                "agent",
                sessionId=S,
                message="?",
                mode="url",
                url="http://a",
                elicitationId="e",
            ),
            result(1, {"action": "cancel"}, "client"),
        ),
        turn(update("notice", severity="info", title="x"), client={"session": {"notices": None}}),
        turn(update("compaction_update", compactionId="c", status="completed"), client={}),
        opened(client={}, configOptions=[{"id": "x", "name": "X", "type": "boolean", "currentValue": True}]),
        hello(client={}, authMethods=[{"id": "t", "name": "T", "type": "terminal"}]),
    ],
    "capability/agent": [
        [
            *opened(agent={}),
            ask("p", "session/prompt", sessionId=S, prompt=[{"type": "image", "data": "", "mimeType": "image/png"}]),
            stop(),
        ],
        [*hello(), ask(1, "session/new", cwd="/w", mcpServers=[], additionalDirectories=["/x"]), error(1, -32602)],
        [
            *hello(),
            ask(
                1, "session/new", cwd="/w", mcpServers=[{"type": "sse", "name": "s", "url": "http://a", "headers": []}]
            ),
            error(1, -32602),
        ],
    ],
    "capability/methods": [
        [*hello(agent={}), ask(1, "session/list"), result(1, {"sessions": []})],
        [*hello(), ask(1, "session/list"), error(1, -32601)],
        [*hello(), ask(1, "session/new", cwd="/w", mcpServers=[]), error(1, -32601)],
        [*opened(), ask(1, "session/set_mode", sessionId=S, modeId="a"), error(1, -32601)],
    ],
    "capability/version": [hello(protocolVersion=2)],
    "auth/logout": [
        [
            *hello(),
            ask(1, "logout"),
            result(1),
            ask(2, "session/new", cwd="/w", mcpServers=[]),
            result(2, {"sessionId": S}),
        ]
    ],
    "terminal/released": [turn(*CREATED)],
    "terminal/live": [
        turn(*CREATED, *RELEASED, terminal(12, "kill", terminalId="t"), result(12, {}, "client")),
        turn(call(), moved("completed", **SHOWN)),
        turn(*CREATED, *RELEASED, call(), moved("completed", **SHOWN)),
    ],
    "terminal/replay": [
        [*opened(), *CREATED, *reopened("session/load", call(), moved("completed", **SHOWN))[2:], *RELEASED]
    ],
    "options/value": [
        opened(configOptions=[select(current="c")]),
        opened(configOptions=[select(values=("a", "a"))]),
        opened(
            configOptions=[
                select(current="c", options=[{"group": "g", "name": "G", "options": [{"value": "a", "name": "A"}]}])
            ]
        ),
    ],
    "options/whole": [
        [
            *opened(configOptions=[select("x"), select("y")]),
            update("config_option_update", configOptions=[select("x")]),
        ],
        [
            *opened(configOptions=[select("x"), select("y")]),
            ask(1, "session/set_config_option", sessionId=S, configId="x", value="b"),
            result(1, {"configOptions": [select("x", "b")]}),
        ],
        opened(configOptions=[select("x"), select("x")]),
    ],
    "options/applied": [
        [
            *opened(configOptions=[select("x")]),
            ask(1, "session/set_config_option", sessionId=S, configId="x", value="b"),
            result(1, {"configOptions": [select("x")]}),
        ]
    ],
    "modes/known": [
        opened(modes=modes("z")),
        [*opened(modes=modes()), update("current_mode_update", currentModeId="z")],
        [*opened(modes=modes()), ask(1, "session/set_mode", sessionId=S, modeId="z"), result(1)],
    ],
    "modes/in-step": [
        [
            *opened(modes=modes(), configOptions=[select(category="mode")]),
            ask(1, "session/set_mode", sessionId=S, modeId="b"),
            result(1),
        ]
    ],
    "list/filter": [[*hello(), *listed(1, "a", folder="/elsewhere")]],
    "list/pages": [
        [*hello(), *listed(1, "a", following="2"), *listed(2, "a", cursor="2")],
        [*hello(), *listed(1, "a", "a")],
    ],
    "list/deleted": [
        [*hello(), ask(1, "session/delete", sessionId="a"), result(1), *listed(2, "a")],
        [*opened(), ask(1, "session/delete", sessionId=S), result(1), *reopened("session/resume")[2:]],
    ],
}


def verdict(recordings: Recording | list[Recording]) -> list[str]:
    """The rules that are broken; one recording or several."""
    several = recordings if isinstance(recordings[0], list) else [recordings]
    faults, _ = judge(several)
    return [fault.rule for fault in faults]


def test_a_proper_conversation_breaks_no_rule() -> None:
    choices = [
        select(category="mode"),
        select("level"),
        {"id": "f", "name": "F", "type": "boolean", "currentValue": True},
    ]
    first = [
        *opened(modes=modes(), configOptions=choices),
        update("available_commands_update", availableCommands=[{"name": "x", "description": "X"}]),
        ask_prompt(),
        chunk("Let me", "t", "agent_thought_chunk"),
        plan("one", "two"),
        call(locations=[{"path": "/w/a.py", "line": 1}]),
        question(),
        chosen("y"),
        *CREATED,
        moved("in_progress", **SHOWN),
        *RELEASED,
        moved("completed"),
        call("d"),
        question(2, toolCallId="d"),
        ask(3, "fs/read_text_file", "agent", sessionId=S, path="/a"),
        result(3, {"content": ""}, "client"),
        tell("session/cancel", sessionId=S),
        tell("$/cancel_request", "agent", requestId=2),
        result(2, {"outcome": {"outcome": "cancelled"}}, "client"),
        moved("failed", "d"),
        compaction("in_progress"),
        SUMMARY,
        compaction("completed"),
        stop(reason="cancelled"),
        update("usage_update", used=1, size=2),
        update("notice", severity="info", title="Hi"),
        ask(1, "session/set_mode", sessionId=S, modeId="b"),
        result(1),
        update("config_option_update", configOptions=[select(current="b", category="mode"), *choices[1:]]),
        ask(2, "session/close", sessionId=S),
        result(2),
        ask(3, "session/delete", sessionId="other"),
        result(3),
        ask(4, "_extension"),
        error(4, -32601),
        *listed(5, S, following="2"),
        *listed(6, "s0", cursor="2"),
    ]
    again = reopened(
        "session/load", chunk("Hi", "u", USER), call(), moved("completed"), call("d"), moved("failed", "d")
    )
    gone = [*again, ask_prompt(), {"from": "client", "end": True}, stop(reason="cancelled"), {"exit": 0}]
    faults, messages = judge([first, gone])
    assert faults == []
    assert len(messages) == len(first) + len(again) + 2
    assert verdict([SAID, reopened("session/load", *REPLAYED)]) == []


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_fails_on_a_recording_that_breaks_it(rule: str) -> None:
    assert BROKEN[rule]
    for recordings in BROKEN[rule]:
        found = verdict(recordings)
        assert set(found) == {rule}, (recordings, found)


def test_every_broken_recording_is_about_a_rule() -> None:
    assert BROKEN.keys() == RULES.keys()


def test_the_table_of_methods_is_the_stable_protocol() -> None:
    assert {name for name, method in methods().items() if method.side == "agent"} == {
        "initialize",
        "authenticate",
        "logout",
        "session/new",
        "session/load",
        "session/resume",
        "session/list",
        "session/close",
        "session/delete",
        "session/prompt",
        "session/cancel",
        "session/set_mode",
        "session/set_config_option",
    }
    assert len(updates()) == 14
