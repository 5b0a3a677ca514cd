"""`laguna-agent data` from files to packs: by commands, and by a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laguna_agent.cli.app import run_command
from laguna_agent.errors import ConfigError, UsageError
from laguna_agent.training.data.lineage import token_origin
from laguna_agent.training.data.store import Store
from laguna_agent.training.data.tokenizers import open_tokenizer, vocabulary_of
from tests.training.token_corpora import TEMPLATES, TEXTS, WORK

RECIPE = """
name = "packs"
[ingest]
shards = 4
[[source]]
name = "here"
folder = "files"
[[step]]
operation = "filter"
[[step]]
operation = "order"
documents_per_shard = 4
called = "ordered"
[[step]]
operation = "tokenizer"
vocabulary = 400
called = "words"
[[step]]
operation = "tokenise"
of = ["ordered", "words"]
[[step]]
operation = "pack"
capacity = 256
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number, text in enumerate(TEXTS[:12]):
        (folder / f"f{number}.py").write_text(text)
    return folder


def test_a_recipe_leads_from_files_to_packs_and_back(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    root = tmp_path / "store"
    assert run_command(["data", "build", str(recipe), "--store", str(root)]) == 0
    store = Store(root)
    version, words = store.open("packs"), store.open("words")
    first = version.id
    capsys.readouterr()
    # The same again does nothing, whatever is derived of it.
    assert run_command(["data", "build", str(recipe), "--store", str(root), "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert sum(work["derived"] for step in steps for work in step["work"]) == 0 and steps[-1]["version"] == first
    # What `filter` ranked, a blend weighs.
    assert run_command(["data", "blend", "packs", "--ranked", "--store", str(root), "--json"]) == 0
    shares = {each["source"].partition("/")[2]: each["share"] for each in json.loads(capsys.readouterr().out)}
    assert list(shares) == [f"B{at}" for at in range(8)] and shares["B7"] > 3 * shares["B1"] > 9 * shares["B0"]
    # Every token is traced to the text that it is of.
    tokenizer, row = open_tokenizer(words), next(version.rows())
    origin = token_origin(version, row["lengths"][0] - 2)
    assert origin.document == row["documents"][0]
    (text,) = [each["text"] for each in store.open("ordered").rows() if each["id"] == origin.document]
    whole = tokenizer.encode(text)
    # One token stands before the text.
    assert whole[origin.token - 1] == row["ids"][row["lengths"][0] - 2]
    assert origin.places[0].path.endswith(".py")


def test_commands_one_by_one(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--store", str(tmp_path / "store")]
    (tmp_path / "c.jsonl").write_text(json.dumps(WORK) + "\n")

    def data(*arguments: str) -> str:
        assert run_command(["data", *arguments, *at]) == 0
        return capsys.readouterr().out

    data("ingest", str(files), "--shards", "2", "--name", "docs")
    data("tokenizer", "docs", "--set", "vocabulary=400", "--set", "every=2", "--name", "learned")
    data("tokenise", "docs", "learned", "--name", "tokens")
    assert "derived 2 of 2 shards" in data("pack", "tokens", "--set", "capacity=512", "--name", "packs")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "tokenizer.json").write_bytes(vocabulary_of(Store(tmp_path / "store").open("learned")))
    (checkpoint / "chat_template.jinja").write_text((TEMPLATES / "compact.jinja").read_text())
    data("tokenizer", "--from", str(checkpoint), "--name", "chat")
    data("conversations", str(tmp_path / "c.jsonl"), "--name", "talks")
    data("tokenise", "talks", "chat", "--name", "talk-tokens")
    data("pack", "talk-tokens", "--set", "capacity=512", "--name", "sft")
    told = json.loads(
        data("blend", "packs", "sft", "--weight", "packs=0.75", "--weight", "sft=0.25", "--packs", "8", "--json")
    )
    assert [(each["source"], each["share"]) for each in told] == [("packs", 0.75), ("sft", 0.25)]
    assert told[1]["epochs"] == 2.0 and told[0]["fill"] > 0.9
    assert "75.00%" in data("blend", "packs", "sft", "--weight", "packs=3", "--weight", "sft=1", "--packs", "400")
    assert "are whole" in data("verify")
    for wrong, error in (
        (["tokenizer"], UsageError),
        (["blend", "packs", "--weight", "packs=much"], ConfigError),
        (["pack", "tokens", "--set", "size=5"], ConfigError),
    ):
        with pytest.raises(error):
            run_command(["data", *wrong, *at])
