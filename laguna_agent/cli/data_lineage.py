"""`laguna-agent data lineage`: from a token to its document and back, from a checkpoint to its data and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laguna_agent.cli.data import StoreAt, open_store
from laguna_agent.cli.options import Json, path_option
from laguna_agent.cli.printing import show, show_json, show_table
from laguna_agent.errors import UsageError

if TYPE_CHECKING:
    from laguna_agent.training.data.lineage import Origin
    from laguna_agent.training.data.store import Store

Of = Annotated[str | None, typer.Argument(metavar="VERSION", help="a name, or the beginning of an id")]
Token = Annotated[int | None, typer.Option(metavar="N", help="the document of this token of a packed version")]
Document = Annotated[
    str | None, typer.Option(metavar="ID", help="the versions that hold this document: its SHA-256, or its path")
]
Checkpoint = Annotated[Path | None, path_option("--checkpoint", metavar="DIR", help="the data that this one saw")]
Runs = Annotated[Path | None, path_option("--runs", metavar="DIR", help="the checkpoints below DIR that saw VERSION")]


def lineage(
    version: Of = None,
    token: Token = None,
    document: Document = None,
    checkpoint: Checkpoint = None,
    runs: Runs = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Trace tokens to documents, documents to versions, checkpoints to data, and back; else list a version's line."""
    opened = open_store(store)
    from laguna_agent.training.data import lineage as traces

    if document is not None:
        _holders(opened, document, as_json)
    elif checkpoint is not None:
        _versions([each.id for each in traces.checkpoint_versions(opened, checkpoint)], opened, as_json)
    elif version is None:
        raise UsageError("lineage needs a VERSION, --document or --checkpoint; see `laguna-agent data lineage --help`")
    elif token is not None:
        _origin(traces.token_origin(opened.open(version), token), as_json)
    elif runs is not None:
        found = traces.runs_of(opened, opened.open(version), runs)
        rows: list[dict[str, Any]] = [{"checkpoint": str(each.folder), "versions": each.versions} for each in found]
        if as_json:
            show_json(rows)
        else:
            for row in rows:
                show(row["checkpoint"])
    else:
        _versions([each.id for each in opened.open(version).ancestry()], opened, as_json)
    return 0


def _origin(origin: Origin, as_json: bool) -> None:
    if as_json:
        show_json(origin._asdict() | {"places": [place._asdict() for place in origin.places]})
        return
    show(f"document {origin.document}, token {origin.token}; shard {origin.shard}, pack {origin.row}")
    show_table(
        [("SOURCE", "COMMIT", "PATH"), *((place.source, place.commit or "-", place.path) for place in origin.places)]
    )


def _holders(store: Store, document: str, as_json: bool) -> None:
    from laguna_agent.training.data import lineage as traces

    ids = sorted(traces.documents_at(store, document)) or [document]
    found = {id: traces.holders(store, id) for id in ids}
    if as_json:
        show_json({id: [held._asdict() for held in each] for id, each in found.items()})
        return
    rows = [
        (id[:16], held.version[:18], held.kind, held.operation, f"{len(held.rows)} rows, the first {held.rows[0]}")
        for id, each in found.items()
        for held in each
    ]
    show_table([("DOCUMENT", "VERSION", "KIND", "BY", "WHERE"), *rows])


def _versions(ids: list[str], store: Store, as_json: bool) -> None:
    from laguna_agent.training.data.lineage import commits

    versions = [store.open(id) for id in ids]
    if as_json:
        show_json(
            [
                {"version": each.id, "kind": each.kind, "operation": each.manifest.operation, "commits": commits(each)}
                for each in versions
            ]
        )
        return
    rows = [
        (each.short, each.kind, each.manifest.operation, " ".join(f"{k}@{v[:12]}" for k, v in commits(each).items()))
        for each in versions
    ]
    show_table([("VERSION", "KIND", "BY", "COMMITS"), *rows])
