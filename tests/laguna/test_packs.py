"""Packed files: what is in them, that they are there whole or not at all, and that memory is planned first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from laguna_agent.backend.kernels.formats import GroupInt, PackedTensor, Tiled
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.laguna.cache import SLACK, KVCache, total_bytes
from laguna_agent.backend.laguna.cache_format import FORMATS
from laguna_agent.backend.laguna.cache_storage import AT_ONCE
from laguna_agent.backend.laguna.config_json import parse_config
from laguna_agent.backend.laguna.weights import memory, open_weights, packing, whole_file
from laguna_agent.backend.laguna.weights.memory import available_memory, cache_bytes, choose
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, pack_path, read_stored
from laguna_agent.backend.laguna.weights.pack_file import PAGE, open_pack
from laguna_agent.backend.laguna.weights.packing import pack_layout, write_pack
from laguna_agent.errors import DoesNotFit, WeightsError
from tests.laguna.checkpoints import canonical
from tests.laguna.weight_files import CONFIG, random_tensors, write_folder


@pytest.fixture
def model(tmp_path):
    return write_folder(tmp_path / "model", random_tensors(torch.bfloat16))


@pytest.fixture
def packs(tmp_path):
    return tmp_path / "packs"


def files(folder: Path) -> list[str]:
    """What lies there, but for locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(("quant", "largest"), [("bf16", 0.0), ("int8", 0.008), ("int4", 0.11)])
def test_a_pack_has_every_tensor_within_its_rounding(model, packs, quant, largest):
    weights = open_weights(model, quant, folder=packs)
    meant = canonical(random_tensors(torch.bfloat16))
    assert list(weights.tensors) != [] and set(weights.tensors) == set(meant)
    for name, tensor in meant.items():
        found = weights.tensors[name]
        assert tuple(found.shape) == tuple(tensor.shape)
        error = (dequantise(found) - tensor.float()).norm() / tensor.float().norm()
        assert error <= largest, name
    sizes = sum(tensor.nbytes for tensor in weights.tensors.values())
    assert sizes == weights.need.weights <= weights.pack.stat().st_size
    open_pack(weights.pack).verify()


def test_which_tensors_are_packed(model, packs):
    four, eight = Tiled(GroupInt(4, 32)), GroupInt(8, 128)
    tensors = open_weights(model, "int4", folder=packs).tensors
    formats = {name: tensor.format for name, tensor in tensors.items() if isinstance(tensor, PackedTensor)}
    assert formats["model.embed_tokens.weight"] == formats["lm_head.weight"] == eight
    assert formats["model.layers.1.mlp.experts.down_proj"] == formats["model.layers.0.self_attn.q_proj.weight"] == four
    steering = ("norm.weight", "mlp.gate.weight", "correction_bias", "g_proj.weight")
    for name, tensor in tensors.items():
        assert name.endswith(steering) == isinstance(tensor, torch.Tensor), name


def test_parts_lie_on_pages_and_cannot_be_written(model, packs):
    weights = open_weights(model, "int4", folder=packs)
    for tensor in weights.tensors.values():
        for part in tensor.parts.values() if isinstance(tensor, PackedTensor) else (tensor,):
            assert part.data_ptr() % PAGE == 0
    code = (
        "import sys, pathlib\nfrom laguna_agent.backend.laguna.weights.pack_file import open_pack\n"
        "open_pack(pathlib.Path(sys.argv[1])).tensors['model.norm.weight'].fill_(0)"
    )
    done = subprocess.run([sys.executable, "-c", code, weights.pack], timeout=60)
    assert done.returncode == -signal.SIGSEGV
    open_pack(weights.pack).verify()


def test_the_second_opening_maps_what_the_first_wrote(model, packs, monkeypatch):
    first = open_weights(model, "int8", folder=packs)
    stamp = first.pack.stat().st_mtime_ns
    monkeypatch.setattr("laguna_agent.backend.laguna.weights.opening.write_pack", None)
    second = open_weights(model, "int8", folder=packs)
    assert second.pack == first.pack and second.pack.stat().st_mtime_ns == stamp
    assert second.config == first.config


def test_a_changed_source_is_packed_anew_and_the_old_pack_goes(model, packs):
    first = open_weights(model, "int4", folder=packs)
    eight = open_weights(model, "int8", folder=packs)
    tensors = random_tensors(torch.bfloat16)
    tensors["model.norm.weight"] += 1
    write_folder(model, tensors)
    second = open_weights(model, "int4", folder=packs)
    assert files(packs) == sorted([second.pack.name, eight.pack.name])
    assert torch.equal(second.tensors["model.norm.weight"], first.tensors["model.norm.weight"] + 1)


def test_stored_keeps_everything_as_it_is(model, packs):
    weights, meant = open_weights(model, "stored", folder=packs), canonical(random_tensors(torch.bfloat16))
    assert all(torch.equal(weights.tensors[name], tensor) for name, tensor in meant.items())


def test_the_progress_reaches_its_end_and_may_stop_the_work(model, packs):
    seen = []
    open_weights(model, "int4", folder=packs, progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert {stage for stage, _, _ in seen} == {"packing"}
    done = [done for _, done, _ in seen]
    assert done == sorted(done) and done[-1] == seen[0][2] == open_checkpoint(model).stored_bytes

    def stop(stage, done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_weights(model, "int8", folder=packs, progress=stop)
    assert len(files(packs)) == 1


@pytest.mark.parametrize("anonymous", [True, False])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, packs, anonymous):
    tensors = random_tensors(torch.bfloat16)
    tensors["model.layers.2.self_attn.o_proj.weight"][5, 5] = float("nan")
    checkpoint = open_checkpoint(write_folder(tmp_path / "model", tensors))
    with pytest.raises(WeightsError, match=r"layers.2.self_attn.o_proj.weight: holds NaN or infinite values"):
        write_pack(checkpoint, "int4", packs / "p.lagpack", anonymous=anonymous)
    assert files(packs) == []


KILLED = """
import os, pathlib, signal, sys
from laguna_agent.backend.laguna.weights.opening import open_checkpoint, pack_path
from laguna_agent.backend.laguna.weights.packing import write_pack
checkpoint, packs = open_checkpoint(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2])
share = float(sys.argv[4])
def progress(stage, done, total):
    if done >= total * share:
        os.kill(os.getpid(), signal.SIGKILL)
write_pack(checkpoint, "int4", pack_path(checkpoint, "int4", packs), progress, anonymous=sys.argv[3] == "yes")
"""


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("anonymous", ["yes", "no"])
def test_a_killed_process_leaves_no_pack(model, packs, anonymous, share):
    arguments = [sys.executable, "-c", KILLED, str(model), str(packs), anonymous, str(share)]
    assert subprocess.run(arguments, timeout=60).returncode == -signal.SIGKILL
    left = files(packs)
    # Without nameless files a part stays under a name that nobody opens, and the next writer removes it.
    assert left == [] if anonymous == "yes" else [Path(name).suffix for name in left] == [".partial"]
    weights = open_weights(model, "int4", folder=packs)
    assert files(packs) == [weights.pack.name]
    open_pack(weights.pack).verify()


SLOW = """
import pathlib, sys, time
from laguna_agent.backend.laguna.weights import open_weights
def progress(stage, done, total):
    print(stage, flush=True)
    time.sleep(0.02)
open_weights(pathlib.Path(sys.argv[1]), "int4", folder=pathlib.Path(sys.argv[2]), progress=progress)
"""


def test_two_processes_pack_once(model, packs):
    arguments = [sys.executable, "-c", SLOW, str(model), str(packs)]
    running = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    seen = [set(process.communicate(timeout=100)[0].split()) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum("packing" in stages for stages in seen) == 1
    assert len(files(packs)) == 1


def test_the_lock_says_that_it_waits_and_dies_with_its_holder(tmp_path):
    path = tmp_path / "p"
    code = (
        "import pathlib, sys, time\nfrom laguna_agent.backend.laguna.weights.whole_file import locked\n"
        "with locked(pathlib.Path(sys.argv[1]), lambda: None):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    waited = []

    def waiting():
        waited.append(time.monotonic())
        holder.kill()

    with whole_file.locked(path, waiting):
        pass
    holder.communicate(timeout=30)
    assert waited


def damage_byte(at):
    def change(content):
        content[at] ^= 1

    return change


def cut(content):
    del content[-PAGE:]


@pytest.mark.parametrize("change", [damage_byte(0), damage_byte(8), damage_byte(16), damage_byte(100), cut])
def test_a_damaged_pack_is_refused_and_made_again(model, packs, change):
    weights = open_weights(model, "int4", folder=packs)
    content = bytearray(weights.pack.read_bytes())
    good = bytes(content)
    change(content)
    weights.pack.unlink()
    weights.pack.write_bytes(content)
    with pytest.raises(WeightsError, match=r"\.lagpack: "):
        open_pack(weights.pack)
    assert open_weights(model, "int4", folder=packs).pack.read_bytes() == good


def test_verify_finds_a_changed_weight(model, packs):
    weights = open_weights(model, "int4", folder=packs)
    content = bytearray(weights.pack.read_bytes())
    place = next(place for place in open_pack(weights.pack).header.tensors if place.name.endswith("2.mlp.gate.weight"))
    content[place.parts[0].offset + 3] ^= 4
    weights.pack.unlink()
    weights.pack.write_bytes(content)
    with pytest.raises(WeightsError, match=r"layers.2.mlp.gate.weight: its bytes changed"):
        open_pack(weights.pack).verify()


def test_what_does_not_fit_is_refused_with_the_numbers_and_the_option_that_would(model):
    checkpoint = open_checkpoint(model)
    needs = {quant: memory.need(checkpoint, quant, 512) for quant in memory.OPTIONS}
    assert needs["bf16"].total > needs["int8"].total > needs["int4"].total
    assert choose(checkpoint, "auto", 512, needs["bf16"].total).quant == "int8"
    assert choose(checkpoint, "bf16", 512, needs["bf16"].total).quant == "bf16"
    assert choose(checkpoint, "auto", 512, needs["int8"].total - 1).quant == "int4"
    with pytest.raises(DoesNotFit, match=r"bf16 needs 0\.8 GB .* of memory are available; int8 would fit \(0\.8 GB\)"):
        choose(checkpoint, "bf16", 512, needs["int8"].total)
    with pytest.raises(DoesNotFit, match=r"int4 with a context of 256 tokens would fit"):
        choose(checkpoint, "auto", 512, memory.need(checkpoint, "int4", 256).total)
    with pytest.raises(DoesNotFit, match=r"no option fits; the smallest, int4, needs 0\.8 GB"):
        choose(checkpoint, "auto", 512, needs["int4"].working)


def test_nothing_is_read_or_written_before_the_plan(model, packs, monkeypatch):
    monkeypatch.setattr("laguna_agent.backend.laguna.weights.opening.write_pack", None)
    with pytest.raises(DoesNotFit):
        open_weights(model, "int4", folder=packs, available=1000)
    assert not packs.exists()


def test_a_full_disk_is_told_before_anything_is_written(model, packs, monkeypatch):
    class Full:
        f_bavail, f_frsize = 10, 4096

    monkeypatch.setattr(memory.os, "statvfs", lambda folder: Full())
    with pytest.raises(DoesNotFit, match=r"packs: the packed model \(int4\) needs 0\.1 GB of disk, 0\.0 GB are free"):
        open_weights(model, "int4", folder=packs)
    assert files(packs) == []


def test_a_place_that_cannot_be_written_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"file/.*\.lagpack: cannot be written: "):
        open_weights(model, "int4", folder=tmp_path / "file")


def test_the_layout_is_known_before_the_work(model, packs):
    checkpoint = open_checkpoint(model)
    layout, _ = pack_layout(checkpoint, "int4")
    path = pack_path(checkpoint, "int4", packs)
    write_pack(checkpoint, "int4", path)
    assert path.stat().st_size == layout.size


def test_the_cache_is_counted_by_layer_type():
    """Specification section 4: 4096 bytes a token and full layer at K = 8, D = 128; windows stop growing."""
    config = parse_config({**CONFIG, "num_key_value_heads": 2, "head_dim": 16})
    each = 2 * 2 * 16
    ring = 8 + max(2 * SLACK, AT_ONCE)
    assert cache_bytes(config, 100, "f32") == 4 * each * (100 + ring + 100)
    assert cache_bytes(config, 4, "f16") == 2 * each * (4 + ring + 4)
    assert cache_bytes(config, 100, "int8") == (each + 2 * 2 * 4) * (100 + ring + 100)


@pytest.mark.parametrize("kv", FORMATS)
def test_the_plan_of_the_cache_is_what_a_cache_takes(kv):
    config = parse_config({**CONFIG, "num_key_value_heads": 2, "head_dim": 16})
    cache = KVCache(config, format=kv)
    cache.begin(list(range(128)))
    assert total_bytes([cache]) == cache_bytes(config, 128, kv)


def test_the_available_memory_is_bounded_by_the_container(tmp_path):
    real = available_memory()
    assert 0 < real <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name, text in {"memory.max": "5000", "memory.current": "4000", "memory.stat": "anon 1\nfile 700\n"}.items():
        (tmp_path / name).write_text(text)
    assert memory._container_available(tmp_path) == 1700
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container_available(tmp_path) > real
    assert memory._container_available(tmp_path / "none") > real


def test_packing_takes_little_memory_beside_the_chunks(model, packs, monkeypatch):
    """Rows are converted a few at a time: the result is the same, whatever the chunk."""
    checkpoint = open_checkpoint(model)
    write_pack(checkpoint, "int4", packs / "whole")
    monkeypatch.setattr(packing, "CHUNK", 200)
    write_pack(checkpoint, "int4", packs / "pieces")
    assert (packs / "whole").read_bytes() == (packs / "pieces").read_bytes()
    assert set(read_stored(checkpoint)) == set(checkpoint.tensors)
