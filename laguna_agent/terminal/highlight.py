"""Code in colours, line by line: what is open at the end of a line goes on in the next.

A line costs what it is long, wherever in a block it stands. Knows pygments, which it loads at the first line; must not
know where the code came from or how wide the screen is. A language that is not known gives plain text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rich.segment import Segment
from rich.style import Style

from laguna_agent.terminal.theme import Theme

if TYPE_CHECKING:
    from pygments.lexer import Lexer

LINE_CAP = 1_000
"""Characters of the longest line that is coloured: more is a minified file, and no one reads it."""
_COMMENT_BEGINS = re.compile(r"/\*(?!.*\*/)")
_ROOTS: dict[str, str] = {
    "Comment": "syntax.comment",
    "Keyword": "syntax.keyword",
    "String": "syntax.string",
    "Number": "syntax.number",
    "Operator": "syntax.operator",
    "Error": "text",
    "Inserted": "added",
    "Deleted": "removed",
    "Subheading": "hunk",
    "Function": "syntax.name",
    "Class": "syntax.type",
    "Decorator": "syntax.name",
    "Tag": "syntax.keyword",
    "Attribute": "syntax.name",
    "Exception": "syntax.type",
    "Type": "syntax.type",
}


class Highlighter:
    """The lines of one block or file, in order."""

    def __init__(self, lexer: Lexer | None) -> None:
        self._lexer = lexer
        self._stack: list[str] = ["root"]
        self._in_comment = False
        self._stateful = True

    def line(self, text: str, theme: Theme) -> list[Segment]:
        """The next line, without its end."""
        if self._lexer is None or len(text) > LINE_CAP:
            return [Segment(text)] if text else []
        if self._in_comment:
            return self._commented(text, theme)
        return self._lexed(text, theme)

    def copy(self) -> Highlighter:
        """The same, for a line that may go on."""
        other = Highlighter(self._lexer)
        other._stack, other._in_comment, other._stateful = list(self._stack), self._in_comment, self._stateful
        return other

    def _commented(self, text: str, theme: Theme) -> list[Segment]:
        end = text.find("*/") + 2
        if end < 2:
            return [Segment(text, theme.style("syntax.comment"))] if text else []
        self._in_comment = False
        rest = self._lexed(text[end:], theme) if text[end:] else []
        return [Segment(text[:end], theme.style("syntax.comment")), *rest]

    def _lexed(self, text: str, theme: Theme) -> list[Segment]:
        out: list[Segment] = []
        code, depth = "", len(self._stack)
        for kind, piece in self._tokens(text + "\n"):
            name = _style_name(kind)
            if name == "syntax.comment" and _COMMENT_BEGINS.match(piece):
                self._in_comment = True
            # Strings may hold what looks like a comment.
            code += piece if name not in ("syntax.string", "syntax.comment") else " "
            if piece := piece.rstrip("\n"):
                out.append(Segment(piece, theme.style(name) if name else None))
        if len(self._stack) > depth:
            # The lexer itself knows that it is in the middle of something.
            self._in_comment = False
            return out
        comment = _COMMENT_BEGINS.search(code)
        if comment and _has_block_comments(self._lexer):
            self._in_comment = True
            return _recoloured(out, text.rfind("/*"), theme.style("syntax.comment"))
        return out

    def _tokens(self, text: str) -> list[tuple[Any, str]]:
        from pygments.lexer import ExtendedRegexLexer, LexerContext, RegexLexer

        assert self._lexer is not None
        # One that reads in a way of its own cannot be asked to go on in the middle.
        own = type(self._lexer).get_tokens_unprocessed is not RegexLexer.get_tokens_unprocessed
        if not own and self._stateful:
            context = LexerContext(text, 0, list(self._stack))
            tokens = ExtendedRegexLexer.get_tokens_unprocessed(self._lexer, context=context)
            try:
                found = [(kind, piece) for _, kind, piece in tokens]
            except (TypeError, AttributeError):
                # A callback of this lexer takes no context: each line of its language for itself.
                self._stateful = False
            else:
                self._stack = list(context.stack) or ["root"]
                return found
        return [(kind, piece) for _, kind, piece in self._lexer.get_tokens_unprocessed(text)]


@lru_cache(maxsize=32)
def lexer_of_language(name: str) -> Lexer | None:
    """The lexer for what a fence says: `python`, `c++`, `{.rust}`."""
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(name.strip("{}. ").lower()) if name else None
    except ClassNotFound:
        return None


@lru_cache(maxsize=64)
def lexer_of_suffix(name: str) -> Lexer | None:
    """The lexer for a file's name."""
    from pygments.lexers import get_lexer_for_filename
    from pygments.util import ClassNotFound

    try:
        return get_lexer_for_filename(name)
    except ClassNotFound:
        return None


def lexer_of_path(path: str) -> Lexer | None:
    """The lexer for a file, by its name alone."""
    name = path.rsplit("/", 1)[-1]
    suffix = name.rsplit(".", 1)[-1]
    # Files of one suffix share a lexer: looking one up tries hundreds of patterns.
    return lexer_of_suffix(f"x.{suffix}" if "." in name[1:] else name)


def _has_block_comments(lexer: Lexer | None) -> bool:
    return lexer is not None and lexer.name in {
        *("C", "C++", "C#", "Java", "JavaScript", "TypeScript", "Go", "Rust", "Swift", "Kotlin", "Scala", "PHP", "CSS"),
        *("SCSS", "Less", "SQL", "Objective-C", "Dart", "D", "TSX", "JSX", "CUDA", "Groovy", "Zig"),
    }


@lru_cache(maxsize=256)
def _style_name(kind: Any) -> str:
    """The theme's name for a token; the most special part of it that has one."""
    return next((_ROOTS[part] for part in reversed(kind) if part in _ROOTS), "")


def _recoloured(segments: list[Segment], begin: int, style: Style) -> list[Segment]:
    """The same, from `begin` on in one style."""
    from laguna_agent.terminal.wrapping import cut

    head, tail = cut(segments, begin)
    return [*head, Segment("".join(segment.text for segment in tail), style)]
