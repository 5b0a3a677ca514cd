"""Somebody else's Jinja template, run so that it can neither do anything nor go on for ever.

Knows jinja2; must not know messages, tokens or models. A template comes with downloaded weights, so it is hostile until
it has ended: the immutable sandbox keeps it from the interpreter, and a `Budget` from time and memory. Every loop step,
call and include is counted against it, and every value that a template can make larger is weighed when it is made.

The dialect is the one that transformers runs templates in: blocks trimmed, loop controls, the `generation` tag,
`tojson` without HTML escapes, `raise_exception`, `strftime_now`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn

from jinja2 import Environment, FunctionLoader, Template, TemplateError, nodes, pass_context
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from laguna_agent.errors import UsageError

SECONDS = 5.0
"""A render may take this long. Real templates take milliseconds for a conversation that fills the window."""
STEPS = 3_000_000
"""Loop steps, calls and includes of one render."""
WEIGHT = 16_000_000
"""Characters of one value, or of all that was written; list and dict items count as one each and what they hold."""
_ITEMS = 2_000_000
_LARGEST_INTEGER = 1 << 256
_LARGEST_WIDTH = 10_000
_WIDTH = re.compile(r"[1-9]\d{4}|\*")
_NESTED_WIDTH = re.compile(r":[^{}]*\{")
_GROWING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_WITHOUT_USE = ("urlize", "random", "xmlattr", "pprint", "filesizeformat")


class TemplateStopped(UsageError):
    """A template asked for more time or memory than any real one needs, or for what the sandbox refuses."""


class TemplateRefused(UsageError):
    """A template raised an error of its own about the conversation."""


class Budget:
    """What one render has spent. `at` names the template in errors."""

    def __init__(self, at: str, seconds: float = SECONDS) -> None:
        self.at = at
        self.seconds = seconds
        self.begin()

    def begin(self) -> None:
        """A render begins."""
        self._steps = self._written = 0
        self._until = time.monotonic() + self.seconds

    def step(self) -> None:
        """One loop step, call or include."""
        self._steps += 1
        if self._steps > STEPS:
            self.stop(f"it took more than {STEPS:,} steps")
        self.check_time()

    def check_time(self) -> None:
        """Stop when the time is over."""
        if time.monotonic() > self._until:
            self.stop(f"it ran for more than {self.seconds:g} s")

    def stop(self, why: str) -> NoReturn:
        """End the render."""
        raise TemplateStopped(f"{self.at}: the chat template was stopped: {why}")

    def write(self, text: str) -> None:
        """`text` was written, be it only into a variable."""
        self._written += len(text)
        if self._written > WEIGHT:
            self.stop(f"it wrote more than {WEIGHT:,} characters")

    def steps(self, values: Iterable[Any]) -> Iterator[Any]:
        """`values`, each of them counted."""
        for value in values:
            self.step()
            yield value

    def weigh(self, value: Any) -> Any:
        """`value`, where it is no larger than is allowed. What it shares counts each time, as it would be written."""
        if isinstance(value, str | bytes) and len(value) <= WEIGHT:
            return value
        weight, items, waiting = 0, 0, [value]
        while waiting:
            one = waiting.pop()
            items += 1
            if isinstance(one, str | bytes):
                weight += len(one)
            elif isinstance(one, int) and abs(one) > _LARGEST_INTEGER:
                self.stop("it made an integer of more than 256 bits")
            elif isinstance(one, Mapping):
                waiting.extend(one.keys())
                waiting.extend(one.values())
            elif isinstance(one, list | tuple | set | frozenset):
                waiting.extend(one)
            if items % 65_536 == 0:
                self.check_time()
            if weight > WEIGHT or items + len(waiting) > _ITEMS:
                self.stop(f"it made a value of more than {WEIGHT:,} characters or {_ITEMS:,} items")
        if items > 1000:
            self.check_time()
        return value


class _Generation(Extension):
    """`{% generation %}` marks what the model writes; for rendering it is a scope and nothing else."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment; see the module. One render at a time: the budget is its own."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    budget: Budget

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call in a template comes through here."""
        self.budget.step()
        # The sandbox hands out a wrapper for str.format.
        method = getattr(function, "__wrapped__", function)
        name, owner = getattr(method, "__name__", ""), getattr(method, "__self__", None)
        if name == "join" and isinstance(owner, str) and args:
            args = (self._list(args[0]), *args[1:])
        for value in (*args, *kwargs.values()):
            self.budget.weigh(value)
        if isinstance(owner, str):
            self._check_string_method(name, owner, args)
        return self.budget.weigh(super().call(context, function, *args, **kwargs))

    def _list(self, values: Any) -> Any:
        return values if hasattr(values, "__len__") else list(self.budget.steps(values))

    def _check_string_method(self, name: str, owner: str, args: tuple[Any, ...]) -> None:
        if name in _GROWING and any(isinstance(value, int) and value > _LARGEST_WIDTH for value in args):
            self.budget.stop(f"it asked {name}() for more than {_LARGEST_WIDTH:,} columns")
        if name in {"format", "format_map"} and (_WIDTH.search(owner) or _NESTED_WIDTH.search(owner)):
            self.budget.stop("it asked for a column width of more than four digits")
        if name == "replace" and len(args) >= 2 and all(isinstance(value, str) for value in args[:2]):
            self._check_growth(owner.count(args[0]) * len(args[1]) + len(owner))
        if name == "join" and args and isinstance(args[0], list | tuple):
            self._check_growth(sum(len(part) for part in args[0] if isinstance(part, str)) + len(owner) * len(args[0]))
        if name == "translate":
            self.budget.stop("translate() is not available")

    def _check_growth(self, size: int) -> None:
        if size > WEIGHT:
            self.budget.stop(f"it asked for a text of {size:,} characters")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Every arithmetic operator comes through here."""
        if operator == "**":
            self.budget.stop("powers are not available")
        if operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and isinstance(other, str | bytes | list | tuple):
                    self._check_growth(max(one, 0) * max(len(other), 1))
        if operator == "%" and isinstance(left, str | bytes):
            if _WIDTH.search(str(left)):
                self.budget.stop("it asked for a column width of more than four digits")
            self.budget.weigh(right)
        return self.budget.weigh(super().call_binop(context, operator, left, right))

    def filtered(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or test whose arguments and result are weighed."""

        def weighed(*args: Any, **kwargs: Any) -> Any:
            self.budget.step()
            for value in (*args, *kwargs.values()):
                if isinstance(value, int) and abs(value) > _LARGEST_WIDTH and name not in {"int", "float", "abs"}:
                    self._check_number(name, args, value)
                elif not isinstance(value, Context | Environment):
                    self.budget.weigh(value)
            if name == "join":
                args = (args[0], self._list(args[1]), *args[2:])
            self._check_filter(name, args, [value for value in (*args, *kwargs.values()) if isinstance(value, str)])
            return self.budget.weigh(function(*args, **kwargs))

        # jinja2 reads from the function what it wants as its first argument.
        weighed.__dict__.update(getattr(function, "__dict__", {}))
        return weighed

    def _check_filter(self, name: str, args: tuple[Any, ...], strings: list[str]) -> None:
        """Refuse the filters whose result can be far larger than what they are given."""
        added = max(map(len, strings[1:]), default=0)
        if name == "replace" and len(strings) >= 3:
            self._check_growth(strings[0].count(strings[1]) * len(strings[2]) + len(strings[0]))
        elif name == "format" and strings and _WIDTH.search(strings[0]):
            self.budget.stop("it asked for a column width of more than four digits")
        elif name == "join":
            self._check_growth(max(map(len, strings), default=0) * len(self.budget.weigh(args[1])))
        elif name == "wordwrap" and strings:
            self._check_growth(len(strings[0]) * max(added, 1))
        elif name == "indent" and strings:
            numbers = [value for value in args if isinstance(value, int)]
            self._check_growth((strings[0].count("\n") + 1) * max(added, *numbers, 4) + len(strings[0]))

    def _check_number(self, name: str, args: tuple[Any, ...], value: int) -> None:
        takes_any = {"string", "tojson", "default", "d", "round", "equalto", "eq", "ne", "lt", "le", "gt", "ge", "in"}
        if value in args[1:] and name not in takes_any:
            self.budget.stop(f"it asked the filter {name!r} for {value:,}")

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """Compile, with what the budget needs put into the tree."""
        return super()._generate(_Counted().visit(source), *args, **kwargs)

    def get_template(self, *args: Any, **kwargs: Any) -> Template:
        """Every include and import comes through here."""
        self.budget.step()
        return super().get_template(*args, **kwargs)


class _Counted(NodeTransformer):
    """Counts every loop step, weighs every value that is put together, and lets all text be written as values are."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        assert isinstance(node.iter, nodes.Expr)
        node.iter = _filter(node.iter, "_steps")
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:
        return nodes.Const(node.data, lineno=node.lineno)

    def _weighed(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _filter(node, "_weigh")

    visit_List = visit_Tuple = visit_Dict = visit_Concat = _weighed


def _filter(value: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


@pass_context
def _written(context: Context, value: Any) -> str:
    """What an expression or a stretch of plain text writes; all of it is counted."""
    environment = context.environment
    assert isinstance(environment, _Sandbox)
    text = value if isinstance(value, str) else str(environment.budget.weigh(value))
    environment.budget.write(text)
    return text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if (indent or 0) > 16 or any(len(separator) > 16 for separator in separators or ()):
        raise TemplateError("tojson takes an indent and separators of at most 16 characters")
    if isinstance(value, Undefined):
        raise TemplateError(f"tojson has nothing to write: {value._undefined_message}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def sandbox(budget: Budget, load: Callable[[str], str | None], now: time.struct_time) -> ImmutableSandboxedEnvironment:
    """An environment whose renders spend `budget`; the caller begins it. `load` gives the text of an included template.

    `now` is what `strftime_now` tells for as long as the environment lives: a clock that ran would change the start of
    every prompt at midnight.
    """

    def raise_exception(message: object) -> NoReturn:
        raise TemplateRefused(f"{budget.at}: the chat template refuses this conversation: {str(message)[:500]}")

    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, LoopControlExtension],
        loader=FunctionLoader(load),
        # Nothing of a template may run while it is compiled.
        optimized=False,
        finalize=_written,
        cache_size=16,
    )
    environment.budget = budget
    for name in _WITHOUT_USE:
        environment.filters.pop(name, None)
    environment.filters["tojson"] = _to_json
    for table in (environment.filters, environment.tests):
        for name, function in list(table.items()):
            table[name] = environment.filtered(name, function)
    environment.filters |= {"_steps": budget.steps, "_weigh": budget.weigh}
    environment.globals = {name: environment.globals[name] for name in ("range", "dict", "namespace")}
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: time.strftime(str(form)[:100], now)
    return environment
