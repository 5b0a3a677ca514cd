"""The interactive face as a guest: without colours, on simple terminals, with other themes, and where it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.model_server import ModelServer, text, tool_call
from tests.terminal.conftest import StartChat, StartTty


def coloured(raw: bytes) -> list[bytes]:
    """The styles in it that set a colour."""
    import re

    found = re.findall(rb"\x1b\[([\d;]*)m", raw)
    return [
        each for each in found if any(30 <= int(code or 0) <= 49 or int(code or 0) >= 90 for code in each.split(b";"))
    ]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {}])
def test_no_colour_where_none_is_wanted(
    chat: StartChat, model_server: ModelServer, workspace: Path, environment: dict[str, str]
) -> None:
    (workspace / "a.py").write_text("x = 1\n")
    model_server.reply(
        tool_call("read", {"path": "a.py"}),
        tool_call("edit", {"path": "a.py", "old": "x = 1", "new": "x = 2"}),
        text("```python\nx = 2\n```\n\nDone."),
    )
    plain = chat("--approve", "all", **environment)
    plain.ask("go", "Done.")
    assert bool(coloured(bytes(plain.tty.raw))) != bool(environment)
    assert plain.count("- x = 1") == plain.count("+ x = 2") == 1
    plain.leave()


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "mono"])
def test_other_themes(chat: StartChat, model_server: ModelServer, theme: str) -> None:
    model_server.reply(text("# Title\n\n`code` and\n\n```python\nx = 1  # one\n```\n\nDone."))
    themed = chat(LAGUNA_THEME=theme, COLORTERM="truecolor")
    themed.ask("go", "Done.")
    assert bool(coloured(bytes(themed.tty.raw))) == (theme != "mono")
    themed.leave()


def test_a_theme_that_was_chosen_stays(chat: StartChat) -> None:
    choosing = chat()
    choosing.send("/theme mono")
    choosing.tty.wait_for("\ntheme mono")
    choosing.leave()
    again = chat()
    assert coloured(bytes(again.tty.raw)) == []
    again.send("/theme nonsense")
    again.tty.wait_for("mono")
    again.leave()


@pytest.mark.parametrize(("arguments", "term"), [((), "dumb"), (("--plain",), "xterm-256color")])
def test_lines_only(tty: StartTty, model_server: ModelServer, arguments: tuple[str, ...], term: str) -> None:
    model_server.reply(tool_call("shell", {"command": "touch made"}), text("Made."))
    plain = tty(*arguments, **(model_server.env | {"TERM": term}))
    plain.wait_for(lambda _: plain.screen()[plain.cursor[0]] == ">")
    plain.send("do it\r")
    plain.wait_for("[y]")
    plain.wait_for(lambda _: plain.screen()[plain.cursor[0]] == "?")
    plain.send("y\r")
    plain.wait_for("Made.")
    plain.wait_for(lambda _: plain.screen()[plain.cursor[0]] == ">")
    plain.send("\x04")
    assert plain.wait_exit() == 0
    assert plain.left_over() == []
    moves = {each for each in plain.modes.seen if each.startswith("CSI") and not each.endswith(("m", "h", "l", "K"))}
    assert moves == set()


def test_without_a_terminal_it_says_what_to_do(run_cli: RunCli) -> None:
    done = run_cli("chat")
    assert done.returncode == 2
    assert "laguna-agent run" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_bell_for_somebody_who_looks_elsewhere(chat: StartChat) -> None:
    # Nobody waits ten seconds in a test: who has just typed hears nothing.
    quiet = chat()
    quiet.send("/mode plan")
    quiet.tty.wait_for("plans only")
    assert quiet.tty.modes.bells == 0
    quiet.leave()
