"""Words of a bash command line: what is left of them after quoting, as far as that can be known without running it.

Knows quoting and which expansions leave a word open; must not know commands, rules or what a word is for. Every
question about a word that is not plainly answered makes it `vague`, never literal.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from tree_sitter import Node


class Word(msgspec.Struct, frozen=True):
    """One word. `text` is what the program gets, or the source where that is not known: then the word is `vague` and
    may become any number of words; `quoted` tells a vague word that stays one word."""

    text: str
    vague: bool = False
    quoted: bool = False


class _Piece(msgspec.Struct, frozen=True):
    """A stretch of a word; `bare` is unquoted, where globs, braces and tildes count."""

    text: str
    bare: bool = False
    vague: bool = False


WORD_NODES = frozenset(
    {
        "word", "string", "raw_string", "ansi_c_string", "translated_string", "concatenation", "number",
        "simple_expansion", "expansion", "command_substitution", "arithmetic_expansion", "process_substitution",
        "variable_name", "brace_expression", "extglob_pattern", "regex",
    }
)  # fmt: skip
"""Nodes that can be a word of a command, or a piece of one."""

_GLOB = re.compile(r"[*?]|\[.*\]|[@!+]\(")
_BRACES = re.compile(r"\{.*(,|\.\.).*\}", re.DOTALL)
_SOMEBODYS_HOME = re.compile(r"~[^/]")
"""`~/x` is one word, and which one is known; of `~name`, `~+` and `~-` it is not."""
_SIMPLE_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"', "r": "\r", "a": "\a", "b": "\b", "e": "\x1b"}


def word_of(node: Node) -> Word:
    """The word that a node of `WORD_NODES` stands for."""
    pieces = _pieces(node)
    source = text_of(node)
    if any(piece.vague for piece in pieces):
        return Word(source, vague=True, quoted=_one_word(node))
    # A quoted stretch counts as a letter here: a glob or brace must not be found in it, but may span it.
    bare = "".join(piece.text if piece.bare else "x" for piece in pieces)
    if _GLOB.search(bare) or _BRACES.search(bare) or _SOMEBODYS_HOME.match(bare):
        return Word(source, vague=True)
    return Word("".join(piece.text for piece in pieces))


def text_of(node: Node) -> str:
    """The source of a node; the grammar may cut a lone surrogate apart, which makes the command unclear anyway."""
    return (node.text or b"").decode("utf-8", "replace")


def _one_word(node: Node) -> bool:
    """Whether a vague word cannot fall apart: everything unknown in it stands between double quotes, and is not the
    list of all arguments."""
    if node.type == "concatenation":
        return all(child.type in {"word", "raw_string", "number"} or _one_word(child) for child in node.children)
    return node.type == "string" and not re.search(r"\$\{?[@!]|\$\{[^}]*@", text_of(node))


def _pieces(node: Node) -> list[_Piece]:
    text = text_of(node)
    match node.type:
        case "word" | "number" | "variable_name" | "extglob_pattern" if node.child_count == 0:
            return _unescaped(text)
        case "raw_string":
            return [_Piece(text[1:-1])]
        case "ansi_c_string":
            return [_ansi(text)]
        case "string" if all(child.type in {'"', "string_content"} for child in node.children):
            return [_Piece(re.sub(r"\\([$`\"\\\n])", lambda m: "" if m[1] == "\n" else m[1], text[1:-1]))]
        case "concatenation":
            return [piece for child in node.children for piece in _pieces(child)]
    return [_Piece(text, vague=True)]


def _unescaped(text: str) -> list[_Piece]:
    """An unquoted stretch: what a backslash protects is not bare."""
    pieces = []
    for match in re.finditer(r"\\(.)|([^\\]+)|\\$", text, re.DOTALL):
        escaped, plain = match[1], match[2]
        if plain:
            pieces.append(_Piece(plain, bare=True))
        elif escaped != "\n":
            pieces.append(_Piece(escaped or "\\"))
    return pieces


def _ansi(text: str) -> _Piece:
    inner = text[2:-1]
    vague = False

    def plain(match: re.Match[str]) -> str:
        nonlocal vague
        vague = vague or match[1] not in _SIMPLE_ESCAPES
        return _SIMPLE_ESCAPES.get(match[1], "")

    decoded = re.sub(r"\\(.|$)", plain, inner, flags=re.DOTALL)
    return _Piece(text, vague=True) if vague else _Piece(decoded)


def strange_characters(text: str) -> list[str]:
    """What of a text neither a person nor a shell takes for what it is, in words: control characters, invisible ones,
    blanks that are none for bash."""
    odd = sorted(each for each in set(text) - set(" \n\t") if unicodedata.category(each)[0] in "CZ")
    return [f"it holds the character U+{ord(each):04X}" for each in odd[:5]]
