"""`laguna-agent data tokenizer|conversations|tokenise|pack|blend`: from texts to what a run learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laguna_agent.cli.data import (
    AVersion,
    Called,
    Settings,
    StoreAt,
    open_store,
    run_operation,
    show_outcome,
)
from laguna_agent.cli.options import Json, path_option
from laguna_agent.cli.printing import show, show_json, show_table
from laguna_agent.errors import ConfigError, UsageError

Weights = Annotated[
    list[str] | None, typer.Option("--weight", metavar="VERSION=W", help="a version's share; else that of its size")
]
Buckets = Annotated[
    list[str] | None, typer.Option("--bucket", metavar="BUCKET=W", help="a factor on a quality bucket's natural share")
]


def tokenizer(
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="documents to learn it from")] = None,
    given: Annotated[
        Path | None, path_option("--from", help="a tokenizer.json, or a checkpoint with its chat template, instead")
    ] = None,
    setting: Settings = None,
    name: Called = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Learn a tokenizer from documents (--set vocabulary=2048), or take one that there is."""
    if (version is None) == (given is None):
        raise UsageError("name a version to learn from, or a file with --from, and not both")
    if version is not None:
        return run_operation("tokenizer", [version], setting, name, store, as_json)
    opened = open_store(store)
    from laguna_agent.training.data.operations import Outcome
    from laguna_agent.training.data.tokenizers import keep

    if setting:
        raise UsageError("a tokenizer that is given has no settings")
    show_outcome(Outcome(keep(opened, given or Path(), name), ()), as_json)
    return 0


def conversations(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSONL files", readable=False)],
    shards: Annotated[int, typer.Option(metavar="N", help="shards that conversations are spread over")] = 16,
    name: Called = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Take conversations, one a line: {"messages": [...], "tools": [...]}."""
    opened = open_store(store)
    from laguna_agent.training.data.conversations import ingest_conversations
    from laguna_agent.training.data.operations import Outcome

    show_outcome(Outcome(ingest_conversations(opened, files, shards=shards, name=name), ()), as_json)
    return 0


def tokenise(
    version: AVersion,
    tokenizer: Annotated[str, typer.Argument(metavar="TOKENIZER", help="a version that `data tokenizer` made")],
    setting: Settings = None,
    name: Called = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Turn documents or conversations into tokens."""
    return run_operation("tokenise", [version, tokenizer], setting, name, store, as_json)


def pack(
    version: AVersion, setting: Settings = None, name: Called = None, store: StoreAt = None, as_json: Json = False
) -> int:
    """Put tokens into packs of one size (--set capacity=2048)."""
    return run_operation("pack", [version], setting, name, store, as_json)


def blend(
    versions: Annotated[list[str], typer.Argument(metavar="VERSION...", help="packed versions")],
    weight: Weights = None,
    bucket: Buckets = None,
    by_rank: Annotated[bool, typer.Option("--ranked", help="quality buckets weigh what `filter` was told")] = False,
    packs: Annotated[int, typer.Option(metavar="N", min=1, help="packs of the run")] = 10_000,
    seed: Annotated[int, typer.Option(metavar="SEED", help="of the order of packs")] = 0,
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Show what a run would learn from: each source's share, and how often it is gone through."""
    opened = open_store(store)
    from laguna_agent.training.data.blend import PackedStream, ranked
    from laguna_agent.training.data.pack_versions import fill_of

    weights = _numbers(weight, "--weight") if weight else None
    buckets = _numbers(bucket, "--bucket") if bucket else ranked(opened.open(versions[0])) if by_rank else None
    stream = PackedStream(opened, versions, weights, seed, buckets=buckets)
    stream.skip(packs)
    shares, epochs = stream.shares(), stream.epochs()
    fills = {name: fill_of(opened.open(name.partition("/")[0])) for name in shares}
    if as_json:
        told = [{"source": each, "share": shares[each], "epochs": epochs[each], "fill": fills[each]} for each in shares]
        show_json(told)
        return 0
    rows = [(each, f"{shares[each]:.2%}", f"{epochs[each]:.3g}", f"{fills[each]:.2%}") for each in shares]
    show_table([("SOURCE", "SHARE", "EPOCHS", "PACKS FULL"), *rows])
    show(f"after {packs:,} packs")
    return 0


def _numbers(given: list[str], option: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in given:
        name, _, value = each.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise ConfigError(f"{option} {each!r} is not NAME=NUMBER")
    return found


def mount(app: typer.Typer) -> None:
    """Add these commands to those of `data`."""
    app.command("tokenizer")(tokenizer)
    app.command("conversations")(conversations)
    app.command("tokenise")(tokenise)
    app.command("pack")(pack)
    app.command("blend")(blend)
