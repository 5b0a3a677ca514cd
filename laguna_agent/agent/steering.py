"""What the person says into a running turn: kept until the loop takes it, and never lost.

Words are on record when they are accepted (`Waiting`) and again when the model gets them (`Steered`); those between the
two are `untaken`, also after a kill, for the face to send as a prompt. Knows the words and the tape; how a dialect
tells them to the model is the turn's.
"""

from __future__ import annotations

import re

from laguna_agent.agent.commands import first_words
from laguna_agent.agent.store import Steered, Waiting
from laguna_agent.agent.tape import Tape, encodable, redacted
from laguna_agent.errors import StorageError
from laguna_agent.messages import ContentBlock

Content = tuple[ContentBlock, ...]
_COMMAND = re.compile(r"/[A-Za-z0-9_-]+(?!\S)")


class Steering:
    """The words for the turn of one prompt. `untaken` are those that were accepted and that the model does not have."""

    def __init__(self, tape: Tape, *, takes: bool) -> None:
        """`takes` says whether there will be a turn; a slash command has none."""
        self.untaken: list[Content] = []
        self._tape = tape
        self._open = takes

    def accept(self, content: Content) -> bool:
        """Keep the words for the next request. False where there will be none, where they are a slash command, which is
        a prompt of its own, and where they cannot be written down, which the next prompt will say."""
        if not self._open or _COMMAND.match(first_words(content).lstrip()):
            return False
        waiting = redacted(encodable(Waiting(content)))
        try:
            self._tape.note(waiting)
        except StorageError:
            return False
        self.untaken.append(waiting.content)
        return True

    def close(self) -> None:
        """The turn is past taking anything."""
        self._open = False

    @property
    def waits(self) -> bool:
        """Whether there are words to be taken now; replayed, whether they were taken here."""
        return isinstance(self._tape.peek(), Steered) if self._tape.recorded else bool(self.untaken)

    def took(self) -> None:
        """The oldest words are the model's now."""
        del self.untaken[:1]
