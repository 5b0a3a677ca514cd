"""A model on an NVIDIA GPU: whether there is one, the weights brought to their places, the kernels that decode with
them, and the CPU where it computes experts.

Knows torch's view of the machine and the kernels' device; must not know files or requests.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import torch

from laguna_agent.backend.kernels.cpu import products
from laguna_agent.backend.kernels.cuda import offload, prefill
from laguna_agent.backend.kernels.cuda.launch import Device
from laguna_agent.backend.kernels.cuda.moving import Empty, on_device
from laguna_agent.backend.kernels.cuda.offload import Desk, HostExperts
from laguna_agent.backend.kernels.formats import Weight
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.device_step import geometry_of
from laguna_agent.backend.laguna.layers import DecoderLayer, SparseMLP
from laguna_agent.backend.laguna.loading import build_model
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.backend.laguna.weights.placement import Placement
from laguna_agent.backend.laguna.weights.placing import place_weights
from laguna_agent.backend.laguna.weights.progress import Progress, silent
from laguna_agent.errors import ConfigError, DoesNotFit, KernelError

if TYPE_CHECKING:
    from laguna_agent.backend.kernels.cuda.driver import CudaDevice

log = logging.getLogger(__name__)
DeviceOption = Literal["auto", "cpu", "cuda"]
DeviceName = Literal["cpu", "cuda"]


def chosen_device(wanted: DeviceOption) -> DeviceName:
    """Where a model is computed. Raises ConfigError where a GPU is wanted that torch does not see."""
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "auto":
        return "cpu"
    built = torch.version.cuda
    why = "torch sees no NVIDIA GPU (is its driver installed?)" if built else "this torch was built without CUDA"
    raise ConfigError(f'device is cuda, but {why}; device = "auto" takes the CPU then')


def build_on_gpu(
    config: ModelConfig, tensors: Mapping[str, Weight], placement: Placement, progress: Progress = silent
) -> CausalLM:
    """The model of `config` over copies of `tensors` where `placement` wants them, which decodes with our kernels where
    they work here.

    Modules compute in bf16, our kernels in fp32. Raises as `build_model` does.
    """
    place = torch.device("cuda", torch.cuda.current_device())
    opened = _kernels(config, place)
    if opened is None:
        return placed_model(config, tensors, placement, place, progress=progress)
    device, faulty = opened
    pinned = device.page_locked().empty
    return placed_model(config, tensors, placement, place, device, pinned, faulty, progress)


def _kernels(config: ModelConfig, place: torch.device) -> tuple[CudaDevice, frozenset[str]] | None:
    """The kernels' device and the families that are not to be trusted there; None, and a word in the log, where it
    cannot be used."""
    from laguna_agent.backend.kernels.cuda.selftest import faulty_families

    try:
        device = _cuda_device(place.index or 0)
        return device, faulty_families(device, geometry_of(config))
    except KernelError as error:
        log.warning("torch decodes, which is slower, for the GPU's kernels cannot be used: %s", error)
        return None


@lru_cache
def _cuda_device(index: int) -> CudaDevice:
    """One for all models of this process: what it has loaded stays when a model is closed, and serves the next."""
    from laguna_agent.backend.kernels.cuda.driver import CudaDevice

    return CudaDevice(index)


def placed_model(
    config: ModelConfig,
    tensors: Mapping[str, Weight],
    placement: Placement,
    place: torch.device,
    device: Device | None = None,
    pinned: Empty | None = None,
    faulty: frozenset[str] = frozenset(),
    progress: Progress = silent,
) -> CausalLM:
    """The model over weights at `place`, in the memory that `pinned` makes, and where they are; decoded by `device`.

    Without a device nothing reads page-locked memory: experts that would lie there stay in the file's pages, and pass
    through the GPU's memory when they are picked. Raises DoesNotFit where the GPU has no room after all.
    """
    try:
        weights, placement = place_weights(config, tensors, placement, on_device(place), pinned, progress)
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"the GPU ran out of memory while the model was brought there ({placement}): another program may use it; "
            "stop that, or set gpu_memory to less"
        ) from error
    model = build_model(config, weights, None if place.type == "cuda" else torch.float32)
    offload.use()
    if "prefill" in faulty:
        prefill.use(place, faulty=True)
    if device is not None:
        try:
            hosts = host_experts(model, placement, pinned or on_device(torch.device("cpu")))
            if not model.use_device(device, faulty, hosts):
                log.warning("the GPU's kernels do not serve this model; torch decodes, which is slower")
        except KernelError as error:
            log.warning("torch decodes, which is slower, for the GPU's kernels cannot be used: %s", error)
    return model


def host_experts(model: CausalLM, placement: Placement, empty: Empty) -> dict[int, HostExperts]:
    """By layer, the CPU with the experts that it computes; `empty` makes the buffers that they come and go through."""
    layers = [index for index, where in enumerate(placement.layers) if where == "cpu"]
    if not layers:
        return {}
    products.use()
    config = model.config
    desk = Desk(config.hidden_size, config.experts_per_token, model.device, empty)
    hosts = {}
    for index in layers:
        layer = model.model.layers[index]
        assert isinstance(layer, DecoderLayer) and isinstance(layer.mlp, SparseMLP)
        experts = layer.mlp.experts
        hosts[index] = HostExperts(experts.gate_up_proj, experts.down_proj, layer.mlp.scale, desk)
    return hosts
