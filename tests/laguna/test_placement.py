"""Where experts lie when a GPU computes: tables for the usual cards, and what holds for any amount of memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laguna_agent.backend.kernels.cuda.graphs import MOST_ROWS
from laguna_agent.backend.kernels.cuda.step import buffer_sizes, kinds_of
from laguna_agent.backend.kernels.formats import Fp8, Ggml, GroupInt, Nvfp4, Plain, Tiled
from laguna_agent.backend.laguna.device_step import geometry_of
from laguna_agent.backend.laguna.weights import machine
from laguna_agent.backend.laguna.weights.machine import bus_speed, gpu_memory
from laguna_agent.backend.laguna.weights.memory import WORKING
from laguna_agent.backend.laguna.weights.opening import open_checkpoint
from laguna_agent.backend.laguna.weights.placement import (
    BUS,
    PINNED_SHARE,
    RESERVE,
    Footprint,
    Gpu,
    Host,
    choose_placement,
    chosen,
    device_bytes,
    footprint,
    place,
    step_bytes,
)
from laguna_agent.backend.laguna.weights.policy import Quant, target_format
from laguna_agent.errors import ConfigError, DoesNotFit, KernelError
from tests.laguna.published import MODELS, bf16, official_int4
from tests.laguna.weight_files import random_tensors, write_folder

GIB = 1 << 30
CONTEXT = 16_384
ROOMY = Host(192 * GIB, 20e9)


def sizes_of(model: str, stored=bf16) -> Callable[[Quant, int], Footprint]:
    config = MODELS[model]

    @cache
    def sized(quant: Quant, context: int) -> Footprint:
        return footprint(
            config, lambda name, role, shape: target_format(stored(name, role), role, quant, shape), quant, context
        )

    return sized


SIZES = {model: sizes_of(model) for model in MODELS} | {"XS.2 INT4": sizes_of("XS.2", official_int4)}


def card(gib: float) -> Gpu:
    """One that shows a desktop: three quarters of a GiB are taken. Its bus is PCIe 4.0 x16."""
    return Gpu(int((gib - 0.75) * GIB), 25e9)


TABLE = {
    ("XS.2", 8): ("int4", 9, 39),
    ("XS.2", 12): ("int4", 18, 39),
    ("XS.2", 16): ("int4", 28, 39),
    ("XS.2", 24): ("int4", 39, 39),
    ("XS.2", 32): ("int4", 39, 39),
    ("XS.2", 80): ("int8", 39, 39),
    ("XS.2 INT4", 24): ("int8", 39, 39),
    ("S 2.1", 8): ("int4", 1, 47),
    ("S 2.1", 12): ("int4", 4, 47),
    ("S 2.1", 16): ("int4", 7, 47),
    ("S 2.1", 24): ("int4", 13, 47),
    ("S 2.1", 32): ("int4", 20, 47),
    ("S 2.1", 80): ("int4", 47, 47),
    ("M.1", 8): "with the device cpu it may fit",
    ("M.1", 12): "a context of 10240 tokens would fit",
    ("M.1", 16): ("int4", 1, 67),
    ("M.1", 24): ("int4", 6, 67),
    ("M.1", 32): ("int4", 10, 67),
    ("M.1", 80): ("int4", 39, 67),
}


@pytest.mark.parametrize(("model", "gib"), TABLE)
def test_the_usual_cards(model, gib):
    """16384 tokens of context, 192 GiB of host memory."""
    expected = TABLE[model, gib]
    if isinstance(expected, str):
        with pytest.raises(DoesNotFit, match=rf"int4 needs 13\.8 GB on the GPU .* but .*; {expected}"):
            chosen(SIZES[model], "auto", CONTEXT, card(gib), ROOMY)
        return
    found = chosen(SIZES[model], "auto", CONTEXT, card(gib), ROOMY)
    assert (found.footprint.quant, found.layers.count("gpu"), len(found.layers) - found.layers.count(None)) == expected
    assert found.on_gpu <= card(gib).free


def test_the_text_says_where_the_experts_are():
    some = chosen(SIZES["XS.2"], "auto", CONTEXT, card(12), ROOMY)
    assert str(some) == (
        "int4, 11.8 GB on the GPU: experts of 18 of 39 layers on the GPU, 21 in host memory that the GPU reads"
    )
    assert str(chosen(SIZES["XS.2"], "auto", CONTEXT, card(24), ROOMY)) == (
        "int4, 20.8 GB on the GPU, experts of all 39 layers among them"
    )
    slow_bus = chosen(SIZES["XS.2"], "auto", CONTEXT, Gpu(card(12).free, 6e9), ROOMY)
    assert str(slow_bus).endswith("18 of 39 layers on the GPU, 21 in host memory, computed by the CPU")


def test_what_a_person_asks_for_is_not_replaced():
    assert chosen(SIZES["XS.2"], "int8", CONTEXT, card(24), ROOMY).footprint.quant == "int8"
    assert chosen(SIZES["XS.2"], "bf16", CONTEXT, card(80), ROOMY).layers.count("gpu") == 39
    with pytest.raises(DoesNotFit, match=r"^bf16 needs .* int8 would fit$"):
        chosen(SIZES["XS.2"], "bf16", CONTEXT, card(12), Host(48 * GIB))
    with pytest.raises(DoesNotFit, match=r"with the device cpu it may fit into memory"):
        chosen(SIZES["M.1"], "auto", CONTEXT, card(80), Host(16 * GIB))


def test_the_faster_of_bus_and_cpu_is_taken():
    each = SIZES["XS.2"]("int4", CONTEXT)
    for bus, reads, where in ((25e9, 20e9, "pinned"), (12e9, 30e9, "cpu"), (6e9, 0.0, "pinned"), (25e9, 60e9, "cpu")):
        found = place(each, Gpu(card(12).free, bus), Host(64 * GIB, reads))
        assert found is not None and set(found.layers) == {None, "gpu", where}
    # A turn of the CPU costs more than a small expert's way over the bus.
    small = Footprint("int4", 0, (1 << 20,) * 4, 1 / 32, 0, 0, CONTEXT)
    found = place(small, Gpu(RESERVE + (2 << 20), 12e9), Host(64 * GIB, 1e12))
    assert found is not None and found.layers == ("gpu", "pinned", "pinned", "pinned")


def test_what_cannot_be_page_locked_is_left_to_the_cpu():
    found = chosen(SIZES["S 2.1"], "auto", CONTEXT, card(8), Host(64 * GIB, 20e9))
    assert found.bytes_in("pinned") <= PINNED_SHARE * 64 * GIB and found.bytes_in("cpu") > 0
    assert found.on_host + WORKING <= 64 * GIB


@settings(max_examples=150, deadline=None)
@given(
    experts=st.lists(st.sampled_from([0, 3 << 20, 5 << 20, 40 << 20]), min_size=1, max_size=12),
    backbone=st.integers(0, 50 << 20),
    memory=st.integers(0, 400 << 20),
    more=st.integers(0, 400 << 20),
    host=st.integers(0, 600 << 20),
    bus=st.floats(1e9, 1e11),
    reads=st.sampled_from([0.0, 5e9, 8e10]),
)
def test_for_any_memory(experts, backbone, memory, more, host, bus, reads):
    each = Footprint("int4", backbone, tuple(experts), 1 / 32, 7 << 20, 2 << 20, CONTEXT)
    beside = Host(WORKING + host, reads)
    found = place(each, Gpu(RESERVE + memory, bus), beside)
    larger = place(each, Gpu(RESERVE + memory + more, bus), beside)
    if each.whole <= RESERVE + memory:
        assert found is not None and found.on_host == found.staging == 0
    if found is None:
        least = max(experts)
        # Nothing that would have fitted is refused: the backbone, one layer's way through, the rest in host memory.
        assert memory < each.fixed - RESERVE + least or sum(experts) > host
        return
    assert found.on_gpu <= RESERVE + memory
    assert found.on_host == 0 or found.on_host + WORKING <= beside.free
    assert found.bytes_in("pinned") <= PINNED_SHARE * beside.free
    assert [at is None for at in found.layers] == [size == 0 for size in experts]
    assert sum(found.bytes_in(where) for where in ("gpu", "pinned", "cpu")) == sum(experts)
    if found.on_host:
        outside = [size for size, at in zip(experts, found.layers, strict=True) if at in ("pinned", "cpu")]
        assert found.staging == max(outside)
        assert found.on_gpu + min(outside) > RESERVE + memory
    assert larger is not None
    assert larger.layers.count("gpu") >= found.layers.count("gpu") and larger.bytes_in("gpu") >= found.bytes_in("gpu")


@pytest.mark.parametrize(
    ("format", "shape", "factor"),
    [
        (Tiled(GroupInt(4, 32)), (2, 32, 64), 1),
        (GroupInt(4, 32), (2, 5, 33), 2),
        (Plain(torch.bfloat16), (32, 64), 1),
        (Plain(torch.float32), (7,), 1),
        (Fp8(128), (16, 256), 1),
        (Nvfp4(), (16, 64), 1),
        (Ggml("Q6_K"), (4, 256), 1),
    ],
)
def test_bytes_on_the_device_are_those_of_the_parts(format, shape, factor):
    base = format.base if isinstance(format, Tiled) else format
    parts = math.prod(shape[:-1]) * sum(part.row_bytes for part in base.parts(shape[-1]))
    assert parts * factor <= device_bytes(format, shape) <= parts * factor * 1.5
    if factor == 1:
        assert device_bytes(format, shape) == parts


@pytest.mark.parametrize("model", MODELS)
def test_the_planned_buffers_hold_those_of_the_step(model):
    """And the weights' bytes are those that its kernels are given."""
    config = MODELS[model]
    geometry = geometry_of(config)
    needed = sum(count * dtype.itemsize for count, dtype in buffer_sizes(geometry, MOST_ROWS).values())
    assert needed <= step_bytes(config) <= 3 * needed
    kinds = kinds_of(geometry, GroupInt(4, 32), small=Plain(torch.bfloat16))
    experts = sum(kind.nbytes for name, kind in kinds.items() if ".experts_" in name)
    assert experts == sum(SIZES[model]("int4", CONTEXT).experts)


def test_a_checkpoint_is_planned_from_its_headers(tmp_path):
    checkpoint = open_checkpoint(write_folder(tmp_path / "model", random_tensors(torch.bfloat16)))
    whole = choose_placement(checkpoint, "auto", 512, Gpu(2 * GIB), Host(2 * GIB))
    assert whole.footprint.quant == "int8" and whole.layers == (None, "gpu", "gpu")
    with pytest.raises(DoesNotFit, match=r"model: int4 needs 0\.\d GB on the GPU"):
        choose_placement(checkpoint, "auto", 512, Gpu(GIB // 2), Host(2 * GIB))


def test_the_bus_is_the_slower_of_device_and_port(tmp_path):
    port = tmp_path / "devices" / "0000:00:01.0"
    device = port / "0000:01:00.0"
    device.mkdir(parents=True)
    slots = tmp_path / "slots"
    slots.mkdir()
    (slots / "0000:01:00.0").symlink_to(device)
    assert bus_speed("0000:01:00.0", slots) == BUS == bus_speed("0000:02:00.0", slots)
    for name, text in {"max_link_speed": "16.0 GT/s PCIe\n", "current_link_width": "16\n"}.items():
        (device / name).write_text(text)
    assert bus_speed("0000:01:00.0", slots) == pytest.approx(25.6e9)
    for name, text in {"max_link_speed": "8.0 GT/s PCIe\n", "current_link_width": "255\n"}.items():
        (port / name).write_text(text)
    assert bus_speed("0000:01:00.0", slots) == pytest.approx(12.8e9)
    (device / "max_link_speed").write_text("Unknown\n")
    (port / "max_link_speed").write_text("Unknown\n")
    assert bus_speed("0000:01:00.0", slots) == BUS


def test_a_gpu_is_looked_at(monkeypatch):
    """With torch's answers of a GPU, and the bus as slow as a copy within this machine."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 * GIB, 12 * GIB))
    real = machine.copy_speed
    monkeypatch.setattr(machine, "copy_speed", lambda place: real(torch.device("cpu")))
    found = machine.gpu_now()
    assert found.free == 10 * GIB and 1e8 < found.bus < 1e12
    assert machine.gpu_now("6GiB").free == 6 * GIB and machine.gpu_now("0.99").free == 10 * GIB

    def no_room(place):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(machine, "copy_speed", no_room)
    # No driver here, so nobody knows the slot.
    monkeypatch.setattr(machine, "DriverApi", lambda: refuse())
    assert machine.gpu_now().bus == BUS


def refuse():
    raise KernelError("NVIDIA's driver is not there")


def test_the_host_is_looked_at(monkeypatch):
    here = machine.host_now()
    assert here.free > 0 and (here.reads > 1e8 or not machine.outlook()[0])
    monkeypatch.setattr(machine, "outlook", lambda: (False, "no compiler"))
    assert machine.host_now().reads == 0.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("", None),
        (0.5, 12_000),
        ("0.9", 21_600),
        ("1", 24_000),
        ("80%", 19_200),
        ("2000", 2000),
        ("8GB", 8_000_000_000),
        ("8 GiB", 8 << 30),
        ("512m", 512_000_000),
        (4096, 4096),
    ],
)
def test_the_setting_gpu_memory(given, expected):
    assert gpu_memory(given, 24_000) == expected


@pytest.mark.parametrize("given", ["much", "-1", 0, "0GB", "120%", "8XB", "1e9", float("nan")])
def test_a_senseless_gpu_memory_is_refused(given):
    with pytest.raises(ConfigError, match="gpu_memory is "):
        gpu_memory(given, 24_000)
