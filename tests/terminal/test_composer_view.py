"""How text and completions are drawn: what hides is shown, nothing is wider than the screen."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.layout import BufferControl
from prompt_toolkit.layout.processors import TransformationInput
from rich.cells import cell_len

from laguna_agent.agent.commands import Command
from laguna_agent.sandbox.policy import policy_for
from laguna_agent.terminal.completion import Completer
from laguna_agent.terminal.completion_menu import ROWS, CompletionMenu, fitting
from laguna_agent.terminal.composer_view import HiddenShown, SuggestFromHistory
from laguna_agent.terminal.file_index import FileIndex
from laguna_agent.tools.files import Files
from laguna_agent.visible import visible_each

mixed = st.text(st.sampled_from("ab \u00e9\u65e5\u202e\u200b\u2066\U000e0041\U0001f600\u05d0\u200f\u0301"), max_size=20)


@given(mixed)
def test_what_hides_is_shown_and_every_place_is_found_again(line: str) -> None:
    given_ = TransformationInput(
        BufferControl(Buffer()), Document(line), 0, lambda at: at, [("", line)], 80, 10, lambda _: []
    )
    shown = HiddenShown().apply_transformation(given_)
    text = "".join(fragment[1] for fragment in shown.fragments)
    assert text == visible_each(line)
    places = [shown.source_to_display(at) for at in range(len(line) + 1)]
    assert places == sorted(places) and places[-1] == len(text)
    assert [shown.display_to_source(place) for place in places] == list(range(len(line) + 1))


@given(mixed, st.integers(0, 30), st.booleans())
def test_a_name_is_cut_to_the_columns_there_are(text: str, width: int, keep_end: bool) -> None:
    cut = fitting(text, width, keep_end=keep_end)
    assert cell_len(cut) <= width
    assert cut == text or (cell_len(text) > width and "\u2026" in cut) or width == 0


@settings(max_examples=25)
@given(width=st.integers(8, 200), names=st.lists(mixed.map(lambda name: name.strip() or "x"), min_size=1, max_size=20))
def test_the_menu_is_never_wider_than_the_screen(width: int, names: list[str]) -> None:
    commands = [Command(f"n{number}", name * 5, name) for number, name in enumerate(names)]
    index = FileIndex(lambda: Files(policy_for(Path("/"))))
    menu = CompletionMenu(Completer(index, lambda: commands), width=lambda: width, redraw=lambda: None)
    menu.changed("/n")
    for _ in range(3):
        rows = "".join(fragment[1] for fragment in menu._rows()).split("\n")
        assert all(cell_len(row) <= width for row in rows)
        assert len(rows) == min(ROWS, len(commands))
        assert sum(row.startswith("> ") for row in rows) == 1
        menu.move(7)


def test_hints_take_room_where_there_is_room() -> None:
    index = FileIndex(lambda: Files(policy_for(Path("/"))))
    commands = (Command("model", "Choose a model", "NAME"),)
    for width, shown in ((40, "> /model  Choose a model"), (80, "> /model NAME  Choose a model")):
        menu = CompletionMenu(Completer(index, lambda: commands), width=lambda: width, redraw=lambda: None)  # noqa: B023
        menu.changed("/m")
        assert "".join(fragment[1] for fragment in menu._rows()) == shown


def test_names_that_cannot_be_typed_are_not_offered() -> None:
    index = FileIndex(lambda: Files(policy_for(Path("/"))))
    commands = [Command(name, "") for name in ("fine", "two words", "line\nend", "esc\x1b[2J", "rtl\u202e", "")]
    offers = Completer(index, lambda: commands).at_once("/")
    assert offers is not None
    assert [offer.text for offer in offers.items] == ["/fine"]


def test_no_suggestion_that_hides_something() -> None:
    suggest = SuggestFromHistory(lambda: ["see\u202eevil", "see this\nand that"])

    async def suggested(text: str) -> str | None:
        found = suggest.get_suggestion(Buffer(), Document(text))
        return None if found is None else found.text

    assert asyncio.run(suggested("see")) == " this"
    assert asyncio.run(suggested("s")) is None
