"""A whole model whose experts lie in three places, with the emulator as the GPU: the same tokens as in one place."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from laguna_agent import findings
from laguna_agent.backend.kernels import dispatch
from laguna_agent.backend.kernels.cuda import moving
from laguna_agent.backend.kernels.cuda.launch import Launch
from laguna_agent.backend.kernels.cuda.moving import on_device
from laguna_agent.backend.kernels.cuda.offload import HostExperts
from laguna_agent.backend.kernels.cuda.page_locked import PageLocked, is_page_locked
from laguna_agent.backend.kernels.formats import GroupInt, PackedTensor, Tiled
from laguna_agent.backend.laguna import gpu, in_process
from laguna_agent.backend.laguna.decoding import DecodingOptions, generate
from laguna_agent.backend.laguna.gpu import placed_model
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.local_model import ModelOptions, planned
from laguna_agent.backend.laguna.model import Piece
from laguna_agent.backend.laguna.sampling import SamplingOptions
from laguna_agent.backend.laguna.weights import open_weights
from laguna_agent.backend.laguna.weights.opening import open_checkpoint
from laguna_agent.backend.laguna.weights.placement import Footprint, Gpu, Host, Placement, Where
from laguna_agent.backend.laguna.weights.placing import place_weights
from laguna_agent.config import Settings
from laguna_agent.errors import ConfigError, DoesNotFit, KernelError
from tests.cuda.emulator import Emulator, fenced
from tests.cuda.held_bytes import HeldBytes
from tests.laguna.small_models import FULL, SLIDING
from tests.laguna.test_compiled_layers import random_weights
from tests.laguna.test_device_step import config_of, error
from tests.laguna.whole_checkpoint import whole_checkpoint

CPU = torch.device("cpu")
GIB = 1 << 30
FORMAT = GroupInt(4, 32, torch.float16)
LAYERS: tuple[Where | None, ...] = (None, "gpu", "pinned", "cpu")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    for name in ("_registered", "_fused"):
        monkeypatch.setattr(dispatch, name, dict(getattr(dispatch, name)))
    with torch.no_grad():
        yield


def locked_memory() -> PageLocked:
    """Page-locked memory as the driver would give it: between protected pages."""
    tensors = {}

    def allocate(size: int) -> int:
        made = fenced(size, dtype=torch.uint8)
        tensors[made.data_ptr()] = made
        return made.data_ptr()

    return PageLocked(allocate, tensors.pop)


def placement(layers: tuple[Where | None, ...]) -> Placement:
    return Placement(Footprint("int4", 0, tuple(int(at is not None) for at in layers), 1.0, 0, 0, 64), layers, 0)


def experts_of(model, layer):
    experts = model.model.layers[layer].mlp.experts
    return experts.gate_up_proj, experts.down_proj


def test_experts_lie_where_they_were_placed_and_the_modules_compute_the_same():
    config = config_of((FULL, SLIDING, FULL, SLIDING))
    weights, memory = random_weights(config, 1, FORMAT), locked_memory()
    model = placed_model(config, weights, placement(LAYERS), CPU, pinned=memory.empty)
    assert [is_page_locked(each) for layer in (1, 2, 3) for each in experts_of(model, layer)] == [False] * 2 + [
        True
    ] * 2 + [False] * 2
    for layer, kind in ((1, GroupInt), (2, GroupInt), (3, Tiled)):
        assert all(isinstance(each.format, kind) for each in experts_of(model, layer))
    # What the CPU computes with is the file's own memory.
    assert experts_of(model, 3)[1] is weights["model.layers.3.mlp.experts.down_proj"]
    assert isinstance(model.lm_head.weight, PackedTensor) and model.lm_head.weight.format == FORMAT
    ids = torch.arange(20) % config.vocab_size
    exact = build_model(config, weights, torch.float32)
    assert error(model([Piece(ids)]), exact([Piece(ids)])) < 1e-5
    assert model.stepped is None
    # Without kernels nobody reads page-locked memory.
    model = placed_model(config, weights, placement(LAYERS), CPU)
    assert experts_of(model, 2)[0] is weights["model.layers.2.mlp.experts.gate_up_proj"]


class Launched(Emulator):
    """The emulator; it keeps the families that it launched in the last run."""

    def families(self) -> list[str]:
        found = [launch.kernel.family for launch in self.launched]
        self.launched.clear()
        return found


def pointers(launches: list[Launch], name: str) -> list[torch.Tensor]:
    """What launches were given for a parameter."""
    found = []
    for launch in launches:
        names = [parameter.name for parameter in launch.kernel.parameters]
        if name in names:
            argument = launch.arguments[names.index(name)]
            assert isinstance(argument, torch.Tensor)
            found.append(argument)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0, 32])
def test_a_step_with_experts_in_three_places_gives_the_same_tokens(shared, monkeypatch):
    config = config_of((FULL, SLIDING, FULL, SLIDING), shared_expert_size=shared, routed_scale=2.5)
    weights, memory = random_weights(config, 1, FORMAT), locked_memory()
    exact, whole = build_model(config, weights, torch.float32), build_model(config, weights, torch.float32)
    assert whole.use_device(Emulator())
    device = Launched()
    model = placed_model(config, weights, placement(LAYERS), CPU, device, memory.empty)
    assert model.stepped is not None and set(model.stepped.weights.hosts) == {3}
    asked, computed = [], HostExperts.computed

    def watched(self, x, picked, share):
        asked.append(len(x))
        return computed(self, x, picked, share)

    monkeypatch.setattr(HostExperts, "computed", watched)
    caches = {each: each.new_cache("f32") for each in (exact, whole, model)}
    ids = torch.randint(config.vocab_size, (16,), generator=torch.Generator().manual_seed(5))
    for part in ids.split([6, 1, 3, 1, 5]):
        device.launched.clear()
        logits = {each: each([Piece(part, cache)]) for each, cache in caches.items()}
        # The CPU is given no dead rows.
        assert asked.pop() == len(part)
        read = [is_page_locked(codes) for codes in pointers(device.launched, "weights_codes")]
        assert read == [False, False, True, True]
        # One layer's experts are nobody's kernel.
        assert device.families().count("expert_down") == 2
        assert error(logits[model], logits[exact]) < 1e-5 and error(logits[model], logits[whole]) < 1e-5
    for options in (SamplingOptions(), SamplingOptions(temperature=0.8, top_p=0.9, seed=4)):
        said = [
            list(generate(each, ids.tolist(), cache.fork(), DecodingOptions(options, max_tokens=8)))
            for each, cache in caches.items()
        ]
        assert said[0] == said[1] == said[2] and len(said[0]) == 8


def test_loading_holds_nothing_twice(monkeypatch):
    """Counted in bytes: what is made is the placed model, and beside it a few slices of one tensor."""
    monkeypatch.setattr(moving, "SLICE", 1 << 12)
    config = config_of((FULL, SLIDING, FULL, SLIDING), expert_size=64, experts=16)
    weights, memory = random_weights(config, 1, FORMAT), locked_memory()
    sizes = {
        where: sum(
            weight.nbytes
            for name, weight in weights.items()
            if ".experts." in name and "bias" not in name and LAYERS[int(name.split(".")[2])] == where
        )
        for where in ("gpu", "pinned", "cpu")
    }
    total = sum(weight.nbytes for weight in weights.values())
    told: list[tuple[int, int]] = []
    with HeldBytes() as held:
        placed, found = place_weights(
            config,
            weights,
            placement(LAYERS),
            on_device(CPU),
            memory.empty,
            lambda stage, done, whole: told.append((done, whole)),
        )
    gc.collect()
    assert memory.bytes == memory.most == sizes["pinned"]
    made = total - sizes["pinned"] - sizes["cpu"]
    assert held.now == made
    assert made <= held.most <= made + 8 * moving.SLICE < made + sizes["gpu"]
    assert told[-1] == (total, total) and told == sorted(told)
    assert list(placed) == list(weights) and found == placement(LAYERS)
    with pytest.raises(KeyboardInterrupt):

        def stop(stage: str, done: int, whole: int) -> None:
            raise KeyboardInterrupt

        place_weights(config, weights, placement(LAYERS), on_device(CPU), memory.empty, stop)


def test_what_cannot_be_pinned_is_left_to_the_cpu(caplog):
    config = config_of((FULL, SLIDING, FULL, SLIDING, FULL))
    layers: tuple[Where | None, ...] = (None, "pinned", "pinned", "gpu", "pinned")
    weights, memory = random_weights(config, 1, FORMAT), locked_memory()
    room = sum(each.nbytes for name, each in weights.items() if ".1.mlp.experts." in name) + (12 << 10)

    def empty(shape, dtype):
        if memory.bytes + torch.Size(shape).numel() * dtype.itemsize > room:
            raise KernelError("no more page-locked host memory")
        return memory.empty(shape, dtype)

    placed, found = place_weights(config, weights, placement(layers), on_device(CPU), empty)
    assert found.layers == (None, "pinned", "cpu", "gpu", "cpu")
    assert "layer 2" in caplog.text and "no more page-locked" in caplog.text
    gc.collect()
    for name, weight in placed.items():
        if ".experts." in name and "bias" not in name:
            layer = int(name.split(".")[2])
            assert is_page_locked(weight) == (layer == 1) and (weight is weights[name]) == (layer in (2, 4))
    assert memory.bytes == sum(each.nbytes for each in placed.values() if is_page_locked(each)) < memory.most
    with pytest.raises(DoesNotFit, match=r"ran out of memory .*experts of 1 of 4 layers on the GPU.* set gpu_memory"):

        def no_room(*given, **named):
            raise torch.OutOfMemoryError("no room")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu, "on_device", lambda place: no_room)
            placed_model(config, weights, placement(layers), CPU)


def test_without_a_driver_torch_computes(caplog):
    """As on this machine."""
    assert gpu._kernels(config_of(), CPU) is None
    assert "torch decodes, which is slower" in caplog.text


def test_a_plan_for_a_gpu_and_one_for_the_cpu(tmp_path):
    path = whole_checkpoint(tmp_path / "model")
    checkpoint = open_checkpoint(path)
    on_cpu = planned(ModelOptions(str(path)), checkpoint)
    assert on_cpu.device == "cpu" and on_cpu.placement is None
    on_gpu = planned(ModelOptions(str(path)), checkpoint, Gpu(2 * GIB), Host(8 * GIB))
    assert on_gpu.device == "cuda" and on_gpu.placement is not None and not on_gpu.placement.on_host
    assert on_gpu.need.quant == on_gpu.placement.footprint.quant and on_gpu.context == on_cpu.context
    with pytest.raises(DoesNotFit, match="on the GPU"):
        planned(ModelOptions(str(path)), checkpoint, Gpu(GIB // 4), Host(8 * GIB))
    with pytest.raises(ConfigError, match="context_length is 100000"):
        planned(ModelOptions(str(path), context=100_000), checkpoint, Gpu(2 * GIB), Host(8 * GIB))
    weights = open_weights(path, on_gpu.need.quant, folder=tmp_path)
    model = placed_model(weights.config, weights.tensors, on_gpu.placement, CPU)
    assert torch.isfinite(model([Piece(torch.arange(9))])).all()


def test_doctor_says_where_the_weights_of_the_chosen_model_lie(tmp_path, monkeypatch):
    path = whole_checkpoint(tmp_path / "model")
    plan = planned(ModelOptions(str(path)), open_checkpoint(path), Gpu(2 * GIB), Host(8 * GIB))
    local = Settings(model=f"local/{path}")
    monkeypatch.setattr(in_process, "plan_of", lambda name, settings: plan)
    (found,) = findings._placement(local)
    assert found.status == "ok" and found.detail == f"{path}: {plan.placement}" and "of all 2 layers" in found.detail
    assert not list(findings._placement(Settings(model="poolside/laguna")))
    assert not list(findings._placement(Settings(model=f"local/{path}", base_url="http://localhost:1")))

    def refused(name, settings):
        raise DoesNotFit("too large")

    monkeypatch.setattr(in_process, "plan_of", refused)
    assert [each.detail for each in findings._placement(local)] == ["too large"]
