"""`laguna-agent data`: versions of training data: made, listed, traced, compared, checked. Needs the extra `train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from laguna_agent.cli.grammar import command_group
from laguna_agent.cli.options import Json, path_option
from laguna_agent.cli.printing import show, show_json, show_table
from laguna_agent.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from laguna_agent.training.data.operations import Outcome
    from laguna_agent.training.data.store import Store, Version

StoreAt = Annotated[Path | None, path_option("--store", metavar="DIR", help="the store; else the one of this person")]
AVersion = Annotated[str, typer.Argument(metavar="VERSION", help="a name, or the beginning of an id")]
Called = Annotated[str | None, typer.Option("--name", metavar="NAME", help="call the version so from now on")]
Include = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="only these paths; may be repeated")]
Exclude = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="without these paths; may be repeated")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a setting of the operation")]
_EXTRA = ("pyarrow", "datasketch", "numpy")


def open_store(at: Path | None) -> Store:
    """The store that a command works on. Raises UsageError where the extra is not installed."""
    from importlib.util import find_spec

    missing = [package for package in _EXTRA if find_spec(package) is None]
    if missing:
        raise UsageError(f"datasets need {', '.join(missing)}; type: pip install 'laguna-agent[train]'")
    from laguna_agent.training.data.store import Store

    return Store(at)


def ingest(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="a folder, or with --git a repository")],
    git: Annotated[bool, typer.Option("--git", help="read a commit of a git repository")] = False,
    commit: Annotated[str, typer.Option(metavar="REV", help="the commit")] = "HEAD",
    source: Annotated[str | None, typer.Option(metavar="NAME", help="what its documents are known by")] = None,
    include: Include = None,
    exclude: Exclude = None,
    shards: Annotated[int, typer.Option(metavar="N", help="shards that documents are spread over")] = 64,
    largest: Annotated[int, typer.Option(metavar="BYTES", help="larger files are left out")] = 1_000_000,
    name: Called = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Take the files of a folder or of a commit as documents."""
    opened = open_store(store)
    from laguna_agent.training.data.ingest import Ingest
    from laguna_agent.training.data.ingest import ingest as take
    from laguna_agent.training.data.sources import Source

    called = source or Path(place).resolve().name
    places = {"git": place, "commit": commit} if git else {"folder": place}
    wanted = Source(called, include=tuple(include or ("**",)), exclude=tuple(exclude or ()), **places)
    outcome = take(opened, [wanted], Ingest(shards, largest), name)
    show_outcome(outcome, as_json)
    return 0


def filter_documents(
    version: AVersion, setting: Settings = None, name: Called = None, store: StoreAt = None, as_json: Json = False
) -> int:
    """Rank documents by quality, in buckets; leave out what is broken."""
    return run_operation("filter", [version], setting, name, store, as_json)


def dedup(
    version: AVersion, setting: Settings = None, name: Called = None, store: StoreAt = None, as_json: Json = False
) -> int:
    """Leave out near-duplicates but the best-ranked one of each."""
    return run_operation("dedup", [version], setting, name, store, as_json)


def order(
    version: AVersion, setting: Settings = None, name: Called = None, store: StoreAt = None, as_json: Json = False
) -> int:
    """Put files behind what they import, project by project."""
    return run_operation("order", [version], setting, name, store, as_json)


def run_operation(
    operation: str,
    versions: list[str],
    setting: list[str] | None,
    name: str | None,
    store: Path | None,
    as_json: bool,
) -> int:
    """Do one operation to versions and tell what came of it."""
    opened = open_store(store)
    from laguna_agent.training.data.operations import operation as find
    from laguna_agent.training.data.operations import settings

    found = find(operation)
    config = settings(found.config, _values(setting or []), operation)
    outcome = found.run(opened, [opened.open(version) for version in versions], config)
    if name is not None:
        opened.name(name, outcome.version.id)
    show_outcome(outcome, as_json)
    return 0


def _values(given: list[str]) -> dict[str, Any]:
    """Settings as TOML has them; what is no TOML value is a text."""
    import tomllib

    found: dict[str, Any] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {each!r} is not KEY=VALUE")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def build(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="a TOML file", readable=False)],
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Carry a recipe out: only what changed since the last time is done anew."""
    opened = open_store(store)
    from laguna_agent.training.data.recipe import build as carry_out
    from laguna_agent.training.data.recipe import read_recipe

    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if not as_json:
            show_outcome(outcome, False)

    carry_out(opened, read_recipe(recipe), report)
    if as_json:
        show_json([_outcome(outcome) for outcome in outcomes])
    return 0


def log(store: StoreAt = None, as_json: Json = False) -> int:
    """List the versions, the newest first."""
    opened = open_store(store)
    names: dict[str, list[str]] = {}
    for name, id in opened.names().items():
        names.setdefault(id, []).append(name)
    versions = sorted((opened.open(id) for id in opened.ids()), key=lambda each: (each.manifest.created, each.id))[::-1]
    if as_json:
        show_json([_told(version) | {"names": names.get(version.id, [])} for version in versions])
        return 0
    cells = [
        (
            version.short,
            version.kind,
            version.manifest.operation,
            f"{len(version):,}",
            version.manifest.created,
            " ".join(names.get(version.id, [])),
        )
        for version in versions
    ]
    show_table([("VERSION", "KIND", "BY", "ROWS", "CREATED", "NAMES"), *cells])
    return 0


def show_version(version: AVersion, store: StoreAt = None, as_json: Json = False) -> int:
    """Show what a version says of itself."""
    found = open_store(store).open(version)
    manifest = found.manifest
    if as_json:
        show_json(_told(found) | {"manifest": manifest})
        return 0
    rows = [
        ("version", found.id),
        ("kind", manifest.kind),
        ("by", manifest.operation),
        ("rows", f"{manifest.rows:,} in {len(manifest.shards)} shards, {manifest.bytes:,} bytes"),
        ("parents", " ".join(manifest.parents)),
        ("columns", ", ".join(f"{name} {kind}" for name, kind in manifest.columns)),
        ("code", f"{manifest.code.hash} {_spelled(manifest.code.engines)}"),
        ("created", f"{manifest.created} by {manifest.writer}"),
        ("left out", _spelled(manifest.left_out)),
    ]
    show_table([*rows, *((f"config {key}", str(value)) for key, value in manifest.config.items())])
    return 0


def diff(
    old: Annotated[str, typer.Argument(metavar="A")],
    new: Annotated[str, typer.Argument(metavar="B")],
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Show what is in version B and not in A, and the other way round."""
    opened = open_store(store)
    from laguna_agent.training.data.difference import difference

    found = difference(opened.open(old), opened.open(new))
    if as_json:
        show_json(found._asdict())
        return 0
    for mark, keys in (("+", found.added), ("-", found.removed), ("~", found.changed), ("=", found.reranked)):
        for key in keys:
            show(_plain(f"{mark} {key}"))
    for what, before, after in found.settings:
        show(_plain(f"{what}: {before} -> {after}"))
    show(
        f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed, {len(found.reranked)} "
        f"ranked anew; {found.shards_shared} shards in both, of {found.shards_old} and {found.shards_new}"
    )
    return 0


def verify(
    versions: Annotated[list[str] | None, typer.Argument(metavar="VERSION", help="else the whole store")] = None,
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Check every hash, row and parent; exit code 2 where something is wrong."""
    opened = open_store(store)
    from laguna_agent.errors import DatasetError
    from laguna_agent.training.data.verify import verify as check

    found = check(opened, versions or ())
    if as_json:
        show_json(found._asdict())
    else:
        for problem in found.problems:
            show(_plain(problem))
    if found.problems:
        more = f" (and {len(found.problems) - 1} more)" if len(found.problems) > 1 else ""
        raise DatasetError(f"{found.problems[0]}{more}")
    if not as_json:
        show(f"{found.versions} versions and {found.shards} shards are whole")
    return 0


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only tell what would go")] = False,
    store: StoreAt = None,
    as_json: Json = False,
) -> int:
    """Take away the versions that no name leads to, and their files."""
    opened = open_store(store)
    from laguna_agent.training.data.verify import collect

    found = collect(opened, dry=dry_run)
    if as_json:
        show_json(found._asdict())
    else:
        verb = "would go" if dry_run else "are gone"
        show(f"{len(found.versions)} versions and {found.files} files of {found.bytes:,} bytes {verb}")
    return 0


def name_version(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="else the name is let go")] = None,
    store: StoreAt = None,
) -> int:
    """Call a version by a name, or let a name go."""
    opened = open_store(store)
    if version is None:
        opened.forget_name(name)
    else:
        opened.name(name, version)
    return 0


def show_outcome(outcome: Outcome, as_json: bool) -> None:
    """What an operation made, and how much of it was done anew."""
    if as_json:
        show_json(_outcome(outcome))
        return
    version = outcome.version
    for work in outcome.work:
        show(str(work))
    left_out = _spelled(version.manifest.left_out)
    show(f"{version.short}  {len(version):,} {version.kind}" + (f"; left out: {left_out}" if left_out else ""))


def _outcome(outcome: Outcome) -> dict[str, Any]:
    work = [each._asdict() for each in outcome.work]
    return _told(outcome.version) | {"work": work}


def _told(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "version": version.id,
        "kind": version.kind,
        "operation": manifest.operation,
        "rows": manifest.rows,
        "bytes": manifest.bytes,
        "shards": len(manifest.shards),
        "parents": list(manifest.parents),
        "left_out": manifest.left_out,
        "created": manifest.created,
    }


def _spelled(counts: dict[str, Any]) -> str:
    return ", ".join(f"{key} {count}" for key, count in sorted(counts.items()))


def _plain(line: str) -> str:
    from laguna_agent.visible import visible_line

    return visible_line(line)


app = command_group("Make, list, trace, compare and check versions of training data.", log)
app.command("ingest")(ingest)
app.command("filter")(filter_documents)
app.command("dedup")(dedup)
app.command("order")(order)
app.command("build")(build)
app.command("log")(log)
app.command("show")(show_version)
app.command("diff")(diff)
app.command("verify")(verify)
app.command("gc")(gc)
app.command("name")(name_version)
