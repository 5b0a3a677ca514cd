"""`laguna-agent models`: the store of local models. stdout carries the answer, stderr the progress."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laguna_agent.cli.parsing import Commands, add_json
from laguna_agent.cli.printing import show, show_json, show_table

if TYPE_CHECKING:
    from laguna_agent.backend.weights.catalogue import ModelFile
    from laguna_agent.backend.weights.store import StoredModel

_LINES_PER_PULL = 10


def add_to(commands: Commands) -> None:
    """Add `models`."""
    group = commands.group("models", "list, pull, show and remove models that run on this machine", list_all)
    add_json(group.add("list", "list the models in the store, and those that `models pull` can get", list_all))
    parser = group.add("pull", "get a model, verified by its SHA-256; a pull that was cut goes on where it was", pull)
    parser.add_argument("name", metavar="NAME", help="a name that `models list` shows")
    parser.add_argument(
        "--from", dest="file", type=Path, metavar="FILE", help="a GGUF file on this machine instead of the network"
    )
    parser = group.add("show", "show what the store has under a name", show_model)
    parser.add_argument("name", metavar="NAME", help="a name that `models list` shows")
    add_json(parser)
    parser = group.add("rm", "remove a model, and whatever a cut pull of it has left", remove)
    parser.add_argument("name", metavar="NAME", help="a name that `models list` shows")


def list_all(line: Namespace) -> int:
    """Carry out `models list`."""
    from laguna_agent.backend.weights.catalogue import CATALOGUE
    from laguna_agent.backend.weights.store import Store

    stored = {model.name: model for model in Store().models()}
    known: dict[str, ModelFile | StoredModel] = {**CATALOGUE, **stored}
    rows = [
        {"name": entry.name, "size": entry.size, "licence": entry.licence, "stored": name in stored}
        for name, entry in sorted(known.items())
    ]
    if getattr(line, "json", False):
        show_json(rows)
        return 0
    states = {True: "in the store", False: "models pull gets it"}
    cells = [
        (str(row["name"]), _gigabytes(row["size"]), str(row["licence"]), states[bool(row["stored"])]) for row in rows
    ]
    show_table([("NAME", "SIZE", "LICENCE", "STATE"), *cells])
    return 0


def pull(line: Namespace) -> int:
    """Carry out `models pull`."""
    import anyio

    from laguna_agent.backend.weights.catalogue import CATALOGUE
    from laguna_agent.backend.weights.pull import pull as pull_weights
    from laguna_agent.backend.weights.store import Store
    from laguna_agent.errors import UsageError

    store, name = Store(), str(line.name)
    with _progress_on_stderr(name) as (progress, note):
        if line.file is not None:
            model = store.adopt(name, line.file, progress)
        elif name in CATALOGUE:
            model = anyio.run(pull_weights, CATALOGUE[name], store, progress, note)
        else:
            names = ", ".join(sorted(CATALOGUE))
            raise UsageError(f"no model called {name!r} can be pulled; there are {names} (any GGUF: --from FILE)")
    show(f"{model.name} is in the store ({_gigabytes(model.size)}); use it with --model local/{model.name}")
    return 0


def show_model(line: Namespace) -> int:
    """Carry out `models show`."""
    from laguna_agent.backend.weights.store import Store

    store = Store()
    fields = _fields(store.get(line.name))
    fields["path"] = str(store.blob_path(fields["sha256"]))
    if line.json:
        show_json(fields)
    else:
        show_table([(key.replace("_", " "), str(value)) for key, value in fields.items()])
    return 0


def remove(line: Namespace) -> int:
    """Carry out `models rm`."""
    from laguna_agent.backend.weights.store import Store

    freed = Store().remove(line.name)
    what = f"{_gigabytes(freed)} freed" if freed else "its file stays, another name uses it"
    show(f"{line.name} is removed, {what}")
    return 0


def _fields(model: StoredModel) -> dict[str, Any]:
    import msgspec

    return msgspec.structs.asdict(model)


def _gigabytes(size: Any) -> str:
    return f"{int(size) / 1e9:.2f} GB"


@contextmanager
def _progress_on_stderr(name: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """(progress, note): a live bar on a terminal; elsewhere a line for every tenth, so that logs stay short."""
    if not sys.stderr.isatty():
        yield _tenths(name), _say
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield (
            lambda done, size: bar.update(task, completed=done, total=size),
            lambda line: bar.console.print(line, markup=False, highlight=False),
        )


def _tenths(name: str) -> Callable[[int, int], None]:
    reached = -1

    def progress(done: int, size: int) -> None:
        nonlocal reached
        tenth = _LINES_PER_PULL * done // max(1, size)
        if tenth > reached:
            reached = tenth
            _say(f"{name}: {done / 1e6:.0f} of {size / 1e6:.0f} MB")

    return progress


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
