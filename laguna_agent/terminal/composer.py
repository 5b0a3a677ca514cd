"""The input line: where the person writes prompts, with all that helps with it.

Several lines, history with search, completion, pastes folded to marks, images, the person's editor, emacs and vi keys.
Enter sends; what is sent goes to `on_submit` and is nobody's business here. The keys of the whole face (Escape, Ctrl-C,
Ctrl-D, Ctrl-O) belong to the app, which asks `dismiss` first. Knows text and keys; must not know sessions or turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_toolkit import search
from prompt_toolkit.application.current import get_app, get_app_or_none
from prompt_toolkit.application.run_in_terminal import in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.key_binding.vi_state import InputMode
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    Window,
)
from prompt_toolkit.layout.processors import (
    AppendAutoSuggestion,
    DisplayMultipleCursors,
    HighlightIncrementalSearchProcessor,
    HighlightSelectionProcessor,
    TabsProcessor,
)
from prompt_toolkit.widgets import SearchToolbar
from rich.cells import cell_len

from laguna_agent.errors import LagunaError
from laguna_agent.event_lines import one_line
from laguna_agent.messages import ContentBlock
from laguna_agent.terminal.completion import Completer, Offer
from laguna_agent.terminal.completion_menu import CompletionMenu
from laguna_agent.terminal.composer_keys import bindings, teach_modified_enter
from laguna_agent.terminal.composer_view import HiddenShown, MarksShown, Placeholder, SuggestFromHistory
from laguna_agent.terminal.editor import edited
from laguna_agent.terminal.history import History
from laguna_agent.terminal.images import Image, clipboard_image, images_at
from laguna_agent.terminal.paste import Pastes

ROWS = 10
PROMPT = "> "


@dataclass(frozen=True)
class Submission:
    """What the person sent: `text` as it stood in the input line, `content` as the agent gets it."""

    text: str
    content: tuple[ContentBlock, ...]


class Composer:
    """See the module.

    `container` goes into the layout and `control` gets the focus; `editing_mode` is for the Application, whose own
    affair that is. The styles are the theme's: prompt, placeholder, menu, accent, dim.
    """

    def __init__(
        self,
        *,
        history: History,
        completer: Completer,
        on_submit: Callable[[Submission], None],
        vi: bool = False,
        cwd: Path | None = None,
    ) -> None:
        self.placeholder = ""
        self.label = ""
        """Shown in the place of the prompt mark while a panel reads a text: that is neither completed nor kept."""
        self.notice = ""
        """One line below the input, until the next key."""
        self.cwd = cwd or Path.cwd()
        self.pastes = Pastes()
        self.editing_mode = EditingMode.VI if vi else EditingMode.EMACS
        self._history, self._on_submit = history, on_submit
        self._draft = Document()
        self._spaced: Document | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        teach_modified_enter()
        self.menu = CompletionMenu(completer, width=_columns, redraw=_redraw)
        self.buffer = Buffer(
            multiline=True,
            history=history,
            enable_history_search=True,
            auto_suggest=SuggestFromHistory(lambda: () if self.label else history.newest()),
            on_text_changed=lambda _: self._changed(),
            on_cursor_position_changed=lambda _: self._changed(),
        )
        self.keys: KeyBindings = bindings(self)
        self._search = SearchToolbar(
            forward_search_prompt="search forward: ", backward_search_prompt="search: ", ignore_case=True
        )
        self.control = BufferControl(
            self.buffer,
            input_processors=[
                MarksShown(self.pastes.spans),
                HiddenShown(),
                TabsProcessor(char1=" ", char2=" "),
                HighlightIncrementalSearchProcessor(),
                HighlightSelectionProcessor(),
                DisplayMultipleCursors(),
                AppendAutoSuggestion(style="class:placeholder"),
                Placeholder(lambda: "" if self.label else self.placeholder),
            ],
            include_default_input_processors=False,
            search_buffer_control=self._search.control,
            preview_search=True,
            key_bindings=self.keys,
        )
        self.container = self._container()

    def _container(self) -> HSplit:
        text = Window(
            self.control,
            height=Dimension(min=1, max=ROWS),
            dont_extend_height=True,
            wrap_lines=True,
            get_line_prefix=self._prefix,
        )
        notice = Window(FormattedTextControl(self._notice), height=1, dont_extend_height=True)
        noticed = ConditionalContainer(notice, filter=Condition(lambda: bool(self.notice)))
        return HSplit([text, noticed, self._search, self.menu.container])

    @property
    def text(self) -> str:
        """What stands in the input line, marks for what was pasted."""
        return self.buffer.text

    def fill(self, text: str) -> None:
        """Put a text there for the person to change."""
        self._end_search()
        with self.menu.paused(self._before):
            self.buffer.document = Document(text, len(text))

    def clear(self) -> None:
        """Leave it empty."""
        self.notice = ""
        self._end_search()
        with self.menu.paused(self._before):
            self.buffer.reset()
        _redraw()

    def take_draft(self) -> None:
        """Keep what stands there for later, and leave it empty."""
        self._draft = self.buffer.document
        self.clear()

    def restore_draft(self) -> None:
        """Put back what was kept."""
        self.label = ""
        draft, self._draft = self._draft, Document()
        self.clear()
        with self.menu.paused(self._before):
            self.buffer.document = draft

    def dismiss(self) -> bool:
        """Escape: close what is open in the input line, a search, the completions, vi's insertion. False where nothing
        was, and the key means something to the face."""
        app = get_app()
        if self._end_search() or self.menu.close():
            pass
        elif self.buffer.selection_state is not None:
            self.buffer.exit_selection()
        elif self.editing_mode is EditingMode.VI and app.vi_state.input_mode != InputMode.NAVIGATION:
            app.vi_state.input_mode = InputMode.NAVIGATION
        else:
            return False
        return True

    @property
    def spaced(self) -> bool:
        """Whether a completion has just put the space that the person is about to type."""
        return self.buffer.document == self._spaced

    def go_on(self) -> None:
        """The person has typed that space: one is enough."""
        self._spaced = None

    def submit(self) -> None:
        """Send what stands there; nothing happens where that is nothing."""
        text = self.buffer.text.strip("\n").rstrip()
        if not text.strip() and not self.label:
            return
        if not self.label:
            self._history.add(text, self.pastes.whole(text))
        self.clear()
        self._on_submit(Submission(text, self.pastes.content(text)))

    def enter(self) -> None:
        """Take what the menu marks where Enter means that, else begin a line behind a backslash, else send."""
        offers, offer = self.menu.offers, self.menu.marked
        if offers is not None and offer is not None:
            known = any(each.text == offers.typed for each in offers.items)
            # A whole directory may be meant as well as a file in it.
            begun = offers.kind != "argument" and len(offers.typed) > 1 and not offers.typed.endswith("/")
            if self.menu.moved or (begun and not known):
                self.accept(offer)
                if offer.sends:
                    self.submit()
                return
        if self.buffer.document.char_before_cursor == "\\":
            self.buffer.delete_before_cursor()
            self.newline()
            return
        self.submit()

    def newline(self) -> None:
        """Begin a line."""
        self.buffer.newline(copy_margin=False)

    def accept(self, offer: Offer) -> None:
        """Put what is offered in the place of what was typed for it."""
        offers = self.menu.offers
        if offers is None:
            return
        text, at = self.buffer.text, self.buffer.cursor_position
        behind = text[at : at + 1]
        put = offer.text + (" " if offer.ends and not behind.isspace() else "")
        self.buffer.document = Document(text[: offers.start] + put + text[at:], offers.start + len(put))
        self._spaced = self.buffer.document if put.endswith(" ") else None
        # A directory goes on with what is in it, a command with its arguments.
        if (offers.kind == "file") == offer.ends or offers.kind == "argument":
            self.menu.close()

    def complete(self) -> None:
        """Take the marked offer, or the first one once it is there."""
        if self.menu.open:
            self._accept_marked()
        elif not self.label:
            self.menu.ask(self._before(), self._accept_marked)

    def _accept_marked(self) -> None:
        if (offer := self.menu.marked) is not None:
            self.accept(offer)

    def step(self, rows: int) -> None:
        """Down (1) or up (-1): in the menu, in the text, in the history."""
        if self.menu.open:
            self.menu.move(rows)
            return
        if self.label:
            # What was sent before answers no question.
            self.buffer.cursor_down() if rows > 0 else self.buffer.cursor_up()
            return
        with self.menu.paused(self._before):
            self.buffer.auto_down() if rows > 0 else self.buffer.auto_up()

    def pasted(self, text: str) -> None:
        """Take what the terminal pasted. It never sends anything."""
        images: list[Image] = []
        problem = ""
        try:
            images = [] if self.label or self.buffer.text.startswith("!") else images_at(text, self.cwd)
        except LagunaError as error:
            problem = str(error)
        if images:
            self._insert(" ".join(self.pastes.attached(each) for each in images) + " ")
        elif self.label:
            self._insert(" ".join(text.split()))
        elif self.buffer.text.startswith("!"):
            # A command of the person's own runs as it stands there.
            self._insert(text.replace("\r\n", "\n").replace("\r", "\n"))
        else:
            self._insert(self.pastes.folded(text))
        self.notice = problem

    def paste_image(self) -> None:
        """Take the image in the clipboard, once a program has handed it out."""
        self._begin(self._paste_image())

    def edit(self) -> None:
        """Let the person write in their own editor."""
        self._begin(self._edit())

    async def _paste_image(self) -> None:
        try:
            image = await asyncio.to_thread(clipboard_image, self.cwd)
        except LagunaError as error:
            self.notice = str(error)
        else:
            self._insert(self.pastes.attached(image) + " ")
        _redraw()

    async def _edit(self) -> None:
        try:
            async with in_terminal():
                before = self.buffer.text
                # What is folded is there in full: an editor has room for it.
                whole = self.pastes.whole(before)
                text = await asyncio.to_thread(edited, whole)
        except LagunaError as error:
            self.notice = str(error)
        else:
            self.fill(before if text == whole else text)
        _redraw()

    def _end_search(self) -> bool:
        """Stop searching the history; False where nobody does."""
        if self._search.control not in get_app().layout.search_links:
            return False
        search.stop_search(self.control)
        return True

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        # The loop itself holds tasks by a thread only.
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _insert(self, text: str) -> None:
        with self.menu.paused(self._before):
            self.buffer.insert_text(text)

    def _before(self) -> str:
        return self.buffer.document.text_before_cursor

    def _changed(self) -> None:
        self.notice = ""
        if not self.label:
            self.menu.changed(self._before())

    def _prefix(self, line: int, wrapped: int) -> StyleAndTextTuples:
        mark = self.label or PROMPT
        if line == 0 and wrapped == 0:
            return [("class:prompt", mark)]
        return [("", " " * min(cell_len(mark), 8))]

    def _notice(self) -> StyleAndTextTuples:
        return [("class:dim", "  " + one_line(self.notice, max(20, _columns() - 2)))]


def _columns() -> int:
    return get_app().output.get_size().columns


def _redraw() -> None:
    if (app := get_app_or_none()) is not None:
        app.invalidate()
