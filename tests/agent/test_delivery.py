"""The way of events to a face that takes its time."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from laguna_agent.agent.delivery import Delivery
from laguna_agent.agent.events import Event, PermissionRequested, TextDelta, ToolCallUpdate

WAITED_FOR = [
    ToolCallUpdate("c", "in_progress", terminal="t"),
    PermissionRequested("c", "$ ls", "execute", {}, ()),
]


@pytest.mark.parametrize("event", WAITED_FOR, ids=["terminal", "question"])
def test_what_the_face_must_have_seen_is_waited_for(event: Event) -> None:
    order: list[str] = []

    async def turn(delivery: Delivery) -> None:
        with delivery:
            await delivery.put(TextDelta("before"))
            await delivery.put(event)
            order.append("the turn goes on")

    async def run() -> int:
        delivery = Delivery()
        async with anyio.create_task_group() as group:
            group.start_soon(turn, delivery)
            while (came := await delivery.next()) is not None:
                # A face that is slow to draw.
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
                order.append(type(came).__name__)
        return delivery.emitted

    emitted = anyio.run(run)
    assert order == ["TextDelta", type(event).__name__, "the turn goes on"]
    # A terminal is no part of what a replay gives.
    assert emitted == (1 if isinstance(event, ToolCallUpdate) else 2)
