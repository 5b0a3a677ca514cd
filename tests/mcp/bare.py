"""An MCP server out of nothing but the standard library: `python bare.py [BEHAVIOUR ...]`, on stdio.

It starts at once, and it can do what no library would let it do: greet on stdout, hang, ignore the end of its stdin,
speak only the newest revision. It knows nothing of laguna-agent, nor of the package that laguna-agent uses.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

NOT_SUPPORTED = {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": ["2026-07-28"]}}
TEXT = {"type": "string"}
BEHAVIOUR = set(sys.argv[1:])
TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "echo": ("Say it again.", {"type": "object", "properties": {"text": TEXT}, "required": ["text"]}),
    "wait": ("Never answer.", {"type": "object"}),
    "ask": ("Ask the person.", {"type": "object", "properties": {"url": TEXT}}),
    "grow": ("Have a tool more.", {"type": "object"}),
    "die": ("End at once.", {"type": "object"}),
    "spawn": ("Start a process that ignores SIGTERM.", {"type": "object", "properties": {"mark": TEXT}}),
    "lines": ("Say much.", {"type": "object", "properties": {"count": {"type": "integer"}}}),
}
waiting: dict[Any, Any] = {}


def send(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(words: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": words}]} | (
        {"resultType": "complete"} if "modern" in BEHAVIOUR else {}
    )


def listing(params: dict[str, Any]) -> dict[str, Any]:
    tools = [{"name": name, "description": words, "inputSchema": schema} for name, (words, schema) in TOOLS.items()]
    if "pages" in BEHAVIOUR:
        at = int(params.get("cursor") or 0)
        more = {"nextCursor": str(at + 1)} if at + 1 < len(tools) else {}
        return {"tools": tools[at : at + 1]} | more
    modern = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    return {"tools": tools} | (modern if "modern" in BEHAVIOUR else {})


def call(id: Any, name: str, given: dict[str, Any]) -> dict[str, Any] | None:
    if name == "echo":
        return text(given["text"])
    if name == "lines":
        return text("\n".join(f"line {number}" for number in range(given["count"])))
    if name == "ask":
        schema = {"type": "object", "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}}}
        form = {"mode": "form", "requestedSchema": schema | {"required": ["colour"]}}
        url = {"mode": "url", "url": given.get("url"), "elicitationId": "visit-1"}
        if "url" in given:
            waiting["visit"] = "visit-1"
        waiting["question"] = id
        asked = {"message": "Which colour?"} | (url if "url" in given else form)
        send(id="question", method="elicitation/create", params=asked)
    elif name == "grow":
        TOOLS["grown"] = ("A tool that came later.", {"type": "object"})
        send(method="notifications/tools/list_changed")
        return text("grown")
    elif name == "die":
        print("dying as told", file=sys.stderr, flush=True)
        os._exit(4)
    elif name == "spawn":
        ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
        code = (
            f"import os, signal, time; {ignore}; open({given['mark']!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        )
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
        return text("started")
    return None


def ask_in_the_answer(params: dict[str, Any]) -> dict[str, Any]:
    """The newest revision has no questions of servers: an answer says what is missing, and the call is made again."""
    if params.get("requestState") == "asked":
        return text(json.dumps(params["inputResponses"]["colour"], sort_keys=True))
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    form = {"mode": "form", "message": "Which colour?", "requestedSchema": schema}
    wanted = {"colour": {"method": "elicitation/create", "params": form}}
    return {"resultType": "input_required", "inputRequests": wanted, "requestState": "asked"}


def answer(message: dict[str, Any]) -> dict[str, Any] | None:
    method, params = message.get("method"), message.get("params") or {}
    if method == "initialize":
        if "modern" in BEHAVIOUR:
            send(id=message["id"], error=NOT_SUPPORTED)
            return None
        info = {"name": "bare", "version": "1"}
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": info}
    if method == "server/discover":
        capabilities: dict[str, Any] = {"capabilities": {"tools": {}}, "supportedVersions": ["2026-07-28"]}
        return capabilities | {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
    if method == "tools/list":
        return listing(params)
    if method == "tools/call":
        if "modern" in BEHAVIOUR and params["name"] == "ask":
            return ask_in_the_answer(params)
        return call(message["id"], params["name"], params.get("arguments") or {})
    if method == "notifications/cancelled" and (mark := os.environ.get("CANCELLED")):
        with open(mark, "w") as file:
            file.write(str(params.get("requestId")))
    elif "method" not in message and message.get("id") in waiting:
        outcome = message.get("result") or message.get("error")
        if "visit" in waiting:
            send(method="notifications/elicitation/complete", params={"elicitationId": waiting.pop("visit")})
        send(id=waiting.pop(message["id"]), result=text(json.dumps(outcome, sort_keys=True)))
    return None


def main() -> None:
    print("bare server on stderr", file=sys.stderr, flush=True)
    if "stubborn" in BEHAVIOUR:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "greeting" in BEHAVIOUR:
        print("Welcome to the bare server!", flush=True)
    if mark := os.environ.get("PID"):
        with open(mark, "w") as file:
            file.write(str(os.getpid()))
    if "hang" in BEHAVIOUR:
        time.sleep(600)
    if "once" in BEHAVIOUR and os.path.exists(os.environ["ONCE"]):
        sys.exit("I start only once")
    if "once" in BEHAVIOUR:
        open(os.environ["ONCE"], "w").close()
    for line in sys.stdin:
        message = json.loads(line)
        result = answer(message)
        if result is not None:
            send(id=message["id"], result=result)
        if "deaf" in BEHAVIOUR and message.get("method") == "tools/list":
            time.sleep(600)
    if "stubborn" in BEHAVIOUR:
        time.sleep(600)


if __name__ == "__main__":
    main()
