"""The keys of the program itself; those of editing are the composer's, those of a panel are its own."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from prompt_toolkit.filters import Condition
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys

if TYPE_CHECKING:
    from laguna_agent.terminal.app import InteractiveFace

AGAIN = 1.5
"""Seconds in which a second Ctrl-C leaves."""
CYCLE = ("plan", "ask", "edits")
"""Modes that Shift-Tab goes through: leave for everything is given by name only."""


def program_keys(face: InteractiveFace) -> KeyBindings:
    """The bindings of a face."""
    keys = KeyBindings()
    pressed = [float("-inf")]

    @keys.add("c-c")
    @keys.add(Keys.SIGINT)
    def _stop(event: KeyPressEvent) -> None:
        panel, now = face.surface.panel, monotonic()
        if face.prompting.interrupt():
            # A question of the turn goes with it.
            pass
        elif panel is not None:
            panel.interrupted()
        elif face.composer.text:
            face.composer.clear()
        elif now - pressed[0] < AGAIN:
            face.leave()
        else:
            pressed[0] = now
            face.say("Ctrl-C again, or Ctrl-D, leaves.", "dim")

    @keys.add("escape")
    def _interrupt(event: KeyPressEvent) -> None:
        panel = face.surface.panel
        if panel is None:
            if not face.composer.dismiss():
                face.prompting.interrupt()
        elif panel.reading is None:
            if not (face.asked and face.prompting.interrupt()):
                panel.interrupted()
        elif not face.composer.dismiss():
            panel.typed(None)

    @keys.add("c-d", filter=Condition(lambda: not face.composer.text))
    def _leave(event: KeyPressEvent) -> None:
        now = monotonic()
        if face.prompting.began is not None and now - pressed[0] >= AGAIN:
            pressed[0] = now
            face.say("Ctrl-D again leaves, and ends the turn.", "dim")
        else:
            face.leave()

    @keys.add("c-o")
    def _unfold(event: KeyPressEvent) -> None:
        face.unfold()

    @keys.add("c-l")
    def _clear(event: KeyPressEvent) -> None:
        event.app.renderer.clear()

    @keys.add("c-j", eager=True, filter=Condition(lambda: not face.opened))
    def _early_enter(event: KeyPressEvent) -> None:
        # Typed before the terminal was ours, Enter has come as a line feed.
        face.composer.submit()

    @keys.add("c-q")
    def _queue(event: KeyPressEvent) -> None:
        face.send_later()

    @keys.add("c-z")
    def _suspend(event: KeyPressEvent) -> None:
        event.app.suspend_to_background()

    @keys.add("s-tab", filter=Condition(lambda: face.surface.panel is None and not face.composer.menu.open))
    def _next_mode(event: KeyPressEvent) -> None:
        mode = face.facts.mode
        at = CYCLE.index(mode) if mode in CYCLE else -1
        face.submit(f"/mode {CYCLE[(at + 1) % len(CYCLE)]}")

    return keys
