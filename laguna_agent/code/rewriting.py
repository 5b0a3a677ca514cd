"""Put the definitions of a block of code into a text, each in the place of its namesake.

For models that cannot point at a piece of text but can write a function out again. Nothing that the block does not
define is lost, and what it does beside defining (examples, tests, prints) is left out. It must not know files on disk
or tools; a ToolError's sentence is for the model.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import PurePath

import msgspec

from laguna_agent.code.imports import missing_imports
from laguna_agent.code.languages import language_of, utf8
from laguna_agent.code.moving import line_indent, moved, step_of, with_docstring
from laguna_agent.code.outline import CONTAINERS, Definition, Outline, outline
from laguna_agent.code.pairing import pairs, without_repeats
from laguna_agent.code.placing import Places
from laguna_agent.code.syntax import new_error
from laguna_agent.errors import ToolError

_BRACED = frozenset({"javascript", "typescript", "tsx", "java", "cpp"})
"""Languages whose methods stand only in classes: a bare one is read as if it stood in one."""
_FILE_PREFIX = frozenset({"javascript", "typescript", "tsx", "go"})
"""Languages where `export` and `type` belong to the file's way of declaring, not to the new code."""


class Change(msgspec.Struct, frozen=True):
    """Bytes [start, end) of the text's UTF-8 give way to `new`."""

    start: int
    end: int
    new: str


class Rewriting(msgspec.Struct, frozen=True):
    """Changes in order and apart from each other; `done` says in words what they do."""

    changes: list[Change]
    done: list[str]

    def apply(self, text: str) -> str:
        """The text with the changes made."""
        data, at = utf8(text), 0
        parts: list[bytes] = []
        for change in self.changes:
            parts += (data[at : change.start], utf8(change.new))
            at = change.end
        return b"".join([*parts, data[at:]]).decode("utf-8", "surrogatepass")


def rewriting(path: str, text: str, code: str) -> Rewriting:
    """The changes that bring the definitions of `code` into `text`, the content of `path`.

    ToolError, one sentence, when the code has a syntax error, defines nothing, could belong to several places, or
    changes nothing.
    """
    file = outline(path, utf8(text))
    if file is None:
        raise ToolError(f"Definitions cannot be told apart in {path}; give the whole new content of the file.")
    return _Rewriter(path, file, _block(path, code, file)).result()


def _block(path: str, code: str, file: Outline) -> Outline:
    code = code.replace("\r\n", "\n").strip("\n") + "\n"
    if code[0] in " \t":
        # Only then, as it also empties lines of blanks, which may be a docstring's.
        code = textwrap.dedent(code)
    plain = outline(path, utf8(code))
    problem = new_error(path, None, code)
    if plain is not None and problem is None and (plain.definitions or _sets_a_constant(plain, file)):
        return plain
    if language_of(path) in _BRACED:
        wrapped = f"class __ {{\n{code}}}" + (";" if language_of(path) == "cpp" else "")
        inside = outline(path, utf8(wrapped))
        whole = inside is not None and len(inside.definitions) == 1 and new_error(path, None, wrapped) is None
        if inside is not None and whole and inside.definitions[0].members:
            return _unwrapped(inside)
    if problem is not None:
        raise ToolError(
            f"The code has a syntax error in line {problem.line} ({problem.text}); give the complete corrected code."
        )
    raise ToolError("The code defines nothing; give the complete definition of each function that changes.")


def _sets_a_constant(block: Outline, file: Outline) -> bool:
    return bool({each.name for each in block.constants} & {each.name for each in file.constants})


def _unwrapped(inside: Outline) -> Outline:
    members = inside.definitions[0].members
    for each in Outline(inside.data, inside.root, members).every():
        each.name = each.name.removeprefix("__.")
    for each in members:
        each.owner = None
    return Outline(inside.data, inside.root, members)


class _Rewriter:
    def __init__(self, path: str, file: Outline, block: Outline) -> None:
        self.path, self.file, self.block = path, file, block
        self.language = language_of(path) or ""
        self.file_step = step_of(file)
        self.block_step = step_of(block)
        self.places = Places(self.language, file)
        self.changes: list[Change] = []
        self.done: list[str] = []
        self.same: list[str] = []
        self.pending: list[Definition] = []
        self.homes: set[str] = set()
        self.reached = 0
        self.words: set[str] = set()

    def result(self) -> Rewriting:
        for new in without_repeats(self.language, self.block, self.block.definitions):
            self._definition(new)
        self._add(self.pending, self.places.last(self.reached))
        self._constants(self.block.constants, self.file.constants, None)
        self._imports()
        if not self.changes:
            same = f" ({', '.join(self.same)})" if self.same else ""
            raise ToolError(f"The code is the same as in the file{same}; change what is wrong in it.")
        ordered = sorted(self.changes, key=lambda each: (each.start, each.end))
        apart = [each for each in ordered if not any(_within(each, other) for other in ordered)]
        return Rewriting(apart, self.done)

    # -- where a definition belongs ---------------------------------------------------------------------------------

    def _definition(self, new: Definition) -> None:
        olds = self._namesakes(new)
        if not olds:
            home = self._home(new)
            if home is not None:
                self._add_members(home, [new])
            elif not self._is_example(new):
                self.pending.append(new)
            return
        group = [each for each in self.block.definitions if each.name == new.name]
        old = next((old for mine, old in pairs(self.block, group, self.file, olds) if mine is new), None)
        if old is None:
            self.pending.append(new)
            return
        self._add(self.pending, self.places.before(old))
        self.pending = []
        self.reached = max(self.reached, old.end)
        if old.owner is not None and old.name != new.name:
            self.homes.add(old.owner.name)
        self._put(new, old)

    def _namesakes(self, new: Definition) -> list[Definition]:
        alike = [
            each
            for each in self.file.every()
            if _alike(each, new) and (each.name == new.name or each.name.endswith(f".{new.name}"))
        ]
        exact = [each for each in alike if each.name == new.name]
        if self.language == "python" and new.kind == "function":
            takes_self = _takes_self(new)
            methods = [each for each in alike if each.kind == "method" and _takes_self(each) == takes_self]
            alike = (exact or methods) if not takes_self else (methods or exact)
            if not alike and not takes_self:
                mine = {each.name for each in self.block.definitions}
                alike = [
                    each for each in self.file.every() if _is_nested(each, new) and each.name.split(".")[0] not in mine
                ]
        elif exact:
            alike = exact
        owners = list(dict.fromkeys(each.name for each in alike))
        if len(owners) > 1:
            raise ToolError(f"Write {new.name} inside of its class, as there are {' and '.join(owners)}.")
        return alike

    def _home(self, new: Definition) -> Definition | None:
        """The only class of the file, for a new method that stands outside of any."""
        bare = new.node.type == "method_definition" or (self.language == "java" and new.kind == "function")
        bare = bare or (self.language == "python" and new.kind == "function" and _takes_self(new))
        beside = self.language == "ruby" and len(self.homes) == 1
        if not bare and not beside:
            return None
        classes = [each for each in self.file.every() if each.kind == "class"]
        # Where the block's other methods went is where this one belongs.
        classes = [each for each in classes if each.name in self.homes] or classes
        if len(classes) == 1:
            return classes[0]
        raise ToolError(f"Write {new.name} inside of its class; no class of the file has a method of that name.")

    def _is_example(self, new: Definition) -> bool:
        """A test or a main program that the block brings along to show the rest at work."""
        if all(_shows(each, self.language) for each in self.block.definitions):
            return False
        return _shows(new, self.language) and not re.search(
            r"(^|[_.])(test|spec)|(test|Test|spec)\.", self._file_name()
        )

    def _file_name(self) -> str:
        return PurePath(self.path).name

    # -- what is done with it ---------------------------------------------------------------------------------------

    def _put(self, new: Definition, old: Definition) -> None:
        fields = {each.name for each in old.constants} - {each.name for each in new.constants}
        whole = not (old.members or new.members or fields) and old.kind not in ("impl", "namespace", "module")
        if old.kind in CONTAINERS and not whole:
            self._merge(new, old)
        else:
            self._replace(new, old)

    def _merge(self, new: Definition, old: Definition) -> None:
        """Member by member: a class that is written again in part keeps the rest."""
        lacking: list[Definition] = []
        for name in dict.fromkeys((each.last_name, _function_like(each)) for each in new.members):
            mine = [each for each in new.members if (each.last_name, _function_like(each)) == name]
            olds = [each for each in old.members if (each.last_name, _function_like(each)) == name]
            mine = without_repeats(self.language, self.block, mine) if olds else mine
            paired = pairs(self.block, mine, self.file, olds)
            for one, other in paired:
                self._put(one, other)
            lacking += [each for each in mine if all(each is not one for one, _ in paired)]
        self._add_members(old, lacking)
        self._constants(new.constants, old.constants, old)
        if {each.last_name for each in old.members} <= {each.last_name for each in new.members}:
            self._heritage(new, old)

    def _replace(self, new: Definition, old: Definition) -> None:
        if _is_stub(new, self.block) and not _is_stub(old, self.file):
            # A body of `...` stands for "as it was".
            return
        start, first = self._beginnings(new, old)
        assigned = old.value if old.node.type == "expression_statement" != new.node.type else None
        if assigned is not None:
            start, first = assigned.start_byte, new.head if new.value is None else new.value.start_byte
        steps = (self.block_step, self.file_step)
        text = moved(self.block, first, new, line_indent(self.file.data, start), steps)
        if assigned is not None and self.file.data[: old.end].endswith(b";") and not text.endswith(";"):
            text += ";"
        if self.language == "python":
            text = with_docstring(text, self.block, first, new, self.file, old)
        if old.node.type == "method_definition":
            text = re.sub(r"^(async\s+)?function\b\s*", lambda found: found[1] or "", text)
        self._change(start, old.end, text, old.name)
        self.words |= _words(text)

    def _beginnings(self, new: Definition, old: Definition) -> tuple[int, int]:
        """Where the old text and the new begin: after decorators, visibility and `export` where the file's stay."""
        mine, theirs = self.block.text(new.start, new.head), self.file.text(old.start, old.head)
        keeps = not mine or (theirs and self.language in _FILE_PREFIX) or (_marked(theirs) and not _marked(mine))
        if not keeps:
            return old.start, new.start
        return old.head, new.head

    def _heritage(self, new: Definition, old: Definition) -> None:
        """Base classes, where the new code names others; a class given in part may well leave them out."""
        mine, theirs = (each.node.child_by_field_name("superclasses") for each in (new, old))
        if mine is None:
            return
        text = self.block.text(mine.start_byte, mine.end_byte)
        if theirs is not None:
            self._change(theirs.start_byte, theirs.end_byte, text, old.name)
        elif (name := old.node.child_by_field_name("name")) is not None:
            self._change(name.end_byte, name.end_byte, text, old.name)

    def _change(self, start: int, end: int, text: str, name: str) -> None:
        if self.file.text(start, end) == text:
            self.same.append(name)
            return
        self.changes.append(Change(start, end, text))
        self.done.append(f"rewrote {name}")

    # -- what is new ------------------------------------------------------------------------------------------------

    def _add(self, news: list[Definition], at: int) -> None:
        for new in news:
            start = self.places.with_comments(self.block, new)
            text = moved(self.block, start, new, "", (self.block_step, self.file_step)) + _semicolon(self.block, new)
            self.changes.append(self._inserted(at, text))
            self.done.append(f"added {new.name}")
            self.words |= _words(text)

    def _inserted(self, at: int, text: str) -> Change:
        return Change(at, at, self.places.spaced(at, text))

    def _add_members(self, owner: Definition, news: list[Definition]) -> None:
        if not news:
            return
        start, end, before, after, indent = self.places.inside(owner, self._step())
        texts = []
        for new in news:
            first = self.places.with_comments(self.block, new)
            text = moved(self.block, first, new, indent, (self.block_step, self.file_step))
            texts.append(text + _semicolon(self.block, new))
            self.done.append(f"added {owner.name}.{new.last_name}")
            self.words |= _words(text)
        # What takes the place of `pass` stands behind its indentation already.
        opening = before if not before or (indent and before.endswith(indent)) else before + indent
        self.changes.append(Change(start, end, opening + f"\n\n{indent}".join(texts) + after))

    def _step(self) -> str:
        return self.file_step or self.block_step or "    "

    def _constants(self, news: list[Definition], olds: list[Definition], owner: Definition | None) -> None:
        there = {each.last_name: each for each in olds}
        for new in {each.last_name: each for each in news}.values():
            text = self.block.text(new.start, new.end)
            old = there.get(new.last_name)
            if owner is None and not self._matters(new, old):
                continue
            if old is not None:
                start, first = self._beginnings(new, old)
                self._change(start, old.end, self.block.text(first, new.end), old.name)
            elif owner is None:
                late = _words(text) & {each.name for each in (*self.file.definitions, *self.block.definitions)}
                at = self.places.last(self.reached) if late else self.places.after_constants()
                self.changes.append(Change(at, at, self.places.constant(at, text)))
                self.done.append(f"added {new.name}")
            else:
                at, line = self.places.constant_inside(owner, text + _semicolon(self.block, new), self._step())
                self.changes.append(Change(at, at, line))
                self.done.append(f"added {owner.name}.{new.last_name}")
            self.words |= _words(text)

    def _matters(self, new: Definition, old: Definition | None) -> bool:
        """Whether an assignment at the top of the block is more than part of an example of use."""
        name = new.name
        if not self.block.definitions or (old is not None and name.isupper()):
            return old is not None
        if name not in self.words or (old is None and name in self._bound()):
            return False
        if name.isupper():
            return True
        code = "\n".join(self.block.text(each.start, each.end) for each in self.block.definitions)
        local = rf"\b{name}\s*(?::[^=\n]+)?=(?!=)|\b(?:for|as)\s[^:\n]*\b{name}\b"
        parameters = " ".join(each.parameters for each in self.block.every())
        return re.search(local, code) is None and name not in _words(parameters)

    def _bound(self) -> set[str]:
        return {each.name for each in (*self.file.definitions, *self.file.constants)}

    def _imports(self) -> None:
        found = missing_imports(self.path, self.language, self.file, self.block, self.words)
        future = [each for each in found if each.startswith("from __future__")]
        ordinary = [each for each in found if each not in future]
        for statements, (at, before, after) in ((future, self.places.first()), (ordinary, self.places.imports())):
            if statements:
                lines = "\n".join(map(self.places.import_line, statements))
                self.changes.append(Change(at, at, before + lines + after))
                self.done += [f"added {statement}" for statement in statements]


def _within(change: Change, other: Change) -> bool:
    return other.start < change.start < other.end


def _alike(one: Definition, other: Definition) -> bool:
    if "impl" in (one.kind, other.kind):
        return one.kind == other.kind
    return _function_like(one) == _function_like(other)


def _function_like(definition: Definition) -> bool:
    return definition.kind in ("function", "method", "macro")


def _takes_self(definition: Definition) -> bool:
    return re.match(r"\((self|cls)\b", definition.parameters) is not None


def _is_nested(old: Definition, new: Definition) -> bool:
    return old.kind == "function" and old.owner is not None and old.last_name == new.name


def _marked(prefix: str) -> bool:
    return "@" in prefix or "#[" in prefix


def _shows(definition: Definition, language: str) -> bool:
    name = definition.name
    if name == "main" and definition.kind == "function":
        return language != "python"
    return name.startswith(("test_", "Test")) or name == "tests"


def _is_stub(definition: Definition, source: Outline) -> bool:
    body = definition.body
    if body is None:
        return False
    text = re.sub(r"(?m)(#|//).*$", "", source.text(body.start_byte, body.end_byte))
    return re.sub(r'(?s)^\s*("""|\'\'\').*?\1', "", text).strip(" \t\n{};") in ("...", "pass")


def _semicolon(source: Outline, definition: Definition) -> str:
    return ";" if source.data[definition.end :].lstrip()[:1] == b";" else ""


def _words(text: str) -> set[str]:
    return set(re.findall(r"[\w$]+", text))
