"""Code blocks in an answer: what a small model writes instead of calling tools.

Pure text processing: which blocks an answer holds, which file each names. It knows no file system.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection

import msgspec

_FENCE = re.compile(r"^(?P<indent> {0,3})(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$")
_PATH = re.compile(r"(?<![\w./-])((?:[\w.-]+/)*[\w-]+\.[A-Za-z][A-Za-z0-9]{0,4})(?![\w/-])")
_COMMENT = re.compile(
    r"^\s*(?:#|//|--|/\*|<!--)\s*(?:File(?:name)?:\s*)?`?(?P<path>[\w./-]+\.\w{1,5})`?\s*(?:\*/|-->)?\s*$"
)
_DEFINITION = re.compile(
    r"^[ \t]*(?:async[ \t]+|export[ \t]+|default[ \t]+|pub(?:\([a-z]+\))?[ \t]+|static[ \t]+)*"
    r"(?:def|class|function|func|fn|struct|impl|interface|enum|trait)[ \t]+(?:\([^)]*\)[ \t]*)?(?P<name>[A-Za-z_]\w*)",
    re.MULTILINE,
)


class CodeBlock(msgspec.Struct, frozen=True):
    """One fenced block: info string, text (with a final newline), the lines before it, whether it closed."""

    info: str
    code: str
    before: str
    closed: bool

    def names(self) -> tuple[str, ...]:
        """The names that the block defines, in order, as far as the text tells without a grammar."""
        return tuple(dict.fromkeys(match["name"] for match in _DEFINITION.finditer(self.code)))

    def path(self, known: Collection[str]) -> str | None:
        """The file that the block says it is: in its info string, its first line or the words right before it.

        `known` paths may be named by their last part; another path counts only where it is all that is said.
        """
        first, _, _ = self.code.partition("\n")
        said = [match["path"]] if (match := _COMMENT.match(first)) else []
        said += [
            found[1]
            for found in _PATH.finditer(f"{self.info.partition(' ')[2]} {self.info if '.' in self.info else ''}")
        ]
        near = self.before.rstrip().rsplit("\n", 1)[-1]
        said += [found[1] for found in reversed(list(_PATH.finditer(near)))]
        paths = list(known)
        for name in said:
            for path in paths:
                if path == name or path.endswith("/" + name) or name.endswith("/" + path):
                    return path
        bare = re.sub(r"^[\s#*_`-]*(?:File(?:name)?:)?\s*|[\s`*_:]*$", "", near)
        return next((name for name in said if name == bare or (match and name == match["path"])), None)

    def by_file(self, known: Collection[str]) -> list[CodeBlock]:
        """The block cut at lines that name a known file in a comment: models put several files into one block."""
        paths = set(known)
        lines = re.findall(r"[^\n]*\n", self.code)
        heads = [
            index
            for index, line in enumerate(lines)
            if (match := _COMMENT.match(line))
            and any(p == match["path"] or p.endswith("/" + match["path"]) for p in paths)
        ]
        if len(heads) < 2:
            return [self]
        bounds = [*heads, len(lines)]
        lead = "".join(lines[: heads[0]])
        parts = ["".join(lines[start:end]) for start, end in itertools.pairwise(bounds)]
        pieces = [lead, *parts] if lead.strip() else parts
        return [msgspec.structs.replace(self, code=piece.strip("\n") + "\n") for piece in pieces]


def code_blocks(text: str, *, complete: bool) -> list[CodeBlock]:
    """The fenced blocks of an answer, in order. A last block whose fence is open counts as closed only where the
    answer is `complete` (a stop sequence may have taken the fence), never where it was cut off."""
    blocks: list[CodeBlock] = []
    before: list[str] = []
    code: list[str] | None = None
    opening: re.Match[str] | None = None
    for line in text.replace("\r\n", "\n").split("\n"):
        fence = _FENCE.match(line)
        if code is None or opening is None:
            if fence:
                opening, code = fence, []
            else:
                before.append(line)
        elif fence and not fence["info"].strip() and fence["marks"].startswith(opening["marks"]):
            blocks.append(_block(opening, code, before, closed=True))
            before, code = [], None
        else:
            code.append(line)
    if code is not None and opening is not None and any(line.strip() for line in code):
        blocks.append(_block(opening, code, before, closed=complete))
    return blocks


def _block(opening: re.Match[str], code: list[str], before: list[str], *, closed: bool) -> CodeBlock:
    return CodeBlock(opening["info"].strip(), "\n".join(code).rstrip() + "\n", "\n".join(before[-3:]), closed)
