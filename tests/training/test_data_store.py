"""The store of dataset versions: one id for one content, whole or absent, and nothing wrong goes unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.errors import DatasetError, UsageError
from laguna_agent.training.data import contents
from laguna_agent.training.data.manifest import canonical_hash
from laguna_agent.training.data.store import Store, Version
from laguna_agent.training.data.verify import collect, verify

COLUMNS = (("name", "string"), ("ids", "list<int32>"), ("share", "double"), ("seen", "bool"), ("raw", "binary"))
ROW = st.fixed_dictionaries(
    {
        "name": st.none() | st.text(max_size=8),
        "ids": st.none() | st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=4),
        "share": st.none() | st.floats(allow_nan=False),
        "seen": st.none() | st.booleans(),
        "raw": st.none() | st.binary(max_size=8),
    }
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


def table(*rows: dict[str, object]) -> pa.Table:
    """Rows as a table with the columns of these tests."""
    return pa.Table.from_pylist([dict.fromkeys(("name", "ids", "share", "seen", "raw")) | row for row in rows], SCHEMA)


SCHEMA = contents.schema_of(COLUMNS)


def written(store: Store, *names: str, parents: tuple[Version, ...] = (), **config: object) -> Version:
    """A version of one shard for each name."""
    return store.write("test", [table({"name": name}) for name in names], parents=parents, config=config)


@settings(max_examples=60)
@given(rows=st.lists(ROW, max_size=6), cut=st.integers(0, 6))
def test_a_contents_hash_is_that_of_its_values_however_they_are_cut(rows: list[dict[str, object]], cut: int) -> None:
    whole = pa.Table.from_pylist(rows, SCHEMA)
    parts = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    hash = contents.content_hash(whole)
    assert contents.content_hash(parts.replace_schema_metadata({"who": "me"})) == hash
    assert contents.content_hash(pa.concat_tables([whole, whole]).slice(len(rows))) == hash
    read = pq.read_table(pa.BufferReader(contents.parquet_bytes(parts)))
    assert contents.content_hash(read) == hash
    assert read.to_pylist() == whole.to_pylist()


@settings(max_examples=80)
@given(one=st.lists(ROW, max_size=3), two=st.lists(ROW, max_size=3))
def test_other_values_have_another_hash(one: list[dict[str, object]], two: list[dict[str, object]]) -> None:
    hashes = {contents.content_hash(pa.Table.from_pylist(rows, SCHEMA)) for rows in (one, two)}
    # As Python spells them: 0.0 equals -0.0, but is another value.
    assert (len(hashes) == 1) == (repr(one) == repr(two))


def test_what_lies_where_in_lists_and_texts_counts() -> None:
    pairs = [({"name": "ab"}, {"name": "c"}), ({"name": "a"}, {"name": "bc"}), ({"name": "abc"}, {"name": ""})]
    pairs += [({"ids": [1, 2]}, {"ids": [3]}), ({"ids": [1]}, {"ids": [2, 3]}), ({"ids": [1, 2, 3]}, {"ids": []})]
    pairs += [({"ids": [1, 2, 3]}, {"ids": None}), ({"ids": None}, {"ids": [1, 2, 3]})]
    assert len({contents.content_hash(table(*pair)) for pair in pairs}) == len(pairs)


def test_the_hash_is_the_same_on_every_machine() -> None:
    """By hand from the description in `contents.py`: what other machines have stored must stay what it is."""

    def text(value: str) -> bytes:
        return len(value).to_bytes(8, "little") + value.encode()

    def number(value: int, width: int = 8) -> bytes:
        return value.to_bytes(width, "little", signed=True)

    spelled = text("2")
    spelled += text("name") + text("string") + number(2) + number(0) + number(2, 4) + number(1, 4) + b"abc"
    spelled += text("ids") + text("list<int32>") + number(2) + number(1) + b"\1\0" + number(2, 4)
    spelled += number(2) + number(0) + number(7, 4) + number(-1, 4)
    found = pa.table({"name": ["ab", "c"], "ids": pa.array([[7, -1], None], pa.list_(pa.int32()))})
    assert contents.content_hash(found) == hashlib.sha256(spelled).hexdigest()


def test_one_content_is_one_version(store: Store, tmp_path: Path) -> None:
    first = written(store, "a", "b", threshold=0.5)
    again = written(store, "a", "b", threshold=0.5)
    elsewhere = written(Store(tmp_path / "other"), "a", "b", threshold=0.5)
    assert first.id == again.id == elsewhere.id
    assert len(store.ids()) == 1
    others = [written(store, "b", "a", threshold=0.5), written(store, "a", "b", threshold=0.6), written(store, "a")]
    others.append(written(store, "a", "b", parents=(first,), threshold=0.5))
    assert len({first.id, *(each.id for each in others)}) == 5
    read = store.open(first.short)
    assert read.manifest == store.open(first.id).manifest == first.manifest
    assert [row["name"] for row in read.rows()] == ["a", "b"]
    assert list(read.rows(["name"])) == [{"name": "a"}, {"name": "b"}]
    with pytest.raises(DatasetError, match="no column 'text'"):
        read.table(0, ["text"])


def test_the_id_does_not_depend_on_the_file_that_holds_the_rows(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of the library writes other bytes of the same rows."""
    here = written(store, "a")
    plain = contents.pq.write_table

    def otherwise(table: pa.Table, sink: object, **options: object) -> None:
        plain(table, sink, **(options | {"compression_level": 9, "data_page_version": "2.0"}))

    monkeypatch.setattr(contents.pq, "write_table", otherwise)
    there = written(Store(tmp_path / "other"), "a")
    assert there.shards[0].file != here.shards[0].file
    assert there.id == here.id


def test_files_are_read_only_and_named_by_their_hash(store: Store) -> None:
    version = written(store, "a")
    path = store.shard_path(version.shards[0].file)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    for each in (path, store.manifest_path(version.id)):
        assert each.stat().st_mode & 0o222 == 0


def test_names_are_moved_and_let_go(store: Store) -> None:
    one, two = written(store, "a"), written(store, "b")
    store.name("mine", one.short)
    assert store.open("mine").id == one.id
    store.name("mine", two.id)
    assert store.names() == {"mine": two.id}
    store.forget_name("mine")
    assert store.names() == {}
    for call in (lambda: store.forget_name("mine"), lambda: store.open("mine"), lambda: store.open("d_ffffffff")):
        with pytest.raises(DatasetError):
            call()
    for wrong in ("../up", "", "d_0123abcd", ".hidden", "a/b"):
        with pytest.raises(UsageError):
            store.name(wrong, one.id)


def _flip(store: Store, version: Version) -> Path:
    path = store.shard_path(version.shards[0].file)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path


def _lose(store: Store, version: Version) -> Path:
    path = store.shard_path(version.shards[0].file)
    path.unlink()
    return path


def _cut(store: Store, version: Version) -> Path:
    path = store.shard_path(version.shards[0].file)
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 1)
    return path


def _altered(key: str, value: object) -> Callable[[Store, Version], Path]:
    def alter(store: Store, version: Version) -> Path:
        path = store.manifest_path(version.id)
        path.chmod(0o644)
        told = json.loads(path.read_text())
        (told if key in told else told["shards"][0])[key] = value
        path.write_text(json.dumps(told))
        return path

    return alter


def _swapped(store: Store, version: Version) -> Path:
    """A manifest that names another version's file, of the same size."""
    other = written(store, "q")
    shard = other.shards[0]
    assert shard.bytes == version.shards[0].bytes
    _altered("file", shard.file)(store, version)
    return store.shard_path(shard.file)


def _linked(store: Store, version: Version) -> Path:
    path = store.shard_path(version.shards[0].file)
    path.rename(store.root.parent / "elsewhere")
    path.symlink_to(store.root.parent / "elsewhere")
    return path


def _stray(store: Store, version: Version) -> Path:
    path = store.root / "shards" / "notes.txt"
    path.write_text("?")
    return path


@pytest.mark.parametrize(
    "harm",
    [
        _flip,
        _lose,
        _cut,
        _swapped,
        _linked,
        _stray,
        _altered("rows", 7),
        _altered("parents", ["d_" + "0" * 64]),
        _altered("file", "../../../etc/passwd"),
        _altered("content", "/etc/passwd"),
        _altered("columns", "?"),
    ],
)
def test_whatever_is_damaged_is_found_and_named(store: Store, harm: Callable[[Store, Version], Path]) -> None:
    version = written(store, "a")
    assert verify(store) == (1, 1, ())
    path = harm(store, version)
    problems = verify(store).problems
    assert problems
    assert path.name in problems[0]


def test_a_lost_parent_is_found(store: Store) -> None:
    with pytest.raises(DatasetError, match="no store"):
        verify(store)
    first = written(store, "a")
    second = written(store, "b", parents=(first,))
    assert [each.id for each in second.ancestry()] == [second.id, first.id]
    store.manifest_path(first.id).unlink()
    assert any(first.short in problem for problem in verify(store).problems)
    assert verify(store, [second.id]).problems


def test_what_was_damaged_is_whole_when_it_is_written_again(store: Store) -> None:
    version = written(store, "a")
    _flip(store, version)
    assert verify(store).problems
    assert written(store, "a").id == version.id
    assert not verify(store).problems


def test_what_was_derived_is_not_derived_again_until_it_or_its_key_is_gone(store: Store) -> None:
    calls = []

    def build() -> tuple[pa.Table, dict[str, object]]:
        calls.append(1)
        return table({"name": "a"}), {"left_out": {"x": 1}}

    code = written(store, "z").manifest.code
    first = store.derived("op", code, [1], build)
    assert not first.reused
    assert store.derived("op", code, [1], build) == (first.shard, True)
    assert len(calls) == 1
    for operation, key in (("op", [2]), ("other", [1])):
        assert not store.derived(operation, code, key, build).reused
    store.shard_path(first.shard.file).unlink()
    assert store.derived("op", code, [1], build) == (first.shard, False)
    assert store.write("test", [first.shard], schema=SCHEMA).manifest.left_out == {"x": 1}


def test_collecting_keeps_what_names_lead_to_and_what_serves_it(store: Store) -> None:
    root = written(store, "a")
    kept, gone = written(store, "b", parents=(root,)), written(store, "c")
    store.name("kept", kept.id)
    code = root.manifest.code
    serving = store.derived("sign", code, [root.shards[0].content], lambda: (table({"name": "s"}), {}))
    needless = store.derived("sign", code, [gone.shards[0].content], lambda: (table({"name": "n"}), {}))
    store.close()
    # What a killed process leaves on a file system without nameless files.
    left = store.root / "shards" / ".x.parquet.0123456789ab.tmp"
    left.write_bytes(b"half")
    assert [problem for problem in verify(store).problems if left.name in problem and "killed" in problem]
    planned = collect(store, dry=True)
    assert set(store.ids()) == {root.id, kept.id, gone.id}
    assert collect(store) == planned
    assert planned.versions == (gone.id,)
    assert set(store.ids()) == {root.id, kept.id}
    assert store.shard_path(serving.shard.file).exists()
    assert not store.shard_path(needless.shard.file).exists()
    assert not left.exists()
    assert not verify(store).problems
    other = Store(store.root)
    written(other, "d")
    with pytest.raises(DatasetError, match="another process works"):
        collect(store)
    other.close()


WRITER = """
import sys
import pyarrow as pa
from pathlib import Path
from laguna_agent.training.data.store import Store

def tables():
    for at in range(6):
        yield pa.table({"name": [f"{at}"]})
        print(at, flush=True)
        if sys.argv[2] == "halt" and at == 3:
            sys.stdin.read()

print(Store(Path(sys.argv[1])).write("test", tables(), name="whole").id, flush=True)
assert "torch" not in sys.modules, "a command on data would take seconds to start"
"""


def test_a_killed_writer_leaves_nothing_wrong_and_two_at_once_agree(store: Store) -> None:
    def writer(how: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.root), how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    with writer("halt") as halted, writer("go") as going:
        assert halted.stdout and going.stdout
        for line in halted.stdout:
            if line == "3\n":
                break
        halted.kill()
        halted.wait()
        id = going.stdout.read().split()[-1]
    assert going.returncode == 0
    assert store.open("whole").id == id
    store.forget_name("whole")
    store.manifest_path(id).unlink()
    # What the killed one alone would have left: shards, no version, nothing half.
    assert verify(store) == (0, 0, ())
    assert len(list((store.root / "shards").iterdir())) == 6
    again = store.write("test", (pa.table({"name": [f"{at}"]}) for at in range(6)))
    assert again.id == id
    store.close()
    store.manifest_path(id).unlink()
    assert collect(store).files == 6


def test_canonical_hashes_do_not_depend_on_the_order_of_keys() -> None:
    assert canonical_hash({"b": [1.5, "ä"], "a": None}) == canonical_hash({"a": None, "b": [1.5, "ä"]})
    assert canonical_hash([1, 2]) != canonical_hash([2, 1])
