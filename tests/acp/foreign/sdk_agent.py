"""An agent made with the official Python SDK, which uses everything that a client has. Run by the test beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import acp
from acp import schema


class Everything:
    """Reads, asks, writes and runs in one turn; in any further one it waits for a cancel."""

    def __init__(self) -> None:
        self.client: Any = None
        self.cwd = Path()
        self.cancelled = asyncio.Event()

    def on_connect(self, conn: Any) -> None:
        self.client = conn

    async def initialize(self, protocol_version: int, **_: Any) -> acp.InitializeResponse:
        info = schema.Implementation(name="everything", title="Everything", version="1.2")
        capabilities = schema.AgentCapabilities(load_session=True)
        return acp.InitializeResponse(protocol_version=1, agent_info=info, agent_capabilities=capabilities)

    def modes(self) -> schema.SessionModeState:
        modes = [schema.SessionMode(id=each, name=each.title()) for each in ("careful", "bold")]
        return schema.SessionModeState(current_mode_id="careful", available_modes=modes)

    async def new_session(self, cwd: str, **_: Any) -> acp.NewSessionResponse:
        self.cwd = Path(cwd)
        return acp.NewSessionResponse(session_id="python-1", modes=self.modes())

    async def load_session(self, cwd: str, session_id: str, **_: Any) -> acp.LoadSessionResponse:
        self.cwd = Path(cwd)
        for update in (acp.update_user_message_text("What was "), acp.update_user_message_text("that?")):
            await self.client.session_update(session_id, update)
        await self.client.session_update(session_id, acp.update_agent_message_text("A test."))
        return acp.LoadSessionResponse(modes=self.modes())

    async def set_session_mode(self, session_id: str, mode_id: str, **_: Any) -> acp.SetSessionModeResponse:
        update = schema.CurrentModeUpdate(session_update="current_mode_update", current_mode_id=mode_id)
        await self.client.session_update(session_id, update)
        return acp.SetSessionModeResponse()

    async def cancel(self, session_id: str, **_: Any) -> None:
        self.cancelled.set()

    async def prompt(self, session_id: str, **_: Any) -> acp.PromptResponse:
        if (self.cwd / "done.txt").exists():
            await self.client.session_update(session_id, acp.update_agent_message_text("Waiting."))
            await self.cancelled.wait()
            return acp.PromptResponse(stop_reason="cancelled")
        await self.work(session_id)
        return acp.PromptResponse(stop_reason="end_turn")

    async def work(self, session_id: str) -> None:
        path = str(self.cwd / "done.txt")

        async def tell(update: Any) -> None:
            await self.client.session_update(session_id, update)

        await tell(acp.update_agent_thought_text("Let me see."))
        await tell(acp.update_plan([acp.plan_entry("Read it", priority="high", status="in_progress")]))
        read = await self.client.read_text_file(path=str(self.cwd / "todo.txt"), session_id=session_id)
        await tell(acp.start_edit_tool_call("edit-1", "Write done.txt", path, read.content))
        diff = acp.tool_diff_content(path, read.content.upper())
        call = schema.ToolCallUpdate(tool_call_id="edit-1", content=[diff])
        options = [schema.PermissionOption(option_id="go", name="Go on", kind="allow_once")]
        asked = await self.client.request_permission(session_id=session_id, tool_call=call, options=options)
        assert asked.outcome.outcome == "selected", asked
        await self.client.write_text_file(content=read.content.upper(), path=path, session_id=session_id)
        await tell(acp.update_tool_call("edit-1", status="completed"))
        terminal = await self.client.create_terminal(command="cat", args=["done.txt"], session_id=session_id)
        shown = [acp.tool_terminal_ref(terminal.terminal_id)]
        await tell(acp.start_tool_call("run-1", "cat done.txt", kind="execute", status="in_progress", content=shown))
        ended = await self.client.wait_for_terminal_exit(session_id=session_id, terminal_id=terminal.terminal_id)
        output = await self.client.terminal_output(session_id=session_id, terminal_id=terminal.terminal_id)
        result = {"exit_code": ended.exit_code}
        await tell(acp.update_tool_call("run-1", status="completed", raw_output=result))
        await self.client.release_terminal(session_id=session_id, terminal_id=terminal.terminal_id)
        await tell(acp.update_agent_message_text(f"It says {output.output.strip()}."))


if __name__ == "__main__":
    asyncio.run(acp.run_agent(Everything()))
