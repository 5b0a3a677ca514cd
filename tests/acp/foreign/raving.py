"""A tiny agent of which most messages have something wrong with them. Its argument is the seed of its chance."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

# It runs isolated, see `driving.scripted`.
sys.path.insert(0, str(Path(__file__).parent))

from scripted import SESSION, begin, end, option, put, receive, until

VALUES = [
    None,
    True,
    0,
    -1,
    1 << 70,
    1e300,
    "",
    "x" * 3000,
    "\u202e\x1b[2J\0",
    [],
    {},
    [[]],
    {"type": "text"},
    [3, None],
]
MESSAGES = [
    {"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "w"}, "messageId": "m"},
    {"sessionUpdate": "user_message_chunk", "content": {"type": "image", "data": "AA", "mimeType": "image/png"}},
    {
        "sessionUpdate": "tool_call",
        "toolCallId": "c",
        "title": "Run",
        "kind": "execute",
        "status": "in_progress",
        "content": [{"type": "content", "content": {"type": "text", "text": "```\na\n```"}}],
        "locations": [{"path": "a.py", "line": 3}],
        "rawInput": {"command": ["make", "it"]},
        "rawOutput": {"exitCode": 1, "seconds": 1.5, "sandbox": "s", "output": "o"},
    },
    {
        "sessionUpdate": "tool_call_update",
        "toolCallId": "d",
        "status": "completed",
        "content": [
            {"type": "diff", "path": "/a", "oldText": "1", "newText": "2"},
            {"type": "terminal", "terminalId": "t"},
            {"type": "content", "content": {"type": "resource", "resource": {"uri": "file:///a", "blob": "AA"}}},
        ],
    },
    {"sessionUpdate": "plan", "entries": [{"content": "p", "priority": "high", "status": "pending"}]},
    {"sessionUpdate": "available_commands_update", "availableCommands": [{"name": "n", "description": "d"}]},
    {"sessionUpdate": "current_mode_update", "currentModeId": "m"},
    {
        "sessionUpdate": "config_option_update",
        "configOptions": [{"type": "select", "id": "i", "name": "n", "currentValue": "v", "options": [{"value": "v"}]}],
    },
    {"sessionUpdate": "usage_update", "used": 1, "size": 2, "cost": {"amount": 1, "currency": "USD"}, "_meta": {}},
    {"sessionUpdate": "notice", "severity": "info", "title": "t", "description": "d"},
    {"sessionUpdate": "compaction_update", "compactionId": "k", "status": "completed", "summary": []},
    {"sessionUpdate": "compaction_summary_chunk", "compactionId": "k", "content": {"type": "text", "text": "s"}},
]
REQUESTS = [
    ("session/request_permission", {"toolCall": MESSAGES[2], "options": [option("y", "allow_once")]}),
    ("fs/read_text_file", {"path": "a.py", "line": 1, "limit": 2}),
    ("fs/write_text_file", {"path": "a.py", "content": "x"}),
    ("terminal/output", {"terminalId": "t"}),
    ("terminal/create", {"command": "true", "args": ["a"], "env": [{"name": "A", "value": "b"}], "cwd": "/nowhere"}),
]


def bent(value: Any, chance: random.Random) -> Any:
    """The value, with something in it that does not belong there."""
    if chance.random() < 0.06:
        return chance.choice(VALUES)
    if isinstance(value, dict):
        return {key: bent(each, chance) for key, each in value.items()}
    return [bent(each, chance) for each in value] if isinstance(value, list) else value


def rave(seed: int) -> None:
    """Hundreds of messages of which most have something wrong with them, then the end of the turn."""
    chance = random.Random(seed)
    begin()
    prompt = until("session/prompt")
    for number in range(600):
        if chance.random() < 0.15:
            method, params = chance.choice(REQUESTS)
            message = {"id": 1000 + number, "method": method, "params": {"sessionId": SESSION} | params}
        else:
            params = {"sessionId": SESSION, "update": chance.choice(MESSAGES)}
            message = {"method": "session/update", "params": params}
        put(bent(message, chance) if chance.random() < 0.9 else message) if chance.random() < 0.98 else put({})
    # What the person is asked takes a moment.
    time.sleep(0.3)
    end(prompt)
    receive()


if __name__ == "__main__":
    rave(int(sys.argv[1]))
