"""What a bash command line would run: its simple commands, wherever they stand, and what of it is not certain.

Knows bash's syntax by tree-sitter's grammar, and by `shell_wrappers` which commands run others; must not know rules or
permissions. Whatever bash would run is among the parts, or there is a reason in `unclear`: a property test holds this
against bash itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from laguna_agent.code.languages import parser, utf8
from laguna_agent.code.shell_audit import Audit
from laguna_agent.code.shell_names import assignment, sets_much
from laguna_agent.code.shell_words import WORD_NODES, Word, strange_characters, text_of, word_of
from laguna_agent.code.shell_wrappers import unwrap

if TYPE_CHECKING:
    from tree_sitter import Node

PARTS_CAP = 50
CHARACTERS_CAP = 10_000
DEPTH_CAP = 6
"""How deep commands may stand in the text that other commands are given."""
REASONS_CAP, REASON_LENGTH = 8, 160
"""As much as a person reads."""
TOO_LONG = f"it has more than {CHARACTERS_CAP:,} characters"
TOO_DEEP = "it is nested too deep"
TOO_MANY = f"it has more than {PARTS_CAP} parts"


class Part(msgspec.Struct, frozen=True):
    """One simple command, or redirections that stand alone (then `words` is empty).

    `words` are what the program gets; those numbered in `vague` are source text that may become any number of words.
    `text` is the source. `writes` and `reads` are the files of redirections, `sets` the variables set for it alone.
    `through` is a wrapper that does nothing but run other parts.
    """

    words: tuple[str, ...]
    text: str
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    vague: frozenset[int] = frozenset()
    through: bool = False


class Parsed(msgspec.Struct, frozen=True):
    """`unclear` says in words why more may happen than `parts` tells; `too_long` that a limit was passed."""

    parts: tuple[Part, ...]
    unclear: tuple[str, ...] = ()
    too_long: bool = False


class _Redirections(msgspec.Struct):
    """What the redirections of one command give: files, and words that belong to the command."""

    writes: list[str] = []
    reads: list[str] = []
    words: list[Word] = []


def parts(command: str) -> Parsed:
    """What `command`, run by `bash -c`, would run. Takes a few milliseconds at most."""
    if len(command) > CHARACTERS_CAP:
        return Parsed((), (TOO_LONG,), too_long=True)
    reader = _Reader()
    try:
        reader.read(command)
    except RecursionError:
        return Parsed((), (TOO_DEEP,), too_long=True)
    unclear = tuple(reader.unclear)
    return Parsed(tuple(reader.parts[:PARTS_CAP]), unclear, too_long=not {TOO_MANY, TOO_DEEP}.isdisjoint(unclear))


_CONTAINERS = frozenset(
    {
        "program", "list", "pipeline", "subshell", "compound_statement", "do_group", "if_statement", "elif_clause",
        "else_clause", "while_statement", "case_statement", "case_item", "negated_command", "command_substitution",
        "process_substitution", "string", "concatenation", "array", "heredoc_body", "variable_assignments",
        "command_name", "parenthesized_expression", "translated_string", "ternary_expression",
    }
)  # fmt: skip
_COMPUTING = frozenset({"arithmetic_expansion", "c_style_for_statement", "subscript"})
_EXPRESSIONS = frozenset({"binary_expression", "unary_expression", "postfix_expression"})
_WRITES = frozenset({">", ">>", ">|", "&>", "&>>", "<>", ">&"})
_PLAIN_NAME = re.compile(r"[\w./][\w./-]*")
_EXPANDING = frozenset(
    {"${", "}", ":-", "-", ":=", "=", ":?", "?", ":+", "+", "#", "##", "%", "%%", "/", "//", "/#", "/%", "^", "^^", ",",
     ",,"}
)  # fmt: skip
_ARITHMETIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-v", "-R"})


class _Reader:
    """Gathers parts and doubts from one command line and the command lines within it."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.unclear: dict[str, None] = {}
        self._depth = 0

    def doubt(self, *reasons: str) -> None:
        """More may happen than the parts tell."""
        for reason in reasons:
            if len(self.unclear) < REASONS_CAP or reason in {TOO_MANY, TOO_DEEP}:
                self.unclear[reason if len(reason) <= REASON_LENGTH else f"{reason[:REASON_LENGTH]}…"] = None

    def read(self, text: str) -> None:
        """Gather from `text`, a command line of its own."""
        if self._depth >= DEPTH_CAP:
            self.doubt(TOO_DEEP)
            return
        if odd := strange_characters(text):
            self.doubt(*odd)
        source = utf8(text)
        root = parser("bash").parse(source).root_node
        self.doubt(*Audit(source, root).doubts())
        self._depth += 1
        self._visit(root)
        self._depth -= 1

    def _add(self, part: Part) -> None:
        if not (part.words or part.writes or part.reads):
            return
        if len(self.parts) >= PARTS_CAP:
            self.doubt(TOO_MANY)
        else:
            self.parts.append(part)

    # -- the tree ---------------------------------------------------------------------------------------------------

    def _visit(self, node: Node) -> None:
        kind = node.type
        match kind:
            case "command":
                self._command(node, _Redirections())
                return
            case "redirected_statement":
                self._redirected(node)
                return
            case "file_redirect" | "heredoc_redirect" | "herestring_redirect":
                self._stray(node)
                return
            case "declaration_command" | "unset_command":
                self._declared(node)
            case "variable_assignment":
                self._assigned(node)
            case "for_statement":
                self._loop(node)
            case "test_command":
                self._tested(node)
            case "expansion":
                self._expanded(node)
            case _ if kind in _COMPUTING:
                self._computed(node)
            case _ if node.is_named and node.child_count and kind not in _KNOWN | {"ERROR"}:
                self.doubt(f"it holds what is not read here: {kind.replace('_', ' ')}")
        if kind == "compound_statement" and node.children[0].type == "((":
            self._computed(node)
        self._visit_all(node.children)

    def _visit_all(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._visit(node)

    def _stray(self, node: Node) -> None:
        """Redirections that no command of the tree has."""
        found = _Redirections()
        self._redirections(node, found)
        if found.words:
            self.doubt("its redirections cannot be told from words")
        self._add(Part((), text_of(node), tuple(found.writes), tuple(found.reads)))

    def _redirected(self, node: Node) -> None:
        body = node.child_by_field_name("body")
        found = _Redirections()
        for child in node.children:
            if child != body:
                self._redirections(child, found)
        if body is not None and body.type == "command":
            self._command(body, found, text=_upto(node))
            return
        if body is not None:
            if found.words:
                self.doubt("its redirections cannot be told from words")
            self._visit(body)
        elif found.words:
            self._run(found.words, text_of(node), found, [])
            return
        self._add(Part((), _upto(node), tuple(found.writes), tuple(found.reads)))

    def _redirections(self, node: Node, found: _Redirections) -> None:
        """Gather from a redirection; what a here-document's line holds besides is visited."""
        if node.type == "file_redirect":
            self._redirection(node, found)
            return
        if node.type not in {"heredoc_redirect", "herestring_redirect"}:
            self._visit(node)
            return
        for child in node.children:
            if child.type in {"file_redirect", "herestring_redirect", "heredoc_redirect"}:
                self._redirections(child, found)
            elif child.type in WORD_NODES:
                self._visit(child)
                if node.type == "heredoc_redirect":
                    found.words.append(word_of(child))
            else:
                self._visit(child)

    def _redirection(self, node: Node, found: _Redirections) -> None:
        operator = next((text_of(child).strip() for child in node.children if not child.is_named), "")
        targets = [child for child in node.children if child.type in WORD_NODES]
        for number, child in enumerate(targets):
            self._visit(child)
            word = word_of(child)
            if number:
                # bash takes one word for the file; the grammar takes all that follow.
                found.words.append(word)
            elif operator in {">&", "<&"} and not word.vague and word.text.rstrip("-").isdigit():
                continue
            else:
                if operator in _WRITES or operator == "<&":
                    found.writes.append(word.text)
                if operator in {"<", "<>", "<&"}:
                    found.reads.append(word.text)
                # bash expands the word after `>&` twice, so quotes do not protect what they hold.
                if word.vague or (operator in {">&", "<&"} and not _PLAIN_NAME.fullmatch(word.text)):
                    self.doubt(f"the file of a redirection is not certain: {word.text}")

    # -- commands ---------------------------------------------------------------------------------------------------

    def _command(self, node: Node, found: _Redirections, text: str | None = None) -> None:
        words: list[Word] = []
        sets: list[str] = []
        for child in node.children:
            self._visit_within(child, found)
            if child.type == "variable_assignment":
                sets.append(_variable(child))
            elif child.type == "command_name":
                words.append(word_of(child.children[0]) if child.child_count else Word(text_of(child)))
            elif child.type in WORD_NODES:
                words.append(word_of(child))
            elif not child.is_named and text_of(child).strip() in {"=~", "==", "$", "=", "!="}:
                words.append(Word(text_of(child).strip()))
            elif child.type not in {"file_redirect", "herestring_redirect", "comment"}:
                self.doubt(f"it holds what is not read here: {child.type.replace('_', ' ')}")
        self._run([*words, *found.words], text or text_of(node), found, sets)

    def _visit_within(self, child: Node, found: _Redirections) -> None:
        if child.type in {"file_redirect", "herestring_redirect", "heredoc_redirect"}:
            self._redirections(child, found)
        else:
            self._visit(child)

    def _run(self, words: list[Word], text: str, found: _Redirections, sets: list[str]) -> None:
        """A simple command of these words, and what it runs in its turn."""
        if not words:
            self._add(Part((), text, tuple(found.writes), tuple(found.reads)))
            return
        if assignment(words[0]) and not words[0].quoted and "=" in words[0].text:
            self.doubt(f"{words[0].text} may be a program or a variable")
        self._check_variables(sets)
        unwrapped = unwrap(tuple(words))
        self.doubt(*unwrapped.reasons)
        self._check_variables(unwrapped.sets)
        self._add(
            Part(
                tuple(word.text for word in words),
                text,
                tuple(found.writes),
                tuple(found.reads),
                (*sets, *unwrapped.sets),
                frozenset(at for at, word in enumerate(words) if word.vague),
                unwrapped.through,
            )
        )
        self._depth += 1
        for inner in unwrapped.commands:
            if self._depth >= 2 * DEPTH_CAP:
                self.doubt(TOO_DEEP)
            else:
                self._run(list(inner), text, _Redirections(), [*sets, *unwrapped.sets])
        self._depth -= 1
        for code in unwrapped.codes:
            self.read(code)

    def _check_variables(self, names: Iterable[str]) -> None:
        self.doubt(*(f"it sets {name}, which changes what programs do" for name in names if sets_much(name)))

    # -- variables --------------------------------------------------------------------------------------------------

    def _declared(self, node: Node) -> None:
        words = [Word(text_of(node.children[0]).strip())]
        for child in node.children[1:]:
            if child.type in WORD_NODES:
                words.append(word_of(child))
            elif child.type not in {"variable_assignment", "comment"}:
                self.doubt(f"it holds what is not read here: {child.type.replace('_', ' ')}")
        self.doubt(*unwrap(tuple(words)).reasons)
        self._add(Part(tuple(word.text for word in words), text_of(node)))

    def _assigned(self, node: Node) -> None:
        self._check_variables([_variable(node)])
        name = node.children[0]
        if name.type == "subscript" and not _is_plain_index(name):
            self.doubt("an index is computed")

    def _loop(self, node: Node) -> None:
        variable = node.child_by_field_name("variable")
        self._check_variables([text_of(variable)] if variable is not None else [])

    def _expanded(self, node: Node) -> None:
        for child in node.children:
            if not child.is_named and text_of(child).strip() not in _EXPANDING:
                self.doubt(f"{text_of(node)} computes what it stands for")
            elif child.type == "subscript" and not _is_plain_index(child):
                self.doubt("an index is computed")
            elif child.type == "variable_name" and sets_much(text_of(child)) and "=" in text_of(node):
                self.doubt(f"it sets {text_of(child)}, which changes what programs do")

    def _computed(self, node: Node) -> None:
        """Arithmetic: a variable's value is computed in its turn, and an index in it may run commands."""
        if node.type == "subscript" and _is_plain_index(node):
            return
        if any(not each.isdigit() for each in _operands(node)):
            self.doubt("it computes with variables, whose values may run commands")

    def _tested(self, node: Node) -> None:
        for child in _all(node):
            if child.type == "test_operator" and text_of(child) in _ARITHMETIC_TESTS:
                computing = node.children[0].type == "[[" or text_of(child) in {"-v", "-R"}
                parent = child.parent
                operands = [each for each in (parent.children if parent else []) if each.type in WORD_NODES]
                if computing and not all(text_of(each).isdigit() or text_of(each) in {"$?", "$#"} for each in operands):
                    self.doubt("it computes with variables, whose values may run commands")
            elif child.type in {"simple_expansion", "expansion", "command_substitution"}:
                bare = child.parent is not None and child.parent.type != "string"
                if bare and node.children[0].type == "[" and text_of(child) not in {"$?", "$#"}:
                    self.doubt("what it tests is not certain")


_KNOWN = (
    _CONTAINERS
    | _COMPUTING
    | _EXPRESSIONS
    | {"expansion", "simple_expansion", "function_definition", "for_statement", "test_command", "variable_assignment",
       "declaration_command", "unset_command"}
)  # fmt: skip


def _variable(node: Node) -> str:
    """The variable of an assignment."""
    return text_of(node.children[0]).strip().partition("[")[0]


def _is_plain_index(node: Node) -> bool:
    """Whether an index is a number, or all of an array."""
    inside = text_of(node).partition("[")[2].removesuffix("]")
    return inside.isdigit() or inside in {"@", "*"}


def _operands(node: Node) -> Iterable[str]:
    for child in node.children:
        if child.type == "do_group":
            continue
        if child.is_named and child.child_count == 0 and child.type != "comment":
            yield text_of(child)
        else:
            yield from _operands(child)


def _all(node: Node) -> Iterable[Node]:
    for child in node.children:
        yield child
        yield from _all(child)


def _upto(node: Node) -> str:
    """The source of a statement, without the text of its here-document."""
    text = text_of(node)
    return text.partition("\n")[0] if any(child.type == "heredoc_redirect" for child in node.children) else text
