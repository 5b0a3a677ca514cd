"""A tiny agent without any library, which does what its argument names. Run as a program by the tests beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

SESSION = "s-1"
Message = dict[str, Any]
waiting: deque[Message] = deque()
sent = 0


def put(message: Any) -> None:
    whole = {"jsonrpc": "2.0", **message} if isinstance(message, dict) else message
    sys.stdout.write(json.dumps(whole) + "\n")
    sys.stdout.flush()


def receive() -> Message:
    if waiting:
        return waiting.popleft()
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    message: Message = json.loads(line)
    return message


def until(method: str) -> Message:
    """The next message of that method."""
    while (message := receive()).get("method") != method:
        pass
    return message


def answer(request: Message, result: Any) -> None:
    put({"id": request["id"], "result": result})


def refuse(request: Message, code: int, words: str) -> None:
    put({"id": request["id"], "error": {"code": code, "message": words}})


def ask(method: str, **params: Any) -> Message:
    """A request of the client; its result, or its error."""
    global sent
    sent += 1
    put({"id": sent, "method": method, "params": {"sessionId": SESSION} | params})
    kept: list[Message] = []
    while (message := receive()).get("id") != sent or "method" in message:
        kept.append(message)
    waiting.extend(kept)
    outcome: Message = message["result"] if "result" in message else message["error"]
    return outcome


def tell(update: str, session: str = SESSION, **fields: Any) -> None:
    put({"method": "session/update", "params": {"sessionId": session, "update": {"sessionUpdate": update} | fields}})


def say(words: str, **fields: Any) -> None:
    tell("agent_message_chunk", content={"type": "text", "text": words}, **fields)


def report(value: Any) -> None:
    say(json.dumps(value) + "\n")


def hello(**capabilities: Any) -> None:
    methods = [{"id": "browser", "name": "Log in with a browser"}]
    answer(until("initialize"), {"protocolVersion": 1, "agentCapabilities": capabilities, "authMethods": methods})


def begin(**session: Any) -> None:
    hello()
    answer(until("session/new"), {"sessionId": SESSION} | session)


def end(prompt: Message, stop: str = "end_turn", **more: Any) -> None:
    answer(prompt, {"stopReason": stop} | more)


def option(id: str, kind: str) -> Message:
    return {"optionId": id, "name": id, "kind": kind}


# -- what is no agent -----------------------------------------------------------------------------------------------


def dies() -> None:
    sys.stderr.write("no model \x1b[31mhere\n")
    sys.exit(3)


def silent() -> None:
    print("Welcome to the interactive prompt!", flush=True)
    time.sleep(300)


def newer() -> None:
    answer(until("initialize"), {"protocolVersion": 2})
    receive()


def locked() -> None:
    hello()
    refuse(until("session/new"), -32000, "who are you?")
    receive()


def nameless() -> None:
    hello()
    answer(until("session/new"), {})
    receive()


# -- turns that go wrong --------------------------------------------------------------------------------------------


def dies_in_a_turn() -> None:
    begin()
    until("session/prompt")
    say("And so ")
    sys.stderr.write("out of memory\n")
    sys.stderr.flush()
    os._exit(9)


def answers_and_is_gone() -> None:
    """Its last words wait in the pipe when it is gone, and so does an answer that it does not wait for."""
    begin()
    prompt = until("session/prompt")
    terminal = ask("terminal/create", command="sleep 0.5")
    put({"id": 500, "method": "terminal/wait_for_exit", "params": {"sessionId": SESSION} | terminal})
    for number in range(50):
        say(f"{number} {'x' * 1_000}\n")
    end(prompt)
    os._exit(0)


def leaves_a_child() -> None:
    """It ends, and what it started holds its pipes and hides in a session of its own."""
    begin()
    until("session/prompt")
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    say(str(child.pid))
    sys.stdout.flush()
    os._exit(0)


def tells_its_number() -> None:
    begin()
    Path("pid").write_text(str(os.getpid()))
    receive()


def replays_late() -> None:
    """The answer to session/load comes before the conversation, against the protocol."""
    hello(loadSession=True)
    answer(until("session/load"), {})
    for words in ("What ", "was it?"):
        time.sleep(0.1)
        tell("user_message_chunk", content={"type": "text", "text": words})
    say("This.")
    prompt = until("session/prompt")
    say("Now.")
    end(prompt)
    receive()


def ignores_cancel() -> None:
    begin()
    prompt = until("session/prompt")
    say("working")
    until("session/cancel")
    end(until("session/prompt"))
    end(prompt)
    receive()


def answers_a_cancel_with_an_error() -> None:
    begin()
    prompt = until("session/prompt")
    say("working")
    until("session/cancel")
    refuse(prompt, -32603, "AbortError")
    receive()


def stops() -> None:
    begin()
    for stop in ("max_tokens", "max_turn_requests", "refusal", "cancelled", "_tired"):
        end(until("session/prompt"), stop)
    error = {"code": -32603, "message": "Internal error", "data": {"details": "quota\x1b[2J exceeded"}}
    put({"id": until("session/prompt")["id"], "error": error})
    receive()


# -- what it tells --------------------------------------------------------------------------------------------------


def floods() -> None:
    begin()
    prompt = until("session/prompt")
    for number in range(5_000):
        say(f"{number} {'x' * 1_000}\n", messageId="m")
    end(prompt)
    receive()


def rambles() -> None:
    """Noise of every kind around one good turn."""
    hello()
    request = until("session/new")
    tell("available_commands_update", availableCommands=[{"name": "/early", "description": "Before the answer"}])
    tell("available_commands_update", "other", availableCommands=[{"name": "wrong", "description": "Not ours"}])
    answer(request, {"sessionId": SESSION})
    prompt = until("session/prompt")
    sys.stdout.write("DEBUG: this is no message\n\xff\n[]\n42\n{\n")
    tell("agent_message_chunk", "other", content={"type": "text", "text": "for somebody else"})
    tell("of_the_future", content=1)
    tell("agent_message_chunk", content={"type": "hologram"})
    tell("plan", entries="none")
    put({"id": 7777, "result": {}})
    put({"method": "_mine/told", "params": {}})
    report(ask("_mine/asked")["code"])
    report(ask("fs/read_text_file", sessionId="other", path="/x")["code"])
    say("a\x1b[31m\x07\u202eb")
    say("One.", messageId="1")
    say("Two.", messageId="2")
    end(prompt, usage={"totalTokens": 30, "inputTokens": 20, "outputTokens": 10})
    receive()


def offers() -> None:
    """Options in groups, a kind that nobody knows, older models; and each change is told back."""
    values = [{"group": "g", "name": "G", "options": [{"value": "a", "name": "A"}]}, {"value": "b", "name": "B"}]
    select = {"type": "select", "id": "depth", "name": "Depth", "currentValue": "a", "options": values}
    switch = {"type": "boolean", "id": "fast", "name": "Fast", "currentValue": False}
    models = {"currentModelId": "m1", "availableModels": [{"modelId": "m1", "name": "Model One"}]}
    begin(configOptions=[select, switch, {"type": "dial", "id": "x"}, 3], models=models)
    request = until("session/set_config_option")
    assert request["params"] == {"sessionId": SESSION, "configId": "fast", "value": True, "type": "boolean"}
    # In one piece, as a busy client finds them.
    update = {"sessionUpdate": "config_option_update", "configOptions": [select | {"currentValue": "b"}]}
    together = [
        {"id": request["id"], "result": {"configOptions": [select, switch | {"currentValue": True}]}},
        {"method": "session/update", "params": {"sessionId": SESSION, "update": update}},
    ]
    sys.stdout.write("".join(json.dumps({"jsonrpc": "2.0", **each}) + "\n" for each in together))
    sys.stdout.flush()
    end(until("session/prompt"))
    receive()


# -- what it asks ---------------------------------------------------------------------------------------------------


def asks() -> None:
    """One question, whose answer is told back."""
    begin()
    prompt = until("session/prompt")
    call = {"toolCallId": "c", "title": "Deploy", "kind": "execute", "rawInput": {"command": ["make", "deploy now"]}}
    options = [
        option("here", "allow_once"),
        option("everywhere", "allow_once"),
        option("always", "allow_always"),
        option("no", "reject_once"),
    ]
    report(ask("session/request_permission", toolCall=call, options=options)["outcome"])
    end(prompt)
    receive()


def question(id: int, call: str) -> Message:
    params = {
        "sessionId": SESSION,
        "toolCall": {"toolCallId": call, "title": call},
        "options": [option("y", "allow_once")],
    }
    return {"id": id, "method": "session/request_permission", "params": params}


def asks_thrice() -> None:
    """Three questions at once, of which one is taken back while the first is open."""
    begin()
    prompt = until("session/prompt")
    for id, call in enumerate(("one", "two", "three"), 100):
        put(question(id, call))
    put({"method": "$/cancel_request", "params": {"requestId": 101}})
    answers = sorted((receive() for _ in range(3)), key=lambda message: message["id"])
    report([each["result"]["outcome"]["outcome"] if "result" in each else each["error"]["code"] for each in answers])
    end(prompt)
    receive()


def waits_for_its_answer() -> None:
    """As the protocol has it, the client answers what is open when it cancels."""
    begin()
    prompt = until("session/prompt")
    call = {"toolCallId": "c", "title": "Deploy"}
    report(ask("session/request_permission", toolCall=call, options=[option("y", "allow_once")]))
    end(prompt, "cancelled")
    receive()


def dies_with_a_question() -> None:
    begin()
    until("session/prompt")
    put(question(100, "one"))
    time.sleep(0.3)
    os._exit(5)


def calls() -> None:
    """What is asked is what the prompt says: a list of methods with their params; the outcomes are told back."""
    begin()
    while True:
        prompt = until("session/prompt")
        for method, params in json.loads(prompt["params"]["prompt"][0]["text"]):
            if method == "tell":
                tell(**params)
            elif method == "key":
                report(os.environ["FOREIGN_API_KEY"])
            elif method == "sleep":
                time.sleep(params)
            else:
                report(ask(method, **params))
        end(prompt)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
