"""The store on disk: adopting, listing, sharing and removing files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import anyio
import msgspec
import pytest

from laguna_agent.backend.weights.pull import pull
from laguna_agent.backend.weights.store import Store, default_root
from laguna_agent.errors import UsageError

GGUF = b"GGUF" + bytes(range(256)) * 5000


def silent(done: int, size: int) -> None:
    """No progress wanted."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.gguf"
    path.write_bytes(GGUF)
    return path


def test_a_file_of_the_users_own_is_adopted_under_any_name(store, file):
    shown: list[tuple[int, int]] = []
    model = store.adopt("my-model", file, lambda done, size: shown.append((done, size)))
    file.write_bytes(b"changed later")
    assert store.blob_path(model.sha256).read_bytes() == GGUF
    assert model.sha256 == hashlib.sha256(GGUF).hexdigest()
    assert [entry.name for entry in store.models()] == ["my-model"]
    assert shown[-1] == (len(GGUF), len(GGUF))


def test_a_name_of_the_catalogue_takes_only_its_own_bytes(store, file):
    with pytest.raises(UsageError, match=r"is not qwen2.5-coder-0.5b: its SHA-256 is"):
        store.adopt("qwen2.5-coder-0.5b", file, silent)
    assert store.models() == []
    assert list(store.root.rglob("adopt-*")) == []


def test_what_is_no_model_is_refused(store, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(UsageError, match="not a GGUF"):
        store.adopt("notes", text, silent)
    with pytest.raises(UsageError, match="No such file"):
        store.adopt("notes", tmp_path / "absent", silent)
    with pytest.raises(UsageError, match="directory"):
        store.adopt("notes", tmp_path, silent)


@pytest.mark.parametrize("name", ["", "../evil", "a/b", "UPPER", ".hidden", "x" * 101])
def test_a_name_never_leaves_the_store(store, file, name):
    with pytest.raises(UsageError, match="is not a model name"):
        store.adopt(name, file, silent)
    with pytest.raises(UsageError):
        store.get(name)
    with pytest.raises(UsageError):
        store.remove(name)


def test_two_names_share_one_file_and_the_last_takes_it_away(store, file):
    blob = store.blob_path(store.adopt("one", file, silent).sha256)
    store.adopt("two", file, silent)
    assert len(list(blob.parent.iterdir())) == 1
    assert store.remove("one") == 0
    assert blob.exists()
    assert store.remove("two") == len(GGUF)
    assert not blob.exists()
    with pytest.raises(UsageError, match="no model called 'two'"):
        store.remove("two")


def test_a_model_whose_file_is_gone_or_cut_is_not_there(store, file):
    blob = store.blob_path(store.adopt("one", file, silent).sha256)
    blob.chmod(0o644)
    blob.write_bytes(GGUF[:100])
    assert store.find("one") is None
    assert store.models() == []
    assert store.remove("one") == 100


def test_a_damaged_manifest_names_itself_and_can_be_removed(store, file):
    store.adopt("one", file, silent)
    (store.root / "manifests" / "one.json").write_text("{")
    with pytest.raises(UsageError, match=r"one\.json cannot be read .* models rm one"):
        store.get("one")
    store.remove("one")
    assert store.models() == []


def test_a_name_known_to_the_catalogue_but_absent_says_what_to_type(store):
    with pytest.raises(UsageError, match=r"laguna-agent models pull qwen2.5-coder-1.5b"):
        store.get("qwen2.5-coder-1.5b")
    with pytest.raises(UsageError, match=r"known names are qwen2.5-coder-0.5b, qwen2.5-coder-1.5b"):
        store.get("gpt-17")


def test_nothing_is_removed_under_a_pull(store, file):
    model = store.adopt("one", file, silent)
    with store.lock(model.sha256) as mine:
        assert mine
        with pytest.raises(UsageError, match="being pulled"):
            store.remove("one")
    store.remove("one")


def test_a_pull_of_bytes_that_lie_here_under_another_name_costs_nothing(origin, tiny, store, tmp_path):
    file = tmp_path / "mine.gguf"
    file.write_bytes(origin.content)
    store.adopt("other", file, silent)
    assert anyio.run(pull, tiny, store, silent, print).name == "tiny"
    assert origin.requests == []
    assert store.get("tiny") == msgspec.structs.replace(store.get("other"), **_of(store, "tiny"))


def _of(store: Store, name: str) -> dict[str, str]:
    return {key: getattr(store.get(name), key) for key in ("name", "file_name", "licence", "source", "added")}


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_the_default_place_ignores_a_data_home_that_is_not_absolute(monkeypatch, value):
    monkeypatch.setenv("XDG_DATA_HOME", value)
    assert default_root() == Path.home() / ".local/share/laguna-agent/models"


def test_the_default_place_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_root() == tmp_path / "laguna-agent" / "models"


def test_a_manifest_that_names_another_place_reaches_nothing(store, file):
    store.adopt("one", file, silent)
    outside = store.root.parent / "outside"
    outside.write_text("mine")
    manifest = store.root / "manifests" / "one.json"
    values = json.loads(manifest.read_text())
    for place in ("blobs", "partial"):
        (store.root / place / "sha256-x").mkdir(parents=True)
    manifest.write_text(json.dumps({**values, "sha256": "x/../../../outside", "size": 4}))
    with pytest.raises(UsageError, match=r"names no SHA-256 but .* models rm one"):
        store.get("one")
    store.remove("one")
    assert outside.read_text() == "mine"
    assert not manifest.exists()


def test_a_pickle_is_not_taken_into_the_store(store, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"\x80\x04.")
    with pytest.raises(UsageError, match=r"pytorch_model.bin is not a GGUF model file: a pickle can run any program"):
        store.adopt("one", path, silent)
