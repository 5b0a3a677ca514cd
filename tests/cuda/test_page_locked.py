"""Page-locked memory by the driver's own calls: kernels read experts there, and nothing is left behind."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from laguna_agent.backend.kernels.cuda import experts
from laguna_agent.backend.kernels.cuda.cases import relative_error
from laguna_agent.backend.kernels.cuda.launch import Launch
from laguna_agent.backend.kernels.cuda.matrices import kind_of, placed
from laguna_agent.backend.kernels.cuda.moving import moved
from laguna_agent.backend.kernels.cuda.page_locked import is_page_locked
from laguna_agent.backend.kernels.formats import GroupInt, Tiled
from laguna_agent.backend.kernels.quantise import quantise
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.kernels.tiles import tile
from laguna_agent.backend.laguna.weights.machine import slot_of
from laguna_agent.errors import KernelError
from tests.cuda.emulator import Emulator
from tests.cuda.fake_driver import NO_ROOM, Card
from tests.cuda.test_driver import Machine

FORMAT = GroupInt(4, 32)
TOKENS, COUNT, PER_TOKEN, INNER, HIDDEN = 1, 4, 2, 16, 64


def test_kernels_read_experts_in_page_locked_memory_and_it_is_given_back(tmp_path: Path) -> None:
    weight = tile(quantise(torch.randn(COUNT, 2 * INNER, HIDDEN), FORMAT))
    kind = kind_of(weight.format, weight.shape)
    assert kind is not None
    kernel = experts.expert_gate_up(TOKENS, PER_TOKEN, kind)
    machine = Machine(tmp_path, kernel, emulator=Emulator())
    machine.device.prepare([kernel])
    memory = machine.device.page_locked()
    matrix = placed(moved(weight, memory.empty), torch.device("meta"))
    assert matrix is not None and is_page_locked(matrix.codes) and memory.bytes == weight.nbytes
    put, x = machine.fake.memory.put, torch.randn(TOKENS, HIDDEN)
    picked, out = torch.tensor([[3, 1]], dtype=torch.int32), machine.fake.memory.allocate(TOKENS, PER_TOKEN, INNER)
    codes, scales, extra = matrix.arguments
    launch = Launch.of(
        kernel,
        x=put(x),
        picked=put(picked),
        out=out,
        weights_codes=codes,
        weights_scales=scales,
        weights_extra=extra,
    )
    machine.device.run([launch])
    machine.right()
    gate, up = (dequantise(weight)[picked[0].long()].double() @ x[0].double()).chunk(2, dim=-1)
    assert relative_error(out[0], torch.nn.functional.silu(gate) * up) < 1e-6
    assert machine.fake.left.count("Tensor") == 2
    del matrix, codes, scales, launch
    gc.collect()
    assert machine.fake.left.count("Tensor") == memory.bytes == 0
    machine.right()


def test_memory_that_was_given_back_is_not_read(tmp_path: Path) -> None:
    kind = kind_of(Tiled(FORMAT), (COUNT, 2 * INNER, HIDDEN))
    assert kind is not None
    kernel = experts.expert_gate_up(TOKENS, PER_TOKEN, kind)
    machine = Machine(tmp_path, kernel)
    machine.device.prepare([kernel])
    given = {
        pointer.name: machine.device.page_locked().empty((pointer.nbytes,), torch.uint8)
        for pointer in kind.pointers("weights")[:2]
    }
    allocate = machine.fake.memory.allocate
    others = {"x": allocate(TOKENS * HIDDEN), "picked": allocate(TOKENS * PER_TOKEN, dtype=torch.int32)}
    launch = Launch.of(kernel, out=allocate(TOKENS * PER_TOKEN * INNER), **given, **others)
    machine.device.run([launch])
    machine.right()
    machine.fake.memory.free(given["weights_codes"])
    with pytest.raises(KernelError, match="illegal memory access"):
        machine.device.run([launch])
    assert "weights_codes is memory that was freed" in machine.fake.violations[0]


def test_what_the_driver_refuses_is_said(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.fake.fail("cuMemHostAlloc", NO_ROOM)
    with pytest.raises(KernelError, match=r"3 MiB of page-locked host memory: .*out of memory"):
        machine.device.page_locked().empty((3 << 20,), torch.uint8)
    with pytest.raises(KernelError, match="no unified addresses"):
        Machine(tmp_path, card=Card(unified=False)).device.page_locked()


def test_the_slot_of_a_gpu(tmp_path: Path) -> None:
    from laguna_agent.backend.kernels.cuda.driver_api import DriverApi

    assert slot_of(DriverApi(Machine(tmp_path).fake), 0) == "0000:01:00.0"
