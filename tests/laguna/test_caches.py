"""Models found where other programs keep them, and nothing else found."""

from __future__ import annotations

import json

import pytest

from laguna_agent.backend.laguna.weights.caches import MODEL_LAYER, find_model
from laguna_agent.backend.laguna.weights.opening import open_checkpoint
from laguna_agent.backend.weights.store import Store
from laguna_agent.errors import UsageError, WeightsError
from tests.laguna.weight_files import gguf_tensors, random_tensors, write_folder, write_gguf

DIGEST = "ab" * 32


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub" / "models--poolside--Laguna-XS.2"


@pytest.fixture
def ollama(tmp_path, monkeypatch):
    root = tmp_path / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", str(root))
    (root / "blobs").mkdir(parents=True)

    def put(home, layers):
        manifest = root / "manifests" / home
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps({"layers": layers}))
        return root / "blobs" / f"sha256-{DIGEST}"

    return put


LAYERS = [
    {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "cd" * 32},
    {"mediaType": MODEL_LAYER, "digest": f"sha256:{DIGEST}"},
]


def test_a_path_is_itself(tmp_path):
    assert find_model(str(tmp_path)) == tmp_path


def test_a_snapshot_of_the_hub_is_found_by_its_reference(hub):
    for commit in ("aaa111", "bbb222"):
        write_folder(hub / "snapshots" / commit, random_tensors())
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("aaa111\n")
    found = find_model("poolside/Laguna-XS.2")
    assert found == hub / "snapshots" / "aaa111"
    assert open_checkpoint(found).config.experts == 3


@pytest.mark.parametrize("reference", [None, "../../../../etc", "gone", ""])
def test_without_a_good_reference_a_snapshot_with_a_model_is_taken(hub, reference):
    write_folder(hub / "snapshots" / "aaa111", random_tensors())
    (hub / "snapshots" / "config-only").mkdir()
    if reference is not None:
        (hub / "refs").mkdir()
        (hub / "refs" / "main").write_text(reference)
    assert find_model("poolside/Laguna-XS.2") == hub / "snapshots" / "aaa111"


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("laguna", "registry.ollama.ai/library/laguna/latest"),
        ("laguna:33b", "registry.ollama.ai/library/laguna/33b"),
        ("ollama:laguna:33b", "registry.ollama.ai/library/laguna/33b"),
        ("ollama:me/laguna", "registry.ollama.ai/me/laguna/latest"),
        ("hf.co/me/laguna:Q4_K_M", "hf.co/me/laguna/Q4_K_M"),
    ],
)
def test_a_model_of_ollama_is_found_and_opened(ollama, name, home):
    blob = ollama(home, LAYERS)
    write_gguf(blob, gguf_tensors(random_tensors()))
    assert find_model(name) == blob
    assert open_checkpoint(find_model(name)).config.architecture == "laguna"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{**LAYERS[1], "digest": "sha256:../../../etc/passwd"}], "expected sha256: and 64 hex digits"),
        ([{**LAYERS[1], "digest": None}], "expected sha256"),
        (LAYERS[:1], "no layer is a model"),
        ("layers", "no layer is a model"),
        (LAYERS, "the file is missing"),
    ],
)
def test_a_manifest_that_leads_nowhere_is_named(ollama, layers, message):
    ollama("registry.ollama.ai/library/laguna/latest", layers)
    with pytest.raises(WeightsError, match=message):
        find_model("laguna")


@pytest.mark.parametrize(
    "name", ["nothing", "a/b", "../x", "ollama:../../x", "a/../b", "", "x:..", "a" * 300, "/no/such"]
)
def test_what_is_nowhere_says_where_it_was_looked_for(hub, ollama, tmp_path, name):
    with pytest.raises(UsageError, match=r"on this machine: .*ollama"):
        find_model(name, Store(tmp_path / "store"))


def test_the_store_goes_before_other_programs(ollama, tmp_path):
    ollama("registry.ollama.ai/library/mine/latest", LAYERS).write_bytes(b"GGUF")
    store = Store(tmp_path / "store")
    file = write_gguf(tmp_path / "m.gguf", gguf_tensors(random_tensors()))
    store.adopt("mine", file, lambda done, total: None)
    assert find_model("mine", store).read_bytes() == file.read_bytes()
    assert find_model("ollama:mine", store).read_bytes() == b"GGUF"
