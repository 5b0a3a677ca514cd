"""Lines as the face draws them: rich segments that fit the screen, and their two ways out.

What is finished goes into the terminal's own history as ANSI text, once; what still changes goes through prompt_toolkit
as fragments. Both come from the same `Line`, so that a line looks the same before and after it is finished. Knows
neither events nor what the lines say.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from prompt_toolkit.formatted_text import StyleAndTextTuples
from rich.color import ColorSystem
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style

Line = tuple[Segment, ...]
"""One row of the screen without its line end; no control segments, nothing that a terminal would obey."""


def rendered(renderable: RenderableType, width: int) -> list[Line]:
    """The rows that rich makes of something in `width` columns."""
    console = _console(width)
    rows = console.render_lines(renderable, console.options, pad=False, new_lines=False)
    return [tuple(segment for segment in row if segment.text and not segment.control) for row in rows]


@lru_cache(maxsize=4)
def _console(width: int) -> Console:
    # Colours are decided where lines go out; here they are kept whole.
    return Console(width=max(width, 1), force_terminal=True, color_system="truecolor", highlight=False, markup=False)


def ansi(lines: Iterable[Line], colours: ColorSystem | None) -> str:
    """The lines as text with ANSI colours, each ended by a line end; None for a terminal without any style."""
    return "".join("".join(_ansi(segment, colours) for segment in line) + "\r\n" for line in lines)


def _ansi(segment: Segment, colours: ColorSystem | None) -> str:
    if colours is None or not segment.style:
        return segment.text
    return segment.style.render(segment.text, color_system=colours)


def fragments(lines: Iterable[Line]) -> StyleAndTextTuples:
    """The lines for prompt_toolkit, with line ends between them."""
    out: StyleAndTextTuples = []
    for line in lines:
        if out:
            out.append(("", "\n"))
        out.extend((_style(segment.style) if segment.style else "", segment.text) for segment in line)
    return out


@lru_cache(maxsize=1024)
def _style(style: Style) -> str:
    """A rich style in prompt_toolkit's words."""
    words = [_colour("fg", style.color), _colour("bg", style.bgcolor)]
    words += [name for name in ("bold", "dim", "italic", "underline", "strike", "reverse") if getattr(style, name)]
    return " ".join(filter(None, words))


_ANSI_NAMES = (
    *("ansiblack", "ansired", "ansigreen", "ansiyellow", "ansiblue", "ansimagenta", "ansicyan", "ansigray"),
    *("ansibrightblack", "ansibrightred", "ansibrightgreen", "ansibrightyellow", "ansibrightblue"),
    *("ansibrightmagenta", "ansibrightcyan", "ansiwhite"),
)


def _colour(ground: str, colour: object) -> str:
    from rich.color import Color

    if not isinstance(colour, Color) or colour.is_default:
        return ""
    if colour.number is not None and colour.number < len(_ANSI_NAMES):
        return f"{ground}:{_ANSI_NAMES[colour.number]}"
    return f"{ground}:{colour.get_truecolor().hex}"
