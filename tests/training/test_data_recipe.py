"""Pipelines from a file, what they do again after a change, and where tokens, documents and checkpoints lead."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from laguna_agent.cli.app import run_command
from laguna_agent.errors import ConfigError, DatasetError, UsageError
from laguna_agent.training.data import lineage
from laguna_agent.training.data.difference import difference
from laguna_agent.training.data.ingest import Ingest, ingest
from laguna_agent.training.data.recipe import build, read_recipe
from laguna_agent.training.data.sources import Source
from laguna_agent.training.data.store import Store, Version
from laguna_agent.training.data.verify import collect, verify
from tests.training.test_data_ingest import committed, tree

RECIPE = """
name = "corpus"
[ingest]
shards = 8
[[source]]
name = "p"
folder = "project"
include = ["**/*.py"]
[[step]]
operation = "filter"
called = "ranked"
[[step]]
operation = "dedup"
threshold = 0.9
[[step]]
operation = "order"
documents_per_shard = 4
"""


def module(at: int) -> str:
    """A file unlike the others, which imports the one before it."""
    body = "\n".join(f"def function_{at}_{line}(a{at}):\n    return a{at} + {line * at}\n" for line in range(6))
    return f'"""Module {at}."""\n\n{f"import m{at - 1:02}" if at else "import os"}\n\n{body}'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe beside the project that it is about."""
    tree(tmp_path / "project", {f"m{at:02}.py": module(at) for at in range(40)})
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def test_after_one_changed_file_only_its_shards_are_derived(recipe: Path, tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "store"), read_recipe(recipe)
    first = build(store, wanted)
    assert all(work.derived == work.shards for work in first.work if work.operation != "dedup")
    assert [work.derived for work in build(store, wanted).work] == [0] * 7
    # What a named version was made by must still be known after what nothing needs was taken away.
    store.close()
    collect(store)
    assert [work.derived for work in build(store, wanted).work] == [0] * 7
    tree(tmp_path / "project", {"m30.py": module(30).replace("return", "return 1 +")})
    changed = build(store, wanted)
    done = {work.operation: work.derived for work in changed.work}
    assert done == {"ingest": 1, "score": 1, "bucket": 1, "signatures": 1, "dedup": 0, "imports": 1, "order": 1}
    whole = build(Store(tmp_path / "fresh"), wanted)
    assert whole.version.id == changed.version.id == store.open("corpus").id != first.version.id
    assert [row["path"] for row in changed.version.rows(["path"])] == [f"m{at:02}.py" for at in range(40)]
    found = difference(first.version, changed.version)
    assert found.changed == ("p:m30.py",)
    assert found.added == found.removed == found.reranked == found.settings == ()
    assert found.shards_shared == len(first.version.shards) - 1
    assert verify(store).problems == ()
    # The same name may lead elsewhere in the store: a step says which one of this recipe it means.
    assert store.open("ranked").id == changed.version.parents()[0].parents()[0].id


def test_a_removed_and_a_new_file_give_what_a_rebuild_gives(recipe: Path, tmp_path: Path) -> None:
    store, wanted = Store(tmp_path / "store"), read_recipe(recipe)
    tree(tmp_path / "project", {"broken.py": "def ("})
    build(store, wanted)
    assert store.open("ranked").manifest.left_out == {"does not parse": 1}
    (tmp_path / "project/broken.py").unlink()
    build(store, wanted)
    assert store.open("ranked").manifest.left_out == {}
    (tmp_path / "project/m07.py").unlink()
    tree(tmp_path / "project", {"n.py": module(90), "copy.py": module(12)})
    outcome = build(store, wanted)
    assert outcome.version.id == build(Store(tmp_path / "fresh"), wanted).version.id
    assert {work.operation: work.derived for work in outcome.work}["signatures"] <= 3
    assert len(outcome.version) == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[source", "cannot be read"),
        ("name = 1", "name"),
        ("source = []\nnaem = 'x'", "naem"),
        ("source = []\n[[step]]\noperation = 'fold'", "step 1: there is no operation 'fold'"),
        ("source = []\n[[step]]\noperation = 'dedup'\nthreshold = 'much'", "step 1: .*threshold"),
        ("source = []\n[[step]]\noperation = 'dedup'\ntreshold = 0.5", "treshold"),
        ("source = []\n[[step]]\noperation = 'dedup'\nof = 'x'", "of is a list"),
        ("source = [{name = 'x', path = 'y'}]", "path"),
    ],
)
def test_a_recipe_that_is_wrong_is_explained(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_recipe(tmp_path / "recipe.toml")


def packed(store: Store, parent: Version) -> Version:
    """Two shards of packs: the second has a piece that begins within its document."""
    ids = {row["path"]: row["id"] for row in parent.rows(["id", "path"])}
    columns = {"ids": "list<int32>", "lengths": "list<int32>", "documents": "list<string>", "offsets": "list<int32>"}
    packs = [([3, 2], [ids["a.py"], ids["b.py"]], [0, 0]), ([4], [ids["b.py"]], [2])]
    tables = [
        pa.table(
            {
                "ids": pa.array([list(range(sum(lengths)))], pa.list_(pa.int32())),
                "lengths": pa.array([lengths], pa.list_(pa.int32())),
                "documents": pa.array([names], pa.list_(pa.string())),
                "offsets": pa.array([offsets], pa.list_(pa.int32())),
            }
        )
        for lengths, names, offsets in packs
    ]
    return store.write("packed", tables, parents=(parent,), schema=tuple(columns.items()))


@pytest.fixture
def traced(tmp_path: Path) -> tuple[Store, Version, str]:
    """A store with a packed version of a commit, under the name `packs`; and the commit."""
    root = tree(tmp_path / "p", {"a.py": "a = 1\n", "b.py": "b = 2\n", "sub/same.py": "b = 2\n"})
    commit = committed(root)
    store = Store(tmp_path / "store")
    version = packed(store, ingest(store, [Source("p", git=str(root))], Ingest(shards=2)).version)
    store.name("packs", version.id)
    return store, version, commit


def test_a_token_leads_to_its_document_and_back(traced: tuple[Store, Version, str]) -> None:
    store, version, commit = traced
    expected = [("a.py", 0), ("a.py", 1), ("a.py", 2), ("b.py", 0), ("b.py", 1)] + [("b.py", at) for at in range(2, 6)]
    for offset, (path, token) in enumerate(expected):
        origin = lineage.token_origin(version, offset)
        assert origin.token == token
        assert origin.places[0][1:] == ("p", path, commit)
        assert len(origin.places) == (1 if path == "a.py" else 2)
    for offset in (-1, 9):
        with pytest.raises(DatasetError, match="9 tokens"):
            lineage.token_origin(version, offset)
    assert [each.token for each in lineage.pack_origins(version, 0, 0)] == [0, 0]
    held = lineage.holders(store, lineage.token_origin(version, 4).document)
    assert {each.version: each.rows for each in held}[version.id] == ((0, 0), (1, 0))
    assert {each.kind for each in held} == {"documents", "packed"}
    assert lineage.documents_at(store, "p:sub/same.py") == {lineage.token_origin(version, 4).document}
    with pytest.raises(DatasetError, match="no version"):
        lineage.holders(store, "f" * 64)


def test_a_checkpoint_leads_to_its_data_and_back(traced: tuple[Store, Version, str], tmp_path: Path) -> None:
    store, version, _ = traced
    runs = tmp_path / "runs"
    told = {"run": "r", "versions": {"packs": version.id}, "code": {"version": "1", "sha256": "0" * 64}}
    tree(runs, {"r/step-10/lineage.json": json.dumps(told), "s/step-2/lineage.json": '{"versions": {}}'})
    found = lineage.checkpoint_versions(store, runs / "r/step-10")
    assert [each.id for each in found] == [version.id]
    for seen in (version, *version.parents()):
        assert [each.folder for each in lineage.runs_of(store, seen, runs)] == [runs / "r/step-10"]
    tree(runs, {"s/step-2/lineage.json": "?"})
    with pytest.raises(DatasetError, match="cannot be read"):
        lineage.checkpoint_versions(store, runs / "s/step-2")


def test_the_commands(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--store", str(tmp_path / "store")]

    def said(*arguments: str) -> str:
        assert run_command(["data", *arguments, *where]) == 0
        return capsys.readouterr().out

    assert "ingest: derived 8 of 8 shards" in said("build", str(recipe))
    again = said("build", str(recipe))
    assert "order: derived 0 of" in again
    log = json.loads(said("log", "--json"))
    assert len(log) == 4
    assert [each["names"] for each in log if each["names"]].count(["corpus"]) == 1
    assert "corpus" in said("log")
    shown = json.loads(said("show", "corpus", "--json"))
    assert shown["rows"] == 40 and shown["operation"] == "order"
    assert shown["version"] in said("show", "corpus")
    dedup = json.loads(
        said("dedup", "ranked", "--set", "method=exact", "--set", "threshold=0.5", "--json", "--name", "x")
    )
    assert dedup["parents"] == [Store(tmp_path / "store").resolve("ranked")]
    assert "config settings: " in said("diff", dedup["version"], "corpus")
    taken = json.loads(said("ingest", str(tmp_path / "project"), "--include", "m0*.py", "--source", "q", "--json"))
    assert taken["rows"] == 10 and taken["left_out"] == {"not included": 30}
    assert len(json.loads(said("lineage", "corpus", "--json"))) == 4
    assert "rows" in said("lineage", "--document", "p:m03.py")
    assert "are whole" in said("verify")
    assert "would go" in said("gc", "--dry-run")
    said("name", "y", "corpus")
    said("name", "y")
    with pytest.raises(ConfigError, match="treshold"):
        run_command(["data", "dedup", "corpus", "--set", "treshold=1", *where])
    with pytest.raises(UsageError, match="needs a VERSION"):
        run_command(["data", "lineage", *where])
    shard = next((tmp_path / "store/shards").iterdir())
    shard.unlink()
    with pytest.raises(DatasetError) as failed:
        run_command(["data", "verify", *where])
    assert failed.value.exit_code == 2 and shard.name in str(failed.value)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(UsageError, match=r"pyarrow; type: pip install 'laguna-agent\[train\]'"):
        run_command(["data", "log"])
