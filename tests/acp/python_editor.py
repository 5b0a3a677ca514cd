"""An editor made with the official Python SDK (PyPI agent-client-protocol)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import acp
from acp import schema


class Editor:
    """The client's side: remembers what it is told, and answers each question with an option of the kind `answer`."""

    def __init__(self, answer: str = "allow_once") -> None:
        self.answer = answer
        self.updates: list[Any] = []
        self.asked: list[Any] = []
        self.news = asyncio.Event()

    async def session_update(self, session_id: str, update: Any, **_: Any) -> None:
        self.updates.append(update)
        self.news.set()

    async def request_permission(
        self, session_id: str, tool_call: Any, options: list[Any], **_: Any
    ) -> schema.RequestPermissionResponse:
        self.asked.append(tool_call)
        chosen = next(option for option in options if option.kind == self.answer)
        return schema.RequestPermissionResponse(
            outcome=schema.AllowedOutcome(outcome="selected", option_id=chosen.option_id)
        )

    async def read_text_file(
        self, session_id: str, path: str, line: int | None = None, limit: int | None = None, **_: Any
    ) -> schema.ReadTextFileResponse:
        try:
            lines = Path(path).read_text().splitlines(keepends=True)
        except FileNotFoundError:
            raise acp.RequestError.resource_not_found(path) from None
        first = (line or 1) - 1
        return schema.ReadTextFileResponse(content="".join(lines[first:][:limit]))

    async def write_text_file(self, session_id: str, path: str, content: str, **_: Any) -> schema.WriteTextFileResponse:
        Path(path).write_text(content)
        return schema.WriteTextFileResponse()

    def on_connect(self, agent: Any) -> None:
        pass

    async def until(self, **fields: Any) -> None:
        """Wait for an update with these fields."""
        while not any(all(getattr(u, k, None) == v for k, v in fields.items()) for u in self.updates):
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 20)

    def all(self, kind: str) -> list[Any]:
        return [update for update in self.updates if update.session_update == kind]


def agent(
    editor: Editor, command: Sequence[str], environment: Mapping[str, str]
) -> AbstractAsyncContextManager[tuple[Any, Any]]:
    """The agent, spawned by the SDK: the connection and the process."""
    return acp.spawn_agent_process(editor, *command, env=environment, transport_kwargs={"stderr": None})
