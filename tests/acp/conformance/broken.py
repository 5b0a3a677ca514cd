"""Recordings that break one rule each: the judge must find that rule, and no other, in every one of them."""

from __future__ import annotations

from tests.acp.conformance.spoken import (
    CREATED,
    LEFT,
    OPTIONS,
    RELEASED,
    REPLAYED,
    SAID,
    SHOWN,
    SUMMARY,
    USER,
    Recording,
    S,
    ask,
    ask_prompt,
    call,
    chosen,
    chunk,
    compaction,
    elicitation,
    error,
    hello,
    line,
    listed,
    modes,
    moved,
    opened,
    plan,
    question,
    reopened,
    result,
    select,
    stop,
    tell,
    terminal,
    turn,
    update,
)

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
    "wire/unanswered": [
        [*opened(), ask_prompt()],
        [*opened(), ask_prompt(), LEFT],
        [*turn(call(), question(), moved("failed")), LEFT],
    ],
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
        turn(call(), question(options=OPTIONS[:3]), chosen("y"), moved("completed")),
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
