"""What a source text declares: definitions with their nesting, constants and imports, as syntax nodes.

Knows one small table of tree-sitter queries per language; it must not know files on disk, nor what becomes of what
it finds. All offsets are bytes of the text's UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from laguna_agent.code.languages import grammar, language_of, parse

if TYPE_CHECKING:
    from tree_sitter import Node, Query

# A pattern's capture beside @name is the definition's kind; where two patterns match one node, the first counts.
_PYTHON = """
(class_definition name: (identifier) @name) @class
(function_definition name: (identifier) @name) @function
(module (expression_statement (assignment left: (identifier) @name)) @constant)
(class_definition body: (block (expression_statement (assignment left: (identifier) @name)) @constant))
(import_statement) @import
(import_from_statement) @import
(future_import_statement) @import
"""
_JAVASCRIPT = """
(class_declaration name: (_) @name) @class
(function_declaration name: (_) @name) @function
(generator_function_declaration name: (_) @name) @function
(method_definition name: (_) @name) @function
(lexical_declaration . (variable_declarator name: (identifier) @name
  value: [(arrow_function) (function_expression) (generator_function)]) .) @function
(expression_statement (assignment_expression left: (member_expression) @name
  right: [(arrow_function) (function_expression) (generator_function)])) @function
(program (lexical_declaration (variable_declarator value: (call_expression function: (identifier) @_call)))
  @import (#eq? @_call "require"))
(program (lexical_declaration . (variable_declarator name: (identifier) @name) .) @constant)
(program (export_statement (lexical_declaration . (variable_declarator name: (identifier) @name) .)) @constant)
(import_statement) @import
"""
_TYPESCRIPT = (
    _JAVASCRIPT
    + """
(abstract_class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @interface
(enum_declaration name: (_) @name) @enum
(type_alias_declaration name: (_) @name) @type
(internal_module name: (_) @name) @namespace
(function_signature name: (_) @name) @function
(public_field_definition name: (_) @name value: [(arrow_function) (function_expression)]) @function
(public_field_definition name: (_) @name) @constant
"""
)
_C = """
(function_definition declarator: (function_declarator declarator: (_) @name)) @function
(function_definition declarator: (_ declarator: (function_declarator declarator: (_) @name))) @function
(function_definition declarator: (_ declarator: (_ declarator: (function_declarator declarator: (_) @name)))) @function
(struct_specifier name: (_) @name body: (_)) @struct
(union_specifier name: (_) @name body: (_)) @struct
(enum_specifier name: (_) @name body: (_)) @enum
(type_definition declarator: (type_identifier) @name) @type
(preproc_function_def name: (_) @name) @macro
(preproc_def name: (_) @name value: (_)) @constant
(preproc_include) @import
"""
QUERIES = {
    "python": _PYTHON,
    "javascript": _JAVASCRIPT
    + """
(field_definition property: (_) @name value: [(arrow_function) (function_expression)]) @function
(field_definition property: (_) @name) @constant
""",
    "typescript": _TYPESCRIPT,
    "tsx": _TYPESCRIPT,
    "go": """
(function_declaration name: (_) @name) @function
(method_declaration receiver: (parameter_list (parameter_declaration type: (_) @owner)) name: (_) @name) @function
(type_spec name: (_) @name type: (struct_type)) @struct
(type_spec name: (_) @name type: (interface_type)) @interface
(type_spec name: (_) @name) @type
(source_file (const_declaration . (const_spec . name: (identifier) @name) .) @constant)
(source_file (var_declaration . (var_spec . name: (identifier) @name) .) @constant)
(import_spec) @import
""",
    "rust": """
(function_item name: (_) @name) @function
(function_signature_item name: (_) @name) @function
(struct_item name: (_) @name) @struct
(union_item name: (_) @name) @struct
(enum_item name: (_) @name) @enum
(trait_item name: (_) @name) @trait
(impl_item type: (_) @name) @impl
(mod_item name: (_) @name body: (_)) @module
(type_item name: (_) @name) @type
(macro_definition name: (_) @name) @macro
(const_item name: (_) @name) @constant
(static_item name: (_) @name) @constant
(use_declaration) @import
""",
    "java": """
(class_declaration name: (_) @name) @class
(interface_declaration name: (_) @name) @interface
(enum_declaration name: (_) @name) @enum
(record_declaration name: (_) @name) @class
(method_declaration name: (_) @name) @function
(constructor_declaration name: (_) @name) @function
(field_declaration declarator: (variable_declarator name: (_) @name)) @constant
(import_declaration) @import
""",
    "c": _C,
    "cpp": _C
    + """
(class_specifier name: (_) @name body: (_)) @class
(namespace_definition name: (_) @name) @namespace
""",
    "ruby": """
(class name: (_) @name) @class
(module name: (_) @name) @module
(method name: (_) @name) @function
(singleton_method name: (_) @name) @function
(program (assignment left: (constant) @name) @constant)
(body_statement (assignment left: (constant) @name) @constant)
(program (call method: (identifier) @_call) @import (#match? @_call "^require"))
""",
    "bash": "(function_definition name: (_) @name) @function",
}

CONTAINERS = frozenset({"class", "struct", "interface", "enum", "trait", "impl", "module", "namespace"})
"""Kinds whose functions are their methods."""
_WRAPPERS = frozenset({"decorated_definition", "export_statement", "type_declaration"})
"""Nodes around a definition whose beginning (decorators, `export`, `type`) is a prefix of it."""
_ENCLOSING = frozenset({"template_declaration", "expression_statement"})
"""Nodes around a definition that are part of it."""
_ASSIGNING = frozenset({"lexical_declaration", "expression_statement"})
_ATTRIBUTES = frozenset({"attribute_item", "decorator"})
_MODIFIERS = frozenset({"visibility_modifier", "modifiers"})


@dataclass(eq=False)
class Definition:
    """A definition in a text.

    `name` is qualified by what it lies in (`Class.method`, `outer.inner`). `start` to `end` is all of it with
    decorators; from `head` on it is without decorators, `export`, visibility and the like.
    """

    name: str
    kind: str
    node: Node
    start: int
    head: int
    end: int
    owner: Definition | None = None
    members: list[Definition] = field(default_factory=list)
    constants: list[Definition] = field(default_factory=list)

    @property
    def last_name(self) -> str:
        """The name without what qualifies it."""
        return self.name.rpartition(".")[2]

    @property
    def body(self) -> Node | None:
        """What is between the braces, or the indented block."""
        value = self.value
        return (self.node if value is None else value).child_by_field_name("body")

    @property
    def value(self) -> Node | None:
        """The function in `const name = function ...` and `exports.name = function ...`; None for other definitions."""
        if self.node.type not in _ASSIGNING:
            return None
        inner = first_named(self.node)
        return inner and (inner.child_by_field_name("value") or inner.child_by_field_name("right"))

    @property
    def parameters(self) -> str:
        """The parameter list as written, whitespace apart."""
        node: Node | None = self.node
        while node is not None and (found := node.child_by_field_name("parameters")) is None:
            node = node.child_by_field_name("declarator")
        return "" if node is None or found is None else re.sub(r"\s+", "", _text(found))


@dataclass
class Outline:
    """A text's top level: `definitions` and `constants` in order, each with what lies in it, and the imports
    that no definition holds."""

    data: bytes
    root: Node
    definitions: list[Definition] = field(default_factory=list)
    constants: list[Definition] = field(default_factory=list)
    imports: list[Node] = field(default_factory=list)

    def text(self, start: int, end: int) -> str:
        """The text between two offsets."""
        return self.data[start:end].decode("utf-8", "replace")

    def every(self) -> list[Definition]:
        """All definitions at any depth, in order."""
        found: list[Definition] = []
        pending = self.definitions[::-1]
        while pending:
            definition = pending.pop()
            found.append(definition)
            pending.extend(reversed(definition.members))
        return found


def outline(path: str, data: bytes) -> Outline | None:
    """What the UTF-8 text `data` declares; None where the language is unknown, has no definitions, or `data` is over
    `TEXT_CAP`. Broken text gives what can be made out."""
    language = language_of(path)
    if language not in QUERIES:
        return None
    tree = parse(path, data)
    if tree is None:
        return None
    found = Outline(data, tree.root_node)
    enclosing: list[Definition] = []
    for definition in _matches(language, tree.root_node):
        while enclosing and enclosing[-1].node.end_byte <= definition.node.start_byte:
            enclosing.pop()
        owner = definition.owner = enclosing[-1] if enclosing else None
        if definition.kind == "import":
            if owner is None:
                found.imports.append(definition.node)
            continue
        if owner is not None:
            _place(definition, owner)
        here = owner or found
        if definition.kind == "constant":
            if owner is None or owner.kind in CONTAINERS:
                here.constants.append(definition)
            continue
        (found.definitions if owner is None else owner.members).append(definition)
        enclosing.append(definition)
    return found


def _place(definition: Definition, owner: Definition) -> None:
    # `impl Display for Shape` qualifies its functions as Shape's.
    qualifier = re.split(r" for |^impl ", owner.name)[-1]
    definition.name = f"{qualifier}.{definition.name}"
    if definition.kind == "function" and owner.kind in CONTAINERS - {"module", "namespace"}:
        definition.kind = "method"


@cache
def _query(language: str) -> Query:
    from tree_sitter import Query

    return Query(grammar(language), QUERIES[language])


def _matches(language: str, root: Node) -> list[Definition]:
    from tree_sitter import QueryCursor

    best: dict[int, tuple[int, Definition]] = {}
    for pattern, captures in QueryCursor(_query(language)).matches(root):
        kind, node = next((kind, nodes[0]) for kind, nodes in captures.items() if kind not in _NAMING)
        if node.id not in best or pattern < best[node.id][0]:
            name = _name(kind, node, captures)
            best[node.id] = (pattern, Definition(name, kind, node, *_extent(node)))
            if "owner" in captures:
                best[node.id][1].kind = "method"
    return sorted((each for _, each in best.values()), key=lambda each: (each.node.start_byte, -each.node.end_byte))


_NAMING = frozenset({"name", "owner", "_call"})


def _name(kind: str, node: Node, captures: dict[str, list[Node]]) -> str:
    if "name" not in captures:
        return ""
    name = re.sub(r"\s+", "", _text(captures["name"][0])).replace("::", ".")
    if kind == "impl":
        trait = node.child_by_field_name("trait")
        shape = re.sub(r"<.*", "", name)
        return f"impl {_text(trait)} for {shape}" if trait is not None else f"impl {shape}"
    if owner := captures.get("owner"):
        receiver = re.sub(r"[*\s]|\[.*", "", _text(owner[0]))
        return f"{receiver}.{name}"
    if node.type == "expression_statement":
        return re.sub(r"^(module\.)?exports\.|\.prototype(?=\.)", "", name)
    return name


def _extent(node: Node) -> tuple[int, int, int]:
    """`start`, `head` and `end` of a definition's node."""
    outer, head = node, node.start_byte
    while (parent := outer.parent) is not None and parent.type in _WRAPPERS | _ENCLOSING:
        if parent.named_child_count > 1 and parent.type == "type_declaration":
            break
        if parent.type in _ENCLOSING:
            head = parent.start_byte
        outer = parent
    start = outer.start_byte
    before = outer.prev_named_sibling
    while before is not None and before.type in _ATTRIBUTES:
        start = before.start_byte
        before = before.prev_named_sibling
    first = first_named(node)
    if first is not None and first.type in _MODIFIERS and first.next_sibling is not None:
        head = first.next_sibling.start_byte
    # A preprocessor line's node holds its line end.
    return start, head, outer.end_byte - (outer.end_point.column == 0 and outer.end_byte > outer.start_byte)


def first_named(node: Node) -> Node | None:
    """The first child that is more than punctuation."""
    return next(iter(node.named_children), None)


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")
