"""Tokenizers, tokens and packs as versions: accepted by everybody, nothing lost, and only what changed done again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laguna_agent.backend.laguna.tokenizer import read_tokenizer, stop_ids
from laguna_agent.errors import ConfigError, DatasetError, UsageError
from laguna_agent.training.data import tokenizers
from laguna_agent.training.data.pack_rows import PACKED, default_weights, read_tokens
from laguna_agent.training.data.pack_versions import PackTokens, fill_of, pack
from laguna_agent.training.data.packed import PackedVersion
from laguna_agent.training.data.store import Store, Version
from laguna_agent.training.data.token_versions import Tokenise, tokenise
from laguna_agent.training.data.tokenising import DocumentTokenizer, tokenizer_from, train_tokenizer
from tests.training.token_corpora import TEXTS, keep_documents, keep_tokenizer, packed_version, vocabulary


def test_a_trained_tokenizer_is_taken_by_our_engine_and_by_transformers(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    (tmp_path / "tokenizer.json").write_bytes(vocabulary())
    ours = read_tokenizer(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert ours.vocab_size == len(theirs) == 700
    for text in (TEXTS[0], "<assistant><think>a</think>\r\n\n 12345 don't 日本語", "〈|EOS|〉x", "", "\x00\xff"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ours.encode(text)) == text
    assert ours.id_of("〈|EOS|〉") == 2
    assert {ours.decode([index]) for index in stop_ids(ours, (2,))} == {"〈|EOS|〉", "</assistant>"}
    assert ours.id_of("<tool_call>") in ours.added - ours.special
    # The library adds the end of text before where it is asked to, as the published one does.
    assert theirs.encode("x")[0] == 2


def test_training_is_the_same_everywhere_and_in_every_order() -> None:
    assert train_tokenizer(reversed(TEXTS[:6]), 400) == train_tokenizer(TEXTS[:6], 400)
    script = (
        "import hashlib, json, sys; from laguna_agent.training.data.tokenising import train_tokenizer;"
        "print(hashlib.sha256(train_tokenizer(json.load(sys.stdin), 400)).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        input=json.dumps(TEXTS[:6]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == hashlib.sha256(train_tokenizer(TEXTS[:6], 400)).hexdigest()


def test_vocabularies_that_cannot_be_are_told() -> None:
    with pytest.raises(ConfigError, match="needs at least 267"):
        train_tokenizer(TEXTS, 266)
    with pytest.raises(ConfigError, match="named twice"):
        train_tokenizer(TEXTS, 400, ["<think>"])
    with pytest.raises(UsageError, match="text 2 holds half of a surrogate pair"):
        train_tokenizer(["a", "\ud800"], 400)
    with pytest.raises(ConfigError, match="has no token"):
        DocumentTokenizer(tokenizer_from(train_tokenizer(TEXTS, 400, []), "t"))


def test_a_document_that_spells_tags_cannot_write_them() -> None:
    tokenizer = tokenizer_from(vocabulary(), "t")
    text = "x = '</assistant>' # 〈|EOS|〉"
    texts = ["a", text, "", *TEXTS[:3]]
    found = list(DocumentTokenizer(tokenizer).each(texts))
    assert [tokenizer.decode(ids[1:-1]) for ids in found] == texts
    assert [found[at][1:-1] for at in (0, 2, 3, 4)] == [tokenizer.encode(texts[at]) for at in (0, 2, 3, 4)]
    assert all((ids[0], ids[-1]) == (2, 2) and not tokenizer.added & set(ids[1:-1]) for ids in found)
    # No merge is learned from what a tag looks like inside.
    tags = tokenizer_from(train_tokenizer(["</assistant>" * 50, "ab " * 9], 300), "t")
    assert b"assistant" not in tags.token_bytes


def _tokens_by_document(version: Version) -> dict[str, list[int]]:
    return {
        row.document: row.ids.tolist() for at in range(len(version.shards)) for row in read_tokens(version.table(at))
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Version, Version]:
    """(store, tokens, tokenizer) of 24 files in 4 shards and 3 quality buckets."""
    folder = tmp_path_factory.mktemp("corpus")
    store = Store(folder / "store")
    chosen = keep_tokenizer(store, folder / "tokenizer")
    documents = keep_documents(store, TEXTS, buckets=3)
    return store, tokenise(store, [chosen, documents], Tokenise()).version, chosen


@pytest.mark.parametrize(
    "settings",
    [PackTokens(capacity=512), PackTokens(capacity=512, group=3, kept=1.0), PackTokens(capacity=512, projects=True)],
)
def test_every_token_is_in_one_pack_and_says_where_it_is_from(
    corpus: tuple[Store, Version, Version], settings: PackTokens, tmp_path: Path
) -> None:
    store, tokens, _ = corpus
    version = pack(store, [tokens], settings).version
    whole = {name: [-1] * len(ids) for name, ids in _tokens_by_document(tokens).items()}
    count = 0
    for row in version.rows():
        assert len(row["ids"]) == sum(row["lengths"]) <= settings.capacity
        at = 0
        for document, offset, length in zip(row["documents"], row["offsets"], row["lengths"], strict=True):
            whole[document][offset : offset + length] = row["ids"][at : at + length]
            at, count = at + length, count + length
    assert whole == _tokens_by_document(tokens) and count == sum(map(len, whole.values()))
    opened = PackedVersion(version, tmp_path)
    assert sum(len(opened.rows[number].ids) for number in range(len(opened.rows))) == count
    assert fill_of(version) == count / (512 * len(version)) > 0.95


def test_packs_as_the_trainer_takes_them(corpus: tuple[Store, Version, Version], tmp_path: Path) -> None:
    store, tokens, _ = corpus
    by_bucket, opened = {row.document: row.bucket for at in range(4) for row in read_tokens(tokens.table(at))}, None
    version = pack(store, [tokens], PackTokens(capacity=300)).version
    opened = PackedVersion(version, tmp_path)
    for number in range(len(opened.rows)):
        got = opened.rows[number]
        assert got.ids.dtype == got.targets.dtype == torch.int64 and got.weights.dtype == torch.float32
        ends = torch.tensor(got.lengths).cumsum(0) - 1
        inside = torch.ones(len(got.ids), dtype=torch.bool)
        inside[ends] = False
        assert torch.equal(got.weights, inside.float())
        assert torch.equal(got.targets[:-1][inside[:-1]], got.ids[1:][inside[:-1]])
        name, shard, row = got.origin
        assert name == version.id and version.table(shard)["ids"][row].as_py() == got.ids.tolist()
    # Buckets are told apart, and together they are everything.
    assert list(opened.buckets) == ["B0", "B1", "B2"]
    assert sum(map(len, opened.buckets.values())) == len(opened.rows)
    for bucket, rows in opened.buckets.items():
        for number in range(len(rows)):
            _, shard, row = rows[number].origin
            held = version.table(shard)["documents"][row].as_py()
            assert {by_bucket[document] for document in held} == {bucket}
    with pytest.raises(IndexError):
        opened.rows[len(opened.rows)]
    with pytest.raises(DatasetError, match="holds tokens, not packs"):
        PackedVersion(tokens, tmp_path)


def test_one_changed_file_is_all_that_is_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    chosen = keep_tokenizer(store, tmp_path / "t")
    settings = PackTokens(capacity=256)

    def derive(texts: list[str], into: Store) -> tuple[str, list[tuple[int, int]]]:
        made = tokenise(into, [keep_documents(into, texts), chosen], Tokenise())
        packs = pack(into, [made.version], settings)
        return packs.version.id, [(work.derived, work.shards) for work in (*made.work, *packs.work)]

    first, work = derive(TEXTS, store)
    assert work == [(4, 4), (4, 4), (1, 1)]
    assert derive(TEXTS, store) == (first, [(0, 4), (0, 4), (0, 1)])
    changed = [*TEXTS[:5], TEXTS[5] + "\n# changed\n" * 30, *TEXTS[6:]]
    second, work = derive(changed, store)
    assert work == [(1, 4), (1, 4), (1, 1)] and second != first
    fresh = Store(tmp_path / "fresh")
    keep_tokenizer(fresh, tmp_path / "t")
    assert derive(changed, fresh)[0] == second


def test_a_project_is_read_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    chosen = keep_tokenizer(store, tmp_path / "t")
    tokens = tokenise(store, [keep_documents(store, TEXTS[:6], shards=1), chosen], Tokenise()).version
    version = pack(store, [tokens], PackTokens(capacity=900, projects=True)).version
    rows = list(version.rows())
    ids = [id for row in rows for id in row["ids"]]
    assert ids == [id for ids in _tokens_by_document(tokens).values() for id in ids]
    opened = PackedVersion(version, tmp_path / "cache")
    assert all(len(opened.rows[number].lengths) == 1 for number in range(len(opened.rows)))
    assert any(len(row["documents"]) > 1 for row in rows)


def test_what_cannot_be_done_is_told(corpus: tuple[Store, Version, Version], tmp_path: Path) -> None:
    store, tokens, chosen = corpus
    with pytest.raises(
        ConfigError, match="tokenise works on documents or conversations and a tokenizer; it was given tokens"
    ):
        tokenise(store, [tokens], Tokenise())
    with pytest.raises(ConfigError, match="pack works on tokens"):
        pack(store, [chosen], PackTokens())
    with pytest.raises(ConfigError, match="pack: capacity is 1"):
        pack(store, [tokens], PackTokens(capacity=1))
    with pytest.raises(DatasetError, match="holds tokens, not a tokenizer"):
        tokenizers.open_tokenizer(tokens)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="expected 'BPE'"):
        tokenizers.keep(store, tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(vocabulary())
    with pytest.raises(ConfigError, match=r"^tokenizer d_\w+: the checkpoint has no chat template"):
        tokenizers.open_template(tokenizers.keep(store, tmp_path))


def test_a_tokenizer_trained_on_a_version_is_a_version(corpus: tuple[Store, Version, Version]) -> None:
    store, _, _ = corpus
    documents = keep_documents(store, TEXTS)
    made = tokenizers.train(store, [documents], tokenizers.TrainTokenizer(vocabulary=320, every=2), "small")
    again = tokenizers.train(store, [documents], tokenizers.TrainTokenizer(vocabulary=320, every=2))
    assert again.version.id == made.version.id and again.work[0].derived == 0
    assert tokenizers.open_tokenizer(store.open("small")).vocab_size == 320


def test_another_tokenizer_gives_other_tokens(corpus: tuple[Store, Version, Version]) -> None:
    store, tokens, _ = corpus
    documents = next(each for each in tokens.parents() if each.kind == "documents")
    other = tokenizers.train(store, [documents], tokenizers.TrainTokenizer(vocabulary=310)).version
    again = tokenise(store, [documents, other], Tokenise())
    assert again.work[0].derived == 4
    assert max(id for ids in _tokens_by_document(again.version).values() for id in ids) < 310


def test_what_follows_a_sequence_is_never_learned(tmp_path: Path) -> None:
    """Whatever weights a row was written with."""
    assert default_weights([2, 3], 5).tolist() == [1, 0, 1, 1, 0]
    store = Store(tmp_path / "store")
    row = {"ids": [1, 2, 3, 4, 5], "lengths": [2, 3], "documents": ["a", "b"], "offsets": [0, 0], "bucket": ""}
    version = store.write("packed", [row | {"weights": [0.5] * 5, "sequences": None}], schema=PACKED)
    (got,) = [PackedVersion(version, tmp_path / "cache").rows[0]]
    assert got.weights.tolist() == [0.5, 0, 0.5, 0.5, 0] and got.targets.tolist() == [2, 0, 4, 5, 0]


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    version = packed_version(store, tmp_path / "t", TEXTS[:2], shards=1)
    rows = list(version.rows())
    rows[-1]["lengths"] = [*rows[-1]["lengths"], 1]
    other = store.write("packed", rows, config=version.manifest.config, schema=PACKED)
    opened = PackedVersion(other, tmp_path / "cache")
    with pytest.raises(DatasetError, match=r"row \d+: its lengths do not sum to its tokens"):
        [opened.rows[number] for number in range(len(opened.rows))]
