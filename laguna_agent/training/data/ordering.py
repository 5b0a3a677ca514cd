"""Documents in the order in which a reader would want them: project by project, a file after what it imports.

Python's imports are resolved to files of the same project; a cycle is entered at its first path. Other languages go by
path. Shards are cut where a document's own key says so, not by counting: a document that changes changes its shard,
one that comes or goes changes the shard it comes to, and the others stay.

Knows documents and import statements; must not know what is learned from the order.
"""

from __future__ import annotations

import ast
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple

import msgspec
import pyarrow as pa

from laguna_agent.errors import ConfigError
from laguna_agent.training.data import documents
from laguna_agent.training.data.contents import Columns, schema_of
from laguna_agent.training.data.manifest import code_of
from laguna_agent.training.data.operations import Operation, Outcome, only_parent, work_of
from laguna_agent.training.data.store import Built, Derived, Store, Version

CODE = (__name__, documents.__name__)
IMPORTS: Columns = (("source", "string"), ("path", "string"), ("row_hash", "string"), ("imports", "list<string>"))
"""`imports`: dotted names as far as a file's text tells, relative ones with their dots: `a.b`, `..c`."""


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`documents_per_shard` on average; `depth` folders of a path belong to the name of its project, where a source
    holds several."""

    documents_per_shard: int = 32
    depth: int = 0


class Place(NamedTuple):
    """A document, where it lies, and what it imports. `hash` is over all its columns."""

    source: str
    path: str
    shard: int
    row: int
    hash: str
    imports: tuple[str, ...]


def order(store: Store, parents: Sequence[Version], config: Order) -> Outcome:
    """The same documents in their order. Raises ConfigError, DatasetError."""
    parent = only_parent("order", parents, documents.KIND)
    if config.documents_per_shard < 1 or config.depth < 0:
        raise ConfigError("order: documents_per_shard is at least 1, and depth no less than 0")
    code = code_of(CODE, python=True)
    read = [
        store.derived("imports", code, [shard.content], partial(_imports, parent, at))
        for at, shard in enumerate(parent.shards)
    ]
    projects: dict[tuple[str, ...], list[Place]] = defaultdict(list)
    for at, each in enumerate(read):
        for row, found in enumerate(store.read(each.shard, IMPORTS).to_pylist()):
            place = Place(found["source"], found["path"], at, row, found["row_hash"], tuple(found["imports"]))
            folders = PurePosixPath(place.path).parts[:-1]
            projects[(place.source, *folders[: config.depth])].append(place)
    ordered = [place for project in sorted(projects) for place in by_imports(projects[project])]
    done = [_gathered(store, parent, run) for run in runs(ordered, config.documents_per_shard)]
    version = store.write(
        documents.KIND,
        [each.shard for each in done],
        parents=parents,
        operation="order",
        config={"settings": msgspec.to_builtins(config)},
        code=code,
        schema=documents.COLUMNS,
    )
    return Outcome(version, (work_of("imports", read), work_of("order", done)))


def runs(ordered: Sequence[Place], average: int) -> list[list[Place]]:
    """The order, cut after each document whose key says so, which one in `average` does."""
    found: list[list[Place]] = []
    last_cut = True
    for place in ordered:
        if last_cut:
            found.append([])
        found[-1].append(place)
        last_cut = documents.bucket_of(place.source, place.path, average) == 0
    return found


def _gathered(store: Store, parent: Version, run: Sequence[Place]) -> Derived:
    def build() -> Built:
        tables = {at: parent.table(at) for at in {place.shard for place in run}}
        return pa.concat_tables([tables[place.shard].slice(place.row, 1) for place in run]), {}

    return store.derived("order", code_of(CODE, python=True), [place.hash for place in run], build)


def _imports(parent: Version, at: int) -> Built:
    rows = []
    for row in parent.table(at).to_pylist():
        imports = imports_of(row["text"]) if row["language"] == "python" else []
        hash = documents.row_hash(row)
        rows.append({"source": row["source"], "path": row["path"], "row_hash": hash, "imports": imports})
    return pa.Table.from_pylist(rows, schema_of(IMPORTS)), {}


def imports_of(text: str) -> list[str]:
    """The modules that a Python file may import, sorted, each once; none where it does not parse."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # Whether a name is a module of the package or something in it, only the files tell.
            joint = "." if node.module else ""
            found.update(f"{base}{joint}{alias.name}" for alias in node.names if alias.name != "*")
            found.add(base)
    return sorted(found)


def by_imports(project: Sequence[Place]) -> list[Place]:
    """The files of a project, each after those that it imports, else by path; the same whatever order they come in."""
    places = {place.path: place for place in project}
    modules = _modules(places)
    below = {path: dependencies(place, modules) for path, place in places.items()}
    done: dict[str, Place] = {}
    entered: set[str] = set()
    for first in sorted(places):
        # By hand, for chains of imports are longer than Python's stack.
        waiting = [(first, False)]
        while waiting:
            path, ready = waiting.pop()
            if ready:
                done[path] = places[path]
            elif path not in entered:
                entered.add(path)
                waiting.append((path, True))
                waiting += [(other, False) for other in reversed(below[path]) if other not in entered]
    return list(done.values())


def _modules(places: Mapping[str, Place]) -> dict[str, str]:
    """What each Python file is imported as: from its topmost package, and from each folder above that, for a folder
    without `__init__.py` may be a package or a place where packages lie. Of two that claim a name, the shortest path
    has it."""
    found: dict[str, str] = {}
    for path in sorted(places, key=lambda each: (each.count("/"), each)):
        pure = PurePosixPath(path)
        if pure.suffix not in (".py", ".pyi"):
            continue
        parts = [*pure.parts[:-1], *([] if pure.stem == "__init__" else [pure.stem])]
        top = len(pure.parts) - 1
        while top > 0 and str(PurePosixPath(*pure.parts[:top], "__init__.py")) in places:
            top -= 1
        for start in range(top, -1, -1):
            name = ".".join(parts[start:])
            if name:
                found.setdefault(name, path)
    return found


def dependencies(place: Place, modules: Mapping[str, str]) -> list[str]:
    """The files of the project that a file imports, sorted; itself is none of them."""
    found = set()
    for name in place.imports:
        target = _resolved(place.path, name, modules)
        if target is not None and target != place.path:
            found.add(target)
    return sorted(found)


def _resolved(path: str, name: str, modules: Mapping[str, str]) -> str | None:
    dots = len(name) - len(name.lstrip("."))
    if dots:
        folder = PurePosixPath(path).parts[:-1]
        if dots - 1 > len(folder):
            return None
        name = ".".join([*folder[: len(folder) - dots + 1], *([name[dots:]] if name[dots:] else [])])
    # The last part may be something in the module rather than a module.
    return modules.get(name) or (modules.get(name.rpartition(".")[0]) if "." in name else None)


def satisfied(ordered: Sequence[Place]) -> float:
    """The share of a project's imports whose file comes before the one that imports it; 1 where there are none."""
    at = {place.path: index for index, place in enumerate(ordered)}
    modules = _modules({place.path: place for place in ordered})
    pairs = [(at[other], at[place.path]) for place in ordered for other in dependencies(place, modules)]
    return sum(before < after for before, after in pairs) / len(pairs) if pairs else 1.0


OPERATION = Operation("order", Order, order)
