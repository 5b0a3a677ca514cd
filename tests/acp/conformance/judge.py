"""The verdict over recordings: every message against the schema, and the rules that a schema cannot say."""

from __future__ import annotations

from collections.abc import Sequence

from tests.acp.conformance import recording
from tests.acp.conformance.calls import Calls, Messages, Plans
from tests.acp.conformance.capabilities import Capabilities
from tests.acp.conformance.compactions import Compactions
from tests.acp.conformance.connection import Connection, Keeper
from tests.acp.conformance.histories import Histories, Lists, Memory
from tests.acp.conformance.options import Options
from tests.acp.conformance.order import Order
from tests.acp.conformance.recording import Entry, Fault, Message, Reader
from tests.acp.conformance.terminals import Terminals

KEEPERS: tuple[type[Keeper], ...] = (
    Order,
    Calls,
    Plans,
    Compactions,
    Messages,
    Capabilities,
    Terminals,
    Options,
    Histories,
    Lists,
)
RULES: dict[str, str] = recording.RULES | {rule: text for keeper in KEEPERS for rule, text in keeper.RULES.items()}


def judge(recordings: Sequence[Sequence[Entry]]) -> tuple[list[Fault], list[Message]]:
    """The broken rules, and every message. The recordings are in the order of their runs: later ones know earlier."""
    memory = Memory()
    faults: list[Fault] = []
    messages: list[Message] = []
    for each in recordings:
        messages += judge_one(each, memory, faults)
    return faults, messages


def judge_one(entries: Sequence[Entry], memory: Memory, faults: list[Fault]) -> list[Message]:
    """Judge one run of the agent into `faults`; its messages."""
    hung_up = (at for at, entry in enumerate(entries) if entry.get("from") == "client" and "end" in entry)
    connection = Connection(next(hung_up, len(entries)), heard=not any("unheard" in entry for entry in entries))
    keepers = [
        Order(connection, faults),
        Calls(connection, faults),
        Plans(connection, faults),
        Compactions(connection, faults, statuses=memory.compactions),
        Messages(connection, faults, seen=memory.message_ids),
        Capabilities(connection, faults),
        Terminals(connection, faults),
        Options(connection, faults),
        Histories(connection, faults, memory=memory),
        Lists(connection, faults, memory=memory),
    ]
    messages = []
    for message in Reader(faults).read(entries):
        messages.append(message)
        for keeper in keepers:
            keeper.see(message)
        connection.apply(message)
    for keeper in keepers:
        keeper.end()
    return messages
