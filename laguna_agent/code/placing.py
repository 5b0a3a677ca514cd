"""Where something new goes in a file, and the blank lines around it.

Knows a file's outline; it must not know what is put there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from laguna_agent.code.moving import line_indent
from laguna_agent.code.outline import Definition, Outline

if TYPE_CHECKING:
    from tree_sitter import Node

_COMMENTS = {"python": ("#",), "ruby": ("#",), "bash": ("#",)}
_HEADERS = frozenset({"hash_bang_line", "package_clause", "package_declaration", "inner_attribute_item"})
_RUNNING = frozenset(f"{kind}_statement" for kind in ("expression", "if", "for", "while", "with", "try")) | {
    "assignment",
    "call",
}
"""Statements of Python and Ruby that run while the file is loaded."""
_GUARD = re.compile(rb"(?m)^if\s+__name__\s*==|^if __FILE__ == ")


class Places:
    """Offsets in one file; each is given with the text that must stand before and after what is put there."""

    def __init__(self, language: str, file: Outline) -> None:
        self.language = language
        self.file = file
        self.data = file.data
        self.gap = "\n\n\n" if language == "python" else "\n\n"

    # -- the top level ----------------------------------------------------------------------------------------------

    def last(self, reached: int = 0) -> int:
        """Behind the last definition, but before what runs when the file is a program; `reached` is the end of the last
        one that needs what is put there."""
        found = _GUARD.search(self.data)
        guard = found.start() if found else len(self.data)
        tops = [each for each in self.file.definitions if each.start < guard and each.kind != "module"]
        if not tops:
            return guard if found else len(self.data.rstrip())
        if tops[-1].name == "main" and self.language in ("c", "cpp"):
            return self.with_comments(self.file, tops[-1])
        run = [node.start_byte for node in self.file.root.named_children if _runs(node)]
        if self.language in ("python", "ruby") and reached and any(reached <= at < tops[-1].start for at in run):
            # A statement between the definitions may call the ones above it while the file is loaded.
            tops = [each for each in tops if each.start < reached]
        return self._line_end(tops[-1].end)

    def before(self, definition: Definition) -> int:
        """Before the top-level definition that `definition` lies in, and the comments above it."""
        while definition.owner is not None:
            definition = definition.owner
        return self.with_comments(self.file, definition)

    def with_comments(self, source: Outline, definition: Definition) -> int:
        """The beginning of a definition with the comments right above it."""
        marks = _COMMENTS.get(self.language, ("//", "/*", "*"))
        at = definition.start
        line = source.data.rfind(b"\n", 0, at) + 1
        if source.text(line, at).strip():
            return at
        while line > 0:
            above = source.data.rfind(b"\n", 0, line - 1) + 1
            text = source.text(above, line)
            if not text.strip().startswith(marks) or (above == 0 and text.startswith("#!")):
                break
            line, at = above, above + len(text) - len(text.lstrip())
        return at

    def spaced(self, at: int, text: str) -> str:
        """A top-level definition with the blank lines that it needs at an offset."""
        before, after = self.data[:at], self.data[at:]
        if not before.strip() and not after.strip():
            return text + "\n"
        if before.endswith(b"\n") or not before:
            return text + self.gap
        if not after:
            return self.gap + text + "\n"
        return self.gap + text

    def after_constants(self) -> int:
        """Behind the constants above the first definition, else behind the imports."""
        first = self.file.definitions[0].start if self.file.definitions else len(self.data)
        above = [each for each in self.file.constants if each.end <= first]
        return self._line_end(above[-1].end) if above else self.imports()[0]

    def constant(self, at: int, text: str) -> str:
        """A top-level assignment with the line ends that it needs at an offset."""
        if any(self._line_end(each.end) == at for each in self.file.constants):
            return "\n" + text
        if at == 0:
            return text + (self.gap if self.data.strip() else "\n")
        if self.data[:at].endswith(b"\n"):
            return text + self.gap
        return "\n\n" + text + ("" if self.data[at:].startswith(b"\n\n") else "\n")

    def imports(self) -> tuple[int, str, str]:
        """Where imports go, and what must stand before and after them."""
        first = self.file.definitions[0].start if self.file.definitions else len(self.data)
        above = [node for node in self.file.imports if node.end_byte <= first]
        if above:
            top = above[-1]
            while (parent := top.parent) is not None and parent.parent is not None:
                if parent.type.startswith("preproc") or parent.type == "import_spec_list":
                    break
                top = parent
            return len(self.data[: top.end_byte].rstrip()), "\n", ""
        return self._header()

    def first(self) -> tuple[int, str, str]:
        """Where an import goes that must be the first."""
        if self.file.imports and self.file.imports[0].parent == self.file.root:
            return self.file.imports[0].start_byte, "", "\n"
        return self._header()

    def import_line(self, statement: str) -> str:
        """An import as it is written at the place that `imports` gives."""
        if self.language != "go":
            return statement
        listed = [
            node for node in self.file.imports if node.parent is not None and node.parent.type == "import_spec_list"
        ]
        if listed and self.file.imports[-1] in listed:
            return "\t" + statement
        return f"import {statement}"

    def _header(self) -> tuple[int, str, str]:
        """Behind the comment, docstring or package clause that a file begins with."""
        at = 0
        children = self.file.root.children
        for index, node in enumerate(children):
            if not _is_header(node):
                break
            follower = children[index + 1] if index + 1 < len(children) else None
            leads = "comment" in node.type and follower is not None and "comment" not in follower.type
            if leads and follower is not None and follower.start_point.row == node.end_point.row + 1 and at == 0:
                shebang = self.data[node.start_byte : node.end_byte].startswith((b"#!", b"# -*-"))
                if not shebang and not _is_header(follower):
                    break
            at = len(self.data[: node.end_byte].rstrip())
        if at == 0:
            return 0, "", "\n" if self.data[:1] in (b"\n", b"") else self.gap
        return at, "\n\n", "" if self.data[at : at + 2] in (b"\n\n", b"\n", b"") else "\n"

    # -- inside of a class ------------------------------------------------------------------------------------------

    def inside(self, owner: Definition, step: str) -> tuple[int, int, str, str, str]:
        """What new members replace (start and end), what must stand before and after them, and their indentation."""
        if owner.members:
            at = self._line_end(owner.members[-1].end)
            return at, at, self._between(owner.members), "", line_indent(self.data, owner.members[-1].start)
        outer = line_indent(self.data, owner.start)
        body = owner.body
        if body is None:
            at = self._line_end(max((child.end_byte for child in owner.node.named_children), default=owner.end))
            return at, at, "\n", "", outer + step
        if self.language in ("python", "ruby"):
            own_line = self.data[: body.start_byte].rstrip(b" \t").endswith(b"\n")
            indent = line_indent(self.data, body.start_byte) if own_line else outer + step
            if body.named_child_count == 1 and self.data[body.start_byte : body.end_byte].strip() in (b"pass", b"..."):
                return body.start_byte, body.end_byte, "" if own_line else "\n" + indent, "", indent
            return body.end_byte, body.end_byte, "\n\n", "", indent
        if body.named_child_count:
            at = self._line_end(body.named_children[-1].end_byte)
            return at, at, "\n\n", "", line_indent(self.data, body.named_children[-1].start_byte)
        # A broken file may lack the closing brace.
        end = max(body.start_byte + 1, body.end_byte - 1)
        return body.start_byte + 1, end, "\n", f"\n{outer}", outer + step

    def constant_inside(self, owner: Definition, text: str, step: str) -> tuple[int, str]:
        """Where a new assignment of a class goes, and its text there."""
        if owner.constants:
            last = owner.constants[-1]
            return self._line_end(last.end), f"\n{line_indent(self.data, last.start)}{text}"
        if owner.members:
            at = self.with_comments(self.file, owner.members[0])
            return at, f"{text}\n\n{line_indent(self.data, at)}"
        at, _, before, _, indent = self.inside(owner, step)
        return at, f"{before}{indent}{text}"

    def _between(self, members: list[Definition]) -> str:
        """The line ends between members: no blank line only where the last two have none."""
        if len(members) > 1 and self.data.count(b"\n", members[-2].end, members[-1].start) == 1:
            return "\n"
        return "\n\n"

    def _line_end(self, at: int) -> int:
        """The end of the line of an offset, where only a semicolon and a comment are left of it."""
        rest = re.match(rb"[ \t]*[;,]?[ \t]*((#|//)[^\n]*)?(?=\n|\Z)", self.data[at:])
        if rest:
            return at + len(rest[0].rstrip())
        semicolon = re.match(rb"[ \t]*;", self.data[at:])
        return at + (semicolon.end() if semicolon else 0)


def _runs(node: Node) -> bool:
    return node.type in _RUNNING


def _is_header(node: Node) -> bool:
    if "comment" in node.type or node.type in _HEADERS:
        return True
    return node.type == "expression_statement" and [each.type for each in node.named_children] == ["string"]
