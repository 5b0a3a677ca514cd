"""Which key does what in the input line, beyond what emacs and vi users know anyway.

Knows keys; what they do is the composer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prompt_toolkit.filters import Condition
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

if TYPE_CHECKING:
    from laguna_agent.terminal.composer import Composer

_MODIFIED_ENTER = (
    # Shift, Alt, Control and both as xterm's modifyOtherKeys and the `CSI u` of kitty and others tell them.
    *(f"\x1b[27;{modifiers};13~" for modifiers in range(2, 9)),
    *(f"\x1b[13;{modifiers}u" for modifiers in range(2, 9)),
)


def teach_modified_enter() -> None:
    """Have Enter with a modifier, where a terminal tells it from Enter, arrive as Alt-Enter does."""
    for sequence in _MODIFIED_ENTER:
        ANSI_SEQUENCES[sequence] = (Keys.Escape, Keys.ControlM)


def bindings(composer: Composer) -> KeyBindings:
    """The keys of an input line, in force while it has the focus."""
    keys = KeyBindings()
    _sending(keys, composer)
    _choosing(keys, composer)
    _deleting(keys, composer)
    _bringing(keys, composer)
    return keys


def _sending(keys: KeyBindings, composer: Composer) -> None:
    @keys.add("enter")
    def _enter(event: KeyPressEvent) -> None:
        composer.enter()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _newline(event: KeyPressEvent) -> None:
        composer.newline()


def _choosing(keys: KeyBindings, composer: Composer) -> None:
    menu_open = Condition(lambda: composer.menu.open)

    @Condition
    def suggested() -> bool:
        suggestion = composer.buffer.suggestion
        return bool(suggestion and suggestion.text and composer.buffer.document.is_cursor_at_the_end)

    @keys.add("tab")
    def _complete(event: KeyPressEvent) -> None:
        composer.complete()

    @keys.add(" ", filter=Condition(lambda: composer.spaced))
    def _space_is_there(event: KeyPressEvent) -> None:
        composer.go_on()

    @keys.add("s-tab", filter=menu_open)
    def _previous(event: KeyPressEvent) -> None:
        composer.step(-1)

    @keys.add("up")
    @keys.add("c-p")
    def _up(event: KeyPressEvent) -> None:
        composer.step(-1)

    @keys.add("down")
    @keys.add("c-n")
    def _down(event: KeyPressEvent) -> None:
        composer.step(1)

    @keys.add("right", filter=suggested)
    @keys.add("c-f", filter=suggested)
    @keys.add("c-e", filter=suggested)
    @keys.add("end", filter=suggested)
    def _take_suggestion(event: KeyPressEvent) -> None:
        suggestion = composer.buffer.suggestion
        if suggestion is not None:
            composer.buffer.insert_text(suggestion.text)


def _deleting(keys: KeyBindings, composer: Composer) -> None:
    def behind() -> int:
        document = composer.buffer.document
        return composer.pastes.ending_at(document.text, document.cursor_position)

    def ahead() -> int:
        document = composer.buffer.document
        return composer.pastes.beginning_at(document.text, document.cursor_position)

    @keys.add("backspace", filter=Condition(lambda: behind() > 0))
    @keys.add("c-w", filter=Condition(lambda: behind() > 0))
    @keys.add("escape", "backspace", filter=Condition(lambda: behind() > 0))
    def _delete_mark(event: KeyPressEvent) -> None:
        composer.buffer.delete_before_cursor(behind())

    @keys.add("delete", filter=Condition(lambda: ahead() > 0))
    def _delete_next_mark(event: KeyPressEvent) -> None:
        composer.buffer.delete(ahead())


def _bringing(keys: KeyBindings, composer: Composer) -> None:
    @keys.add(Keys.BracketedPaste)
    def _paste(event: KeyPressEvent) -> None:
        composer.pasted(event.data)

    @keys.add("c-v")
    def _paste_image(event: KeyPressEvent) -> None:
        composer.paste_image()

    @keys.add("c-x", "c-e")
    @keys.add("c-g")
    def _edit(event: KeyPressEvent) -> None:
        composer.edit()
