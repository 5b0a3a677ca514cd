"""How the text in the input line is shown: hidden characters visible, marks of pastes set apart, the placeholder.

Knows fragments and positions; must not know what the text means.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable

from prompt_toolkit.auto_suggest import AutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.formatted_text.utils import fragment_list_to_text
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.layout.utils import explode_text_fragments

from laguna_agent.visible import Revealer, visible_line


class HiddenShown(Processor):
    """Shows characters that hide, steer or reorder in their visible form; the text itself keeps them."""

    def apply_transformation(self, given: TransformationInput) -> Transformation:
        line = fragment_list_to_text(given.fragments)
        if line.isascii():
            return Transformation(given.fragments)
        revealer = Revealer(abbreviate=False)
        revealer.feed(line, final=True)
        if not revealer.forms:
            return Transformation(given.fragments)
        fragments = explode_text_fragments(given.fragments)
        forms = {begin: form for begin, _, form in revealer.forms}
        out: StyleAndTextTuples = []
        starts: list[int] = []
        shown = 0
        for at, fragment in enumerate(fragments):
            text = forms.get(at, fragment[1])
            starts.append(shown)
            shown += len(text)
            out.append((fragment[0], text))
        starts.append(shown)
        return Transformation(
            out,
            source_to_display=lambda at: starts[min(at, len(starts) - 1)],
            display_to_source=lambda at: max(0, bisect_right(starts, at) - 1),
        )


class MarksShown(Processor):
    """Sets apart what stands for something longer."""

    def __init__(self, spans: Callable[[str], list[tuple[int, int]]]) -> None:
        self._spans = spans

    def apply_transformation(self, given: TransformationInput) -> Transformation:
        spans = self._spans(given.document.lines[given.lineno])
        if not spans:
            return Transformation(given.fragments)
        fragments = explode_text_fragments(given.fragments)
        for begin, end in spans:
            for at in range(begin, min(end, len(fragments))):
                fragments[at] = (fragments[at][0] + " class:accent", fragments[at][1])
        return Transformation(fragments)


class Placeholder(Processor):
    """What is shown while nothing is typed."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text

    def apply_transformation(self, given: TransformationInput) -> Transformation:
        if given.document.text:
            return Transformation(given.fragments)
        return Transformation([*given.fragments, ("class:placeholder", self._text())])


class SuggestFromHistory(AutoSuggest):
    """Suggests the rest of the newest prompt that begins like this one, as far as its first line goes."""

    def __init__(self, newest: Callable[[], Iterable[str]]) -> None:
        self._newest = newest

    def get_suggestion(self, buffer: Buffer, document: Document) -> Suggestion | None:
        text = document.text
        if len(text) < 2 or "\n" in text or not document.is_cursor_at_the_end:
            return None
        for entry in self._newest():
            rest = entry[len(text) :].partition("\n")[0] if entry.startswith(text) else ""
            # It is drawn beside the text, not as a part of it.
            if rest and visible_line(rest) == rest:
                return Suggestion(rest)
        return None
