"""A workspace, and calls of tools in it as a session would make them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from laguna_agent.messages import ToolCall
from laguna_agent.tools.base import ToolContext, ToolResult
from laguna_agent.tools.ledger import FileLedger
from laguna_agent.tools.registry import default_registry
from laguna_agent.tools.workspace import LocalWorkspace

Call = Callable[..., Awaitable[ToolResult]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The workspace's root."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
async def context(root: Path) -> AsyncIterator[ToolContext]:
    workspace = LocalWorkspace(root)
    yield ToolContext(workspace, FileLedger())
    await workspace.aclose()


@pytest.fixture
async def call(context: ToolContext) -> Call:
    """`await call("edit", path=..., ...)`: decode and run."""
    registry = default_registry()

    async def run(name: str, **arguments: Any) -> ToolResult:
        args = registry.decode(ToolCall("1", name, arguments))
        tool = registry.get(name)
        assert tool.title(args)
        context.leave = tool.needs(args, context.workspace)
        tool.locations(args)
        return await tool.run(args, context)

    return run
