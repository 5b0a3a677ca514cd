"""The program as an editor's agent, against the model server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.acp.program import Message, Program, Start, allow
from tests.conftest import StartCli
from tests.model_server import ModelServer


@pytest.fixture
def start(start_cli: StartCli, model_server: ModelServer) -> Iterator[Start]:
    """Starts the program against the model server, with further arguments."""

    def begin(*arguments: str, answer: Callable[[Message], Message | None] = allow, **env: str) -> Program:
        return Program(start_cli("acp", *arguments, env=model_server.env | env), answer)

    yield begin


@pytest.fixture
def program(start: Start) -> Program:
    return start()
