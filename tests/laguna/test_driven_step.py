"""Whole models through the GPU's own host code: every launch of every step goes through a driver that checks it, and
runs on the CPU. What the modules compute is what comes out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch

from laguna_agent.backend.kernels.cuda.cubins import Cubins
from laguna_agent.backend.kernels.cuda.driver import CudaDevice
from laguna_agent.backend.kernels.cuda.driver_api import DriverApi
from laguna_agent.backend.kernels.cuda.launch import Kernel, Launch
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.model import Piece
from tests.cuda.emulator import Emulator
from tests.cuda.fake_driver import NO_ROOM, FakeCompiler, FakeDriver
from tests.cuda.launch_checks import Memory
from tests.laguna.small_models import FULL
from tests.laguna.test_compiled_layers import random_weights
from tests.laguna.test_device_step import FOUR, caches, config_of, error, tokens


class Driven(CudaDevice):
    """A device on a fake driver that learns which kernels there are when they are prepared; `graphs`: how many launches
    each recording has."""

    def __init__(self, folder: Path, *, runs: bool) -> None:
        self.fake = FakeDriver(emulator=Emulator() if runs else None)
        self.fake.memory = Memory(adopting=True)
        self.graphs: list[int] = []
        cpu = torch.device("cpu")
        super().__init__(api=DriverApi(self.fake), cubins=Cubins(FakeCompiler(), folder), place=cpu, stream=lambda: 0)

    def prepare(self, kernels: Iterable[Kernel]) -> None:
        known = list(kernels)
        self.fake.kernels.update({kernel.name: kernel for kernel in known})
        super().prepare(known)

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        self.graphs.append(len(launches))
        return super().record(launches)


@pytest.mark.slow
@pytest.mark.parametrize("with_graphs", [True, False], ids=["graphs", "launches"])
def test_a_models_steps_go_through_the_driver(tmp_path: Path, with_graphs: bool) -> None:
    config = config_of((FULL,), layers=config_of().layers[:1])
    weights = random_weights(config, 1, FOUR)
    exact, stepped = (build_model(config, weights, torch.float32) for _ in range(2))
    device = Driven(tmp_path, runs=True)
    if not with_graphs:
        device.fake.fail("cuGraphInstantiateWithFlags", NO_ROOM)
    with torch.no_grad():
        assert stepped.use_device(device)
        ours, theirs = caches(stepped, exact)
        for part in tokens(config, 3).split(1):
            assert error(stepped([Piece(part, ours)]), exact([Piece(part, theirs)])) < 1e-5
    fake = device.fake
    assert fake.violations == [] and fake.contexts == []
    calls = {name: fake.calls.count(name) for name in ("cuGraphLaunch", "cuLaunchKernel")}
    first, second = device.graphs
    assert second == 1
    if with_graphs:
        # The draw was recorded too, and nobody asked for one.
        assert device.graph_problem is None
        assert calls == {"cuGraphLaunch": 3, "cuLaunchKernel": first + second}
    else:
        assert device.graph_problem is not None
        assert calls == {"cuGraphLaunch": 0, "cuLaunchKernel": first + second + 3 * first}
    assert len(fake.executed) == 3 * first
    # Nothing of it stays with the driver.
    del stepped
    gc.collect()
    assert "Ready" not in fake.left and "Recorded" not in fake.left
    device.close()
    assert fake.left == []
