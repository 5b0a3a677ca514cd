"""A model from weights that were opened: every canonical tensor put where the model keeps it.

Knows the model's modules and the tensors' names; must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from laguna_agent.backend.kernels.cpu import products
from laguna_agent.backend.kernels.cuda import prefill
from laguna_agent.backend.kernels.formats import Weight
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.holders import WeightHolder
from laguna_agent.backend.laguna.model import CausalLM
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.errors import WeightsError

Arithmetic = Literal["fast", "exact"]


def build_model(
    config: ModelConfig,
    tensors: Mapping[str, Weight],
    compute_dtype: torch.dtype | None = None,
    arithmetic: Arithmetic = "exact",
) -> CausalLM:
    """The model of `config` over `tensors` (canonical name -> weight), which it shares and never writes to.

    `compute_dtype` is that of activations; weights keep their own. None: fp32 on the CPU, bf16 elsewhere. A CPU reads
    weights of any format and computes in fp32 anyway: bf16 activations would only be rounded between two products, and
    torch's own products are slower in bf16 there. Nothing is copied but the router's selection biases, which become
    fp32. With the arithmetic "fast" the compiled library computes whole layers where it serves them, with activations
    in 8 bits; "exact" keeps them in the compute dtype. Raises WeightsError where a tensor is missing or has another
    shape.
    """
    on_cpu = all(weight.device.type == "cpu" for weight in tensors.values())
    if on_cpu:
        products.use()
    for device in {weight.device for weight in tensors.values() if weight.device.type == "cuda"}:
        prefill.use(device)
    compute_dtype = compute_dtype or (torch.float32 if on_cpu else torch.bfloat16)
    with torch.device("meta"):
        model = CausalLM(config, compute_dtype=compute_dtype)
    for name, shape, _ in expected_tensors(config):
        weight = tensors.get(name)
        if weight is None or tuple(weight.shape) != shape:
            found = "missing" if weight is None else f"of shape {list(weight.shape)}"
            raise WeightsError(f"tensor {name!r} is {found}, expected {list(shape)}")
        _put(model, name, weight)
    unfilled = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if unfilled:
        raise WeightsError(f"the model has a tensor that its config does not name: {unfilled[0]}")
    if arithmetic == "fast":
        model.use_library()
    return model.eval()


def _put(model: CausalLM, name: str, weight: Weight) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf in dict(owner.named_buffers(recurse=False)):
        assert isinstance(weight, Tensor)
        setattr(owner, leaf, weight.float())
    elif isinstance(weight, Tensor):
        setattr(owner, leaf, nn.Parameter(weight, requires_grad=False))
    else:
        assert isinstance(owner, WeightHolder)
        owner.put(leaf, weight)
