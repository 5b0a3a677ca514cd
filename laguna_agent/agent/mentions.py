"""Which files a prompt is about, so that a small model gets them in front of it instead of having to ask.

Looks at the names in the prompt and in the check's output, and follows imports inside the workspace from there. It
reads files and judges; it does not decide how they are shown.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from pathlib import PurePosixPath

import anyio.to_thread
import msgspec

from laguna_agent.errors import ToolError
from laguna_agent.tools.leave import inside
from laguna_agent.tools.workspace import Workspace

MAX_FILES = 2_000
MAX_BYTES = 200_000
MAX_READ = 400
NAMED = 100
"""The score of a file that the prompt names."""
SKIPPED = frozenset({"node_modules", "__pycache__", "venv", "target", "build", "dist", "site-packages"})
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUOTED = re.compile(r"`([^`\n]+)`|\b([A-Za-z_]\w*)\(")
_IMPORT = re.compile(r"^\s*(?:from\s+(\.*[\w.]*)\s+import\s+([\w, ()*]+)|import\s+([\w., ]+))", re.MULTILINE)
_FROM_PATH = re.compile(r"""(?:from|require\(|import)\s*["'](\.{1,2}/[^"']+)["']""")


class Mentioned(msgspec.Struct, frozen=True):
    """A file that matters: why it was chosen counts as `score`; `symbols` are its definitions, in order."""

    path: str
    text: str
    symbols: tuple[str, ...]
    score: int


async def source_files(workspace: Workspace) -> list[str]:
    """The paths of the workspace's files, breadth first, without hidden and generated directories."""
    found: list[str] = []
    queue = deque([workspace.root])
    while queue and len(found) < MAX_FILES:
        directory = queue.popleft()
        try:
            entries = await workspace.list(directory)
        except ToolError:
            # A directory that cannot be read holds nothing that could be shown.
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in SKIPPED:
                continue
            if entry.kind == "directory":
                queue.append(directory / entry.name)
            elif entry.kind == "file" and 0 < entry.size <= MAX_BYTES:
                found.append((directory / entry.name).relative_to(workspace.root).as_posix())
    return found


def is_test(path: str) -> bool:
    """Whether a path looks like a test's."""
    pure = PurePosixPath(path)
    return bool({"tests", "test", "spec"} & set(pure.parts[:-1])) or bool(
        re.search(r"(^test_|_test\.|\.test\.|\.spec\.|^tests?\.)", pure.name)
    )


def quoted_names(prompt: str) -> set[str]:
    """The identifiers that a prompt gives as code: in backticks, or before a parenthesis."""
    quoted = (match[1] or match[2] for match in _QUOTED.finditer(prompt))
    return {word for piece in quoted for word in _WORD.findall(piece)}


async def every_source(workspace: Workspace) -> list[Mentioned]:
    """The source files of the workspace, tests last, where nothing tells which of them matter."""
    paths = [path for path in await source_files(workspace) if _language(path)]
    texts = {path: await _read(workspace, path) for path in sorted(paths, key=is_test)[:MAX_READ]}
    symbols = await anyio.to_thread.run_sync(lambda: {path: _symbols(path, texts[path]) for path in texts})
    return [Mentioned(path, texts[path], symbols[path], 0) for path in texts]


async def mentioned(workspace: Workspace, prompt: str, output: str) -> list[Mentioned]:
    """The files that the prompt and the check's output are about, the most telling first; tests only where the prompt
    names them."""
    paths = [path for path in await source_files(workspace) if _language(path)]
    texts: dict[str, str] = {}
    scores = {path: _name_score(path, prompt, output) for path in paths}
    words = quoted_names(prompt)
    for path in paths[:MAX_READ]:
        texts[path] = await _read(workspace, path)
    symbols = await anyio.to_thread.run_sync(lambda: {path: _symbols(path, texts[path]) for path in texts})
    for path, names in symbols.items():
        if not is_test(path) and words & {name.rpartition(".")[2] for name in names}:
            scores[path] += 60
    _follow_imports(texts, scores)
    chosen = [
        Mentioned(path, texts[path], symbols[path], scores[path])
        for path in texts
        if scores[path] > 0 and not (is_test(path) and scores[path] < NAMED)
    ]
    return sorted(chosen, key=lambda file: (-file.score, file.path))


def _name_score(path: str, prompt: str, output: str) -> int:
    pure = PurePosixPath(path)
    name = re.escape(pure.name)
    if re.search(rf"(?<![\w/.-]){re.escape(path)}(?![\w/-])", prompt):
        return NAMED + 20
    if re.search(rf"(?<![\w.-]){name}(?![\w/-])", prompt):
        return NAMED
    score = 30 if re.search(rf"(?<![\w.-]){re.escape(pure.stem)}(?![\w-])", prompt) and len(pure.stem) > 3 else 0
    if re.search(rf"(?<![\w.-]){name}(?![\w/-])", output):
        score += 20 if is_test(path) else 60
    return score


def _follow_imports(texts: dict[str, str], scores: dict[str, int]) -> None:
    """What a telling file imports is telling too, a little less. Where the prompt names files the tests' imports do not
    count: a package's `__init__` would bring in all of it."""
    named = [path for path in texts if scores[path] >= NAMED and not is_test(path)]
    telling = named or [path for path in texts if scores[path] > 0]
    queue = deque(sorted(telling, key=lambda path: -scores[path]))
    seen = set(queue)
    while queue:
        path = queue.popleft()
        for target in imports(path, texts[path], texts):
            scores[target] = max(scores[target], 40 if is_test(path) else scores[path] // 2 + 5)
            if target not in seen and scores[target] > 10:
                seen.add(target)
                queue.append(target)


def imports(path: str, text: str, known: dict[str, str] | Sequence[str]) -> list[str]:
    """The files of the workspace that a Python or JavaScript file imports."""
    here = PurePosixPath(path).parent
    found: list[str] = []
    for match in _IMPORT.finditer(text):
        for module in _modules(match):
            found += _python_files(here, module, known)
    for match in _FROM_PATH.finditer(text):
        base = PurePosixPath(*_normal((here / match[1]).parts))
        found += [str(base) + end for end in ("", ".js", ".ts", ".tsx", ".jsx", "/index.js", "/index.ts")]
    return list(dict.fromkeys(name for name in found if name in known and name != path))


def _modules(match: re.Match[str]) -> list[str]:
    if match[3]:
        return [part.split(" as ")[0].strip() for part in match[3].split(",")]
    names = _WORD.findall(match[2])
    dotted = match[1] if match[1].endswith(".") else match[1] + "."
    return [match[1], *(dotted + name for name in names)]


def _python_files(here: PurePosixPath, module: str, known: dict[str, str] | Sequence[str]) -> list[str]:
    level = len(module) - len(module.lstrip("."))
    tail = module.lstrip(".").replace(".", "/")
    if level:
        base = PurePosixPath(*here.parts[: len(here.parts) - (level - 1)])
        return [str(base / f"{tail}.py"), str(base / tail / "__init__.py")] if tail else [str(base / "__init__.py")]
    if not tail:
        return []
    roots = (str(here / f"{tail}.py"), f"{tail}.py", f"src/{tail}.py", f"{tail}/__init__.py", f"src/{tail}/__init__.py")
    return [name for name in roots if name in known][:1]


def _normal(parts: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part == ".." and kept:
            kept.pop()
        elif part not in (".", ".."):
            kept.append(part)
    return kept


async def _read(workspace: Workspace, path: str) -> str:
    try:
        return (await workspace.read_bytes(inside(path, workspace).path, MAX_BYTES)).decode("utf-8")
    except (ToolError, UnicodeDecodeError):
        # What cannot be read as text cannot be shown either.
        return ""


def _language(path: str) -> bool:
    from laguna_agent.code.languages import language_of

    return language_of(path) is not None


def _symbols(path: str, text: str) -> tuple[str, ...]:
    from laguna_agent.code.symbols import symbols

    return tuple(symbol.name for symbol in symbols(path, text))
