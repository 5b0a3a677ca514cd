"""Which commands there are, and those that change settings: /help /model /mode /approve /plan /theme."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from laguna_agent.agent.commands import Command
from laguna_agent.errors import UsageError
from laguna_agent.terminal.slash import COMMANDS, find, names
from tests.model_server import ModelServer, text
from tests.terminal.faces import OwnLink, RecordingFace, with_face

WANTED = (
    "help model mode approve plan context usage diff rewind new clear resume sessions export mcp tools sandbox theme "
    "doctor quit"
)


def test_the_commands_that_there_are() -> None:
    assert [command.name for command in COMMANDS] == WANTED.split()
    for command in COMMANDS:
        assert command.description[0].isupper()
        assert len(command.description) < 80


def test_with_another_agent_only_what_it_can_do_is_offered() -> None:
    face = RecordingFace(OwnLink(None, (Command("model", "Theirs"), Command("help", "Theirs"))))
    assert names(face) == ["help", "theme", "doctor", "quit"]
    assert find("model", face) is None
    assert find("diff", face) is None


def test_an_argument_goes_to_the_agent_where_it_has_that_command_too(
    model_server: ModelServer, workspace: Path
) -> None:
    async def work(face: RecordingFace) -> None:
        assert find("rewind", face) is not None
        assert find("rewind", face, "2") is None
        assert find("context", face) is not None
        assert find("model", face, "x") is not None
        assert find("undo", face) is None
        assert find("nothing", face) is None

    with_face(model_server, workspace, work)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_help(model_server: ModelServer, workspace: Path, width: int) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/help")

    said = with_face(model_server, workspace, work, width=width).said
    for name in (*WANTED.split(), "compact", "undo", "fork", "init"):
        assert f"/{name}" in said
    assert said.count("/rewind") == 1
    assert "Esc" in said


def test_a_model_by_name(model_server: ModelServer, workspace: Path) -> None:
    model_server.reply(text("Hello."))

    async def work(face: RecordingFace) -> None:
        await face.obey("/model other-model")
        await face.obey("hello")
        assert face.settings.model == "other-model"

    face = with_face(model_server, workspace, work)
    assert "model other-model" in face.said
    assert model_server.chats[-1]["model"] == "other-model"


def test_a_model_from_the_list_of_the_server(model_server: ModelServer, workspace: Path) -> None:
    model_server.models = [{"id": "test-model"}, {"id": "second-model"}]

    async def work(face: RecordingFace) -> None:
        face.keys.append(("until second-model", "s", "e", "c", "enter"))
        await face.obey("/model")
        assert face.settings.model == "second-model"
        face.keys.append(("escape",))
        await face.obey("/model")
        assert face.settings.model == "second-model"

    face = with_face(model_server, workspace, work)
    assert "test-model" in face.panels[0]
    assert "in use" in face.panels[0]


def test_a_server_that_lists_nothing(model_server: ModelServer, workspace: Path) -> None:
    model_server.close()

    async def work(face: RecordingFace) -> None:
        face.keys.append(("until lists none", "enter"))
        await face.obey("/model")

    face = with_face(model_server, workspace, work)
    assert "asking the server" in face.panels[0]
    assert face.said == "model test-model, from the next prompt on"


@pytest.mark.parametrize("name", ["mode", "approve"])
def test_modes(model_server: ModelServer, workspace: Path, name: str) -> None:
    async def work(face: RecordingFace) -> None:
        face.keys.append(("up", "enter"))
        await face.obey(f"/{name}")
        assert face.link.session is not None
        assert face.link.session.permissions.approve == "plan"
        await face.obey(f"/{name} all")
        assert face.link.session.permissions.approve == "all"
        with pytest.raises(UsageError, match=r"is it edits"):
            await face.obey(f"/{name} edit")

    face = with_face(model_server, workspace, work, approve="ask")
    assert "> ask" in face.panels[0]
    assert "asks before every change and every command" in face.panels[0]
    assert "mode plan: it only reads" in face.said


def test_plan_mode_and_out_of_it(model_server: ModelServer, workspace: Path) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/plan")
        assert face.settings.approve == "plan"
        await face.obey("/plan")
        assert face.settings.approve == "ask"
        await face.obey("/plan a new parser")
        assert face.settings.approve == "plan"
        await face.obey("/plan another")
        assert face.settings.approve == "plan"

    face = with_face(model_server, workspace, work, approve="edits")
    assert face.submitted == ["a new parser", "another"]


def test_themes_are_tried_on(model_server: ModelServer, workspace: Path) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/theme light")
        assert face.theme.name == "light"
        face.keys.append(("down", "escape"))
        await face.obey("/theme")
        assert face.theme.name == "light", "nothing was chosen"
        face.keys.append(("down", "enter"))
        await face.obey("/theme")
        assert face.theme.name == "mono"
        with pytest.raises(UsageError, match="no theme 'pink'"):
            await face.obey("/theme pink")

    with_face(model_server, workspace, work)


def test_quit(model_server: ModelServer, workspace: Path) -> None:
    async def work(face: RecordingFace) -> None:
        await face.obey("/quit")
        assert face.left

    with_face(model_server, workspace, work)


def test_the_face_is_there_before_the_core() -> None:
    program = """
import sys
import laguna_agent.terminal.slash, laguna_agent.terminal.questions, laguna_agent.terminal.status
import laguna_agent.terminal.git_state
print(sorted(name for name in sys.modules if name.startswith(("laguna_agent.sandbox", "laguna_agent.agent.", "mcp"))))
"""
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "['laguna_agent.agent.exporting']"
