"""Blends: shares at every beginning, epochs without repetition, and a cursor that goes on exactly where it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.errors import ConfigError, DatasetError
from laguna_agent.training.batch import Pack
from laguna_agent.training.data import tokenizers
from laguna_agent.training.data.blend import PackedStream
from laguna_agent.training.data.pack_versions import PackTokens, pack
from laguna_agent.training.data.store import Store
from laguna_agent.training.data.token_versions import Tokenise, tokenise
from tests.training.token_corpora import TEXTS, keep_documents, keep_tokenizer

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three packed versions of different sizes; `c` has two quality buckets."""
    folder = tmp_path_factory.mktemp("blend")
    made = Store(folder / "store")
    chosen = keep_tokenizer(made, folder / "t")
    for name, texts, buckets in (("a", TEXTS[:2], 0), ("b", TEXTS[2:3], 0), ("c", TEXTS[3:9], 2)):
        documents = keep_documents(made, texts, shards=2, source=name, buckets=buckets)
        tokens = tokenise(made, [documents, chosen], Tokenise()).version
        pack(made, [tokens], PackTokens(capacity=200), name)
    return made


def _origins(packs: Sequence[Pack]) -> list[tuple[str, int, int]]:
    return [each.origin for each in packs]


def test_shares_hold_at_every_beginning(store: Store) -> None:
    stream = PackedStream(store, NAMES, {"a": 0.5, "b": 0.2, "c": 0.3}, seed=3)
    ids = {store.resolve(name): name for name in NAMES}
    counts = dict.fromkeys(NAMES, 0)
    for number in range(1, 200):
        counts[ids[stream.take(1)[0].origin[0]]] += 1
        for name, share in (("a", 0.5), ("b", 0.2), ("c", 0.3)):
            assert abs(counts[name] - share * number) < 1
        assert stream.shares() == {name: count / number for name, count in counts.items()}


def test_without_weights_each_has_the_share_of_its_size(store: Store) -> None:
    stream = PackedStream(store, NAMES, seed=1)
    sizes = {name: len(store.open(name)) for name in NAMES}
    stream.take(sum(sizes.values()))
    assert stream.epochs() == dict.fromkeys(NAMES, 1.0)
    assert stream.shares() == {name: size / sum(sizes.values()) for name, size in sizes.items()}


def test_an_epoch_has_every_pack_once_and_the_next_one_another_order(store: Store) -> None:
    stream, count = PackedStream(store, ["a"], seed=5), len(store.open("a"))
    first, second = _origins(stream.take(count)), _origins(stream.take(count))
    assert len(set(first)) == count and set(first) == set(second) and first != second
    assert _origins(PackedStream(store, ["a"], seed=5).take(count)) == first
    assert _origins(PackedStream(store, ["a"], seed=6).take(count)) != first


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 2**40))
@settings(max_examples=25)
def test_cut_anywhere_it_goes_on_with_the_same_packs(
    store: Store, before: int, cut: int, after: int, seed: int
) -> None:
    """A stream that changes its weights after `before` packs and is cut after `cut` more, against one that is not."""
    first, then = {"a": 1, "b": 3, "c": 2.5}, {"a": 5, "b": 0, "c": 1}
    whole = PackedStream(store, NAMES, first, seed)
    whole.take(before)
    whole.reweigh(then)
    whole.take(cut)
    state = json.loads(json.dumps(whole.state_dict()))
    expected = _origins(whole.take(after))
    other = PackedStream(store, NAMES, None, seed)
    other.take(7)
    other.load_state_dict(state)
    assert _origins(other.take(after)) == expected
    assert other.state_dict() == whole.state_dict()
    assert other.shares() == whole.shares()


def test_a_change_of_weights_is_kept_and_changes_nothing_before_it(store: Store) -> None:
    plain = PackedStream(store, NAMES, {"a": 1, "b": 1, "c": 1}, seed=2)
    changed = PackedStream(store, NAMES, {"a": 1, "b": 1, "c": 1}, seed=2)
    assert _origins(plain.take(10)) == _origins(changed.take(10))
    changed.reweigh({"a": 0, "b": 0, "c": 1})
    assert {origin[0] for origin in _origins(changed.take(20))} == {store.resolve("c")}
    assert changed.state_dict()["weighings"] == [
        {"since": 0, "weights": [1.0, 1.0, 1.0]},
        {"since": 10, "weights": [0.0, 0.0, 1.0]},
    ]
    changed.reweigh({"a": 1, "b": 0, "c": 0})
    changed.reweigh({"a": 0, "b": 1, "c": 0})
    assert [each["since"] for each in changed.state_dict()["weighings"]] == [0, 10, 30]
    # What a source gave does not depend on what the others did.
    had = changed.state_dict()["given"][1]
    alone = PackedStream(store, ["b"], seed=2)
    assert had and _origins(changed.take(5)) == _origins(alone.take(had + 5))[had:]


def test_buckets_have_weights_of_their_own(store: Store) -> None:
    stream = PackedStream(store, ["c", "a"], {"c": 3, "a": 1}, buckets={"B0": 3, "B1": 1})
    sizes = PackedStream(store, ["c"], buckets={}).state_dict()["sources"]
    packs = {bucket: count for _, bucket, count in sizes}
    stream.take(400)
    shares = stream.shares()
    assert list(shares) == ["c/B0", "c/B1", "a"]
    assert shares["c/B0"] + shares["c/B1"] == pytest.approx(0.75, abs=2 / 400)
    assert shares["c/B0"] / shares["c/B1"] == pytest.approx(3 * packs["B0"] / packs["B1"], rel=0.05)
    stream.reweigh({"c": 1, "a": 0}, buckets={"B0": 0})
    version = store.resolve("c")
    buckets = {store.open(version).table(shard)["bucket"][row].as_py() for _, shard, row in _origins(stream.take(50))}
    assert buckets == {"B1"}
    other = PackedStream(store, ["c", "a"], buckets={})
    other.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    for each in (stream, other):
        each.reweigh({"c": 1, "a": 1})
    assert _origins(stream.take(20)) == _origins(other.take(20))
    with pytest.raises(ConfigError, match="all quality buckets of c have weight 0"):
        stream.reweigh({"c": 1, "a": 0}, buckets={"B0": 0, "B1": 0})
    with pytest.raises(ConfigError, match="does not tell quality buckets apart"):
        PackedStream(store, ["c"]).reweigh({"c": 1}, buckets={})


def test_a_blend_is_of_one_tokenizer(store: Store) -> None:
    documents = keep_documents(store, TEXTS[:1])
    other = tokenizers.train(store, [documents], tokenizers.TrainTokenizer(vocabulary=300)).version
    pack(store, [tokenise(store, [documents, other], Tokenise()).version], PackTokens(capacity=200), "other")
    with pytest.raises(DatasetError, match="a and other were made with different tokenizers"):
        PackedStream(store, ["a", "other"])


def test_other_data_is_refused(store: Store) -> None:
    state = PackedStream(store, ["a", "b"], {"a": 1, "b": 1}, seed=1).state_dict()
    with pytest.raises(DatasetError, match=r"begun with version d_\w+ of \d+ packs, and this is d?"):
        PackedStream(store, ["a", "c"], seed=1).load_state_dict(state)
    with pytest.raises(DatasetError, match="begun with 2 sources, and these are 1"):
        PackedStream(store, ["a"], seed=1).load_state_dict(state)
    with pytest.raises(DatasetError, match="data seed 1, and this is 2"):
        PackedStream(store, ["a", "b"], seed=2).load_state_dict(state)
    same = PackedStream(store, ["a", "b"], seed=1)
    for wrong in (
        {},
        {**state, "given": [1]},
        {**state, "given": [5, 5]},
        {**state, "taken": [-1, 1]},
        {**state, "weighings": []},
    ):
        with pytest.raises(DatasetError, match="cursor"):
            same.load_state_dict(wrong)
    for weights in (
        {"a": 1},
        {"a": 1, "b": 1, "x": 1},
        {"a": -1, "b": 1},
        {"a": 0, "b": 0},
        {"a": float("nan"), "b": 1},
    ):
        with pytest.raises(ConfigError):
            PackedStream(store, ["a", "b"], weights)
    with pytest.raises(ConfigError, match="the same one"):
        PackedStream(store, ["a", store.resolve("a")])
    with pytest.raises(DatasetError, match="there is no version 'nothing'"):
        PackedStream(store, ["nothing"])


def test_the_cache_may_be_lost_or_damaged(store: Store, tmp_path: Path) -> None:
    first = PackedStream(store, ["a"], cache=tmp_path).take(3)
    for path in sorted(tmp_path.glob("*.arrow")):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:100])
    again = PackedStream(store, ["a"], cache=tmp_path).take(3)
    assert [one.ids.tolist() for one in first] == [one.ids.tolist() for one in again]
