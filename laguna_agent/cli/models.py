"""`laguna-agent models`: the store of local models. stdout carries the answer, stderr the progress."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laguna_agent.cli.grammar import command_group
from laguna_agent.cli.options import Json, path_option
from laguna_agent.cli.printing import show, show_json, show_table

if TYPE_CHECKING:
    from laguna_agent.backend.weights.catalogue import ModelFile
    from laguna_agent.backend.weights.store import StoredModel

Name = Annotated[str, typer.Argument(metavar="NAME", help="a name that `models list` shows")]
From = Annotated[Path | None, path_option("--from", help="a GGUF file on this machine instead of the network")]
_LINES_PER_PULL = 10


def list_all(as_json: Json = False) -> int:
    """List the models in the store, and those that can be pulled."""
    from laguna_agent.backend.weights.catalogue import CATALOGUE
    from laguna_agent.backend.weights.store import Store

    stored = {model.name: model for model in Store().models()}
    known: dict[str, ModelFile | StoredModel] = {**CATALOGUE, **stored}
    rows = [
        {"name": entry.name, "size": entry.size, "licence": entry.licence, "stored": name in stored}
        for name, entry in sorted(known.items())
    ]
    if as_json:
        show_json(rows)
        return 0
    states = {True: "in the store", False: "models pull gets it"}
    cells = [
        (str(row["name"]), _gigabytes(row["size"]), str(row["licence"]), states[bool(row["stored"])]) for row in rows
    ]
    show_table([("NAME", "SIZE", "LICENCE", "STATE"), *cells])
    return 0


def pull(name: Name, file: From = None) -> int:
    """Get a model, verified by its SHA-256. A pull that was cut goes on where it was."""
    import anyio

    from laguna_agent.backend.weights.catalogue import CATALOGUE
    from laguna_agent.backend.weights.pull import pull as pull_weights
    from laguna_agent.backend.weights.store import Store
    from laguna_agent.errors import UsageError

    store = Store()
    with _progress_on_stderr(name) as (progress, note):
        if file is not None:
            model = store.adopt(name, file, progress)
        elif name in CATALOGUE:
            model = anyio.run(pull_weights, CATALOGUE[name], store, progress, note)
        else:
            names = ", ".join(sorted(CATALOGUE))
            raise UsageError(f"no model called {name!r} can be pulled; there are {names} (any GGUF: --from FILE)")
    show(f"{model.name} is in the store ({_gigabytes(model.size)}); use it with --model local/{model.name}")
    return 0


def show_model(name: Name, as_json: Json = False) -> int:
    """Show what the store has under a name."""
    from laguna_agent.backend.weights.store import Store

    store = Store()
    fields = _fields(store.get(name))
    fields["path"] = str(store.blob_path(fields["sha256"]))
    if as_json:
        show_json(fields)
    else:
        show_table([(key.replace("_", " "), str(value)) for key, value in fields.items()])
    return 0


def remove(name: Name) -> int:
    """Remove a model, and whatever a cut pull of it has left."""
    from laguna_agent.backend.weights.store import Store

    freed = Store().remove(name)
    what = f"{_gigabytes(freed)} freed" if freed else "its file stays, another name uses it"
    show(f"{name} is removed, {what}")
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


app = command_group("List, pull, show and remove models that run on this machine.", list_all)
app.command("list")(list_all)
app.command("pull")(pull)
app.command("show")(show_model)
app.command("rm")(remove)
