"""Whether the syntax tree of a bash command line may be believed.

The grammar is lenient: it also makes trees of what bash reads in another way. So every leaf is held against what may
stand in it, every gap between two leaves against what bash skips, and every place where bash would begin a substitution
against the tree. Knows leaves, gaps and here-documents; must not know what a command means. A doubt is a reason in
words; no doubt means that words, separators and substitutions are where bash has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node

UNREADABLE = "it is not bash that can be read with certainty"

_LEAVES = {
    "word": re.compile(rb"(?![#])(?:\\.|[^\s;&|<>()$`\"'\\])+", re.DOTALL),
    "number": re.compile(rb"-?(?:0x)?[0-9A-Fa-f]+"),
    "variable_name": re.compile(rb"\w+"),
    "special_variable_name": re.compile(rb"[*@#?$!0_-]|\d+"),
    "string_content": re.compile(rb"(?:\\.|[^\"$`\\]|\$(?![\w({\[]))*", re.DOTALL),
    "raw_string": re.compile(rb"'[^']*'"),
    "ansi_c_string": re.compile(rb"\$'(?:\\.|[^'\\])*'", re.DOTALL),
    "comment": re.compile(rb"#[^\n]*"),
    "file_descriptor": re.compile(rb"\d+"),
    "heredoc_start": re.compile(rb"\w+|'\w+'|\"\w+\""),
    "heredoc_end": re.compile(rb"\s*\w+"),
    "heredoc_content": re.compile(rb".*", re.DOTALL),
    "heredoc_body": re.compile(rb".*", re.DOTALL),
    "test_operator": re.compile(rb"-[a-zA-Z]+"),
    "extglob_pattern": re.compile(rb"[\w*?.\[\]/@+:,=%^-]+"),
    "regex": re.compile(rb"[\w*?.\[\]/@+:,=%^|-]+|\"[^\"$`\\]*\""),
    "array": re.compile(rb"\(\)"),
}
_TOKENS = frozenset(
    {
        "|", "|&", "||", "&&", "&", ";", ";;", ";&", ";;&", "(", ")", "((", "))", "{", "}", "[", "]", "[[",
        "]]", "!", "$", "$(", "`", "${", "$((", "<(", ">(", "\"", "<", ">", ">>", "<<", "<<-", "<<<", ">|",
        "&>", "&>>", "<&", ">&", "<&-", ">&-", "<>", "=", "+=", "-=", "*=", "/=", "%=", "==", "!=", "=~", "-",
        "+", "~", ":-", ":=", ":?", ":+", "?", "#", "##", "%", "%%", "/", "//", "/#", "/%", ",", ",,", "^",
        "^^", ":", "@", "*", "**", "++", "--", "<=", ">=", "-a", "-o", "if", "then", "elif", "else", "fi",
        "while", "until", "for", "in", "do", "done", "case", "esac", "select", "function", "declare", "typeset",
        "export", "readonly", "local", "unset", "unsetenv",
    }
)  # fmt: skip
_ON_ONE_LINE = frozenset(
    {"command", "file_redirect", "declaration_command", "unset_command", "variable_assignment",
     "variable_assignments", "concatenation", "redirected_statement", "negated_command", "herestring_redirect"}
)  # fmt: skip
_WORDLIKE = frozenset(
    {"word", "string", "raw_string", "ansi_c_string", "concatenation", "number", "simple_expansion", "expansion",
     "command_substitution", "arithmetic_expansion", "process_substitution", "command_name"}
)  # fmt: skip
_BEGINNING = re.compile(rb"`|\$\(|\$\{|\$\[|[<>]\(|\$\"")
_GAP = re.compile(rb"(?:[ \t\n]|\\\n)*")
_CONTINUATION = re.compile(rb"(?<![ \t\n])\\\n")


class Audit:
    """One tree held against its source; `doubts` gives what does not hold."""

    def __init__(self, source: bytes, root: Node) -> None:
        self._source = source
        self._root = root
        self._leaves: list[tuple[int, int]] = []
        self._quiet: list[tuple[int, int]] = []
        self._texts: list[tuple[int, int]] = []
        self._begun: set[int] = set()

    def doubts(self) -> Iterator[str]:
        """Reasons not to believe the tree; few, and the first one is enough."""
        if self._root.has_error:
            yield UNREADABLE
            return
        if self._unlike_bash(self._root, inside=""):
            yield UNREADABLE
            return
        if not all(self._gaps_are_blank()):
            yield UNREADABLE
        elif any(not self._is_known(match) for match in _BEGINNING.finditer(self._source)):
            yield "it holds a substitution that cannot be read with certainty"
        elif any(not _within(self._quiet, m.start() + 1) for m in _CONTINUATION.finditer(self._source)):
            yield "it goes on after a line's end in the middle of a word"

    def _unlike_bash(self, node: Node, inside: str) -> bool:
        """Whether a node cannot be what bash would see there. Gathers what the other checks need on the way."""
        kind = node.type
        if node.child_count == 0:
            return self._odd_leaf(node, inside)
        if kind in {"string", "heredoc_body", "translated_string"}:
            self._texts.append((node.start_byte, node.end_byte))
        if kind == "heredoc_redirect" and not self._sound_heredoc(node):
            return True
        if kind in _ON_ONE_LINE and not self._on_one_line(node):
            return True
        if kind == "command_substitution" and (text := node.text or b"").lstrip()[:1] == b"`" and b"\\" in text:
            return True
        if kind == "expansion" or (kind == "command_substitution" and node.children[0].type == "`"):
            inside = kind
        elif kind in {"command_substitution", "process_substitution"}:
            inside = ""
        return any(self._unlike_bash(child, inside) for child in node.children)

    def _odd_leaf(self, node: Node, inside: str) -> bool:
        text = node.text or b""
        start, end = node.start_byte, node.end_byte
        if not node.is_named:
            token = text.strip()
            self._leaves.append((start, end))
            self._begun.add(end - len(token))
            return token.decode("utf-8", "replace") not in _TOKENS and token != b""
        allowed = _LEAVES.get(node.type)
        if allowed is None or not allowed.fullmatch(text):
            return True
        self._leaves.append((start, end))
        match node.type:
            case "raw_string" | "ansi_c_string":
                self._quiet.append((start, end))
                # Between double quotes a quote inside `${...}` quotes nothing.
                return inside == "expansion"
            case "comment":
                self._quiet.append((start, end))
                before = self._source[start - 1 : start] if start else b"\n"
                after = self._source[end : end + 1] or b"\n"
                return inside != "" or before not in b" \t\n;&|()" or after != b"\n"
            case "heredoc_body" | "heredoc_content":
                self._texts.append((start, end))
        return False

    def _gaps_are_blank(self) -> Iterator[bool]:
        at = 0
        for start, end in sorted(self._leaves):
            if start > at and not _within(self._texts, at) and not _within(self._texts, start - 1):
                yield _GAP.fullmatch(self._source, at, start) is not None
            at = max(at, end)
        yield _GAP.fullmatch(self._source, at) is not None

    def _is_known(self, match: re.Match[bytes]) -> bool:
        at = match.start()
        if _within(self._quiet, at) or (at in self._begun and match[0] != b'$"'):
            return True
        if match[0][:1] in b"<>" or (match[0] == b'$"' and _within(self._texts, at)):
            return _within(self._texts, at)
        before = self._source[:at]
        return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1

    def _on_one_line(self, node: Node) -> bool:
        """Whether the pieces of a command stand on one line, its words apart and the pieces of a word together."""
        previous: Node | None = None
        for child in node.children:
            if previous is not None:
                gap = self._source[previous.end_byte : child.start_byte]
                if b"\n" in gap.replace(b"\\\n", b""):
                    return False
                leading = (child.text or b"")[:1] in b" \t\n"
                if node.type == "concatenation" and (gap or leading):
                    return False
                together = not gap and not leading and node.type != "concatenation"
                if together and previous.type in _WORDLIKE and child.type in _WORDLIKE:
                    return False
            previous = child
        return True

    def _sound_heredoc(self, node: Node) -> bool:
        """Whether a here-document begins on the next line and ends at the first line that is its delimiter."""
        by_type = {child.type: child for child in node.children}
        begin, body, end = (by_type.get(f"heredoc_{part}") for part in ("start", "body", "end"))
        if begin is None or end is None or begin.start_byte > end.start_byte:
            return False
        delimiter = (begin.text or b"").strip(b"'\"")
        quoted = delimiter != begin.text
        first = self._source.find(b"\n", begin.end_byte) + 1
        rest = self._source[begin.end_byte : first]
        if not first or b"<<" in rest or b"\\" in rest or any(rest.count(q) % 2 for q in (b"'", b'"', b"`")):
            return False
        if rest.count(b"(") != rest.count(b")"):
            return False
        stripped = b"\t" if node.children[0].type == "<<-" or b"<<-" in (node.children[0].text or b"") else b""
        at = first
        while at <= len(self._source):
            stop = self._source.find(b"\n", at)
            line = self._source[at : stop if stop >= 0 else len(self._source)]
            if line.lstrip(stripped) == delimiter if stripped else line == delimiter:
                break
            if stop < 0:
                return False
            at = stop + 1
        # The grammar may count the blanks before the delimiter to it.
        found = self._source[end.start_byte : end.end_byte]
        if end.end_byte - len(found.lstrip()) != at + len(line) - len(line.lstrip()) or found.strip() != delimiter:
            return False
        if body is not None and (body.start_byte < first or body.end_byte > at + len(line)):
            return False
        region = (first, at)
        self._texts.append(region)
        if quoted:
            self._quiet.append(region)
            return body is None or all(child.type == "heredoc_content" for child in body.children)
        return b"\\\n" not in self._source[first:at]


def _within(ranges: list[tuple[int, int]], at: int) -> bool:
    """Whether a position lies in one of the ranges."""
    return any(start <= at < end for start, end in ranges)
