"""Small Lagunas to train: the values of their config.json, and the weights that a run begins with.

Knows the model's names and sizes; must not know data, optimizers or how a model is sharded, beyond that a parameter
may be a DTensor.
"""

from __future__ import annotations

import math
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from laguna_agent.backend.laguna.model import CausalLM

DEVIATION = 0.02
"""Of the first weights, as in the released configs (`initializer_range`)."""
ROUTER_DEVIATION = 0.006
"""Routers begin nearly indifferent, so that the first tokens do not decide for good which experts learn."""
HEAD_LOGITS = 0.3
"""The most that logits may deviate at first: the loss then begins at the logarithm of the vocabulary."""
INWARD = ("o_proj", "down_proj")
"""What is added to the stream; there are two in each layer."""


def small_laguna(
    *,
    vocab_size: int,
    hidden: int = 192,
    layers: int = 6,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 32,
    experts: int = 16,
    experts_per_token: int = 2,
    expert_size: int = 128,
    shared_expert_size: int = 128,
    dense_size: int = 512,
    window: int = 128,
    full_every: int = 4,
    context: int = 512,
    routed_scale: float | None = None,
    tied: bool = False,
    eos: int = 0,
) -> dict[str, Any]:
    """The values of config.json, in the hub's spelling, of a Laguna with XS.2's design and the given sizes.

    Every `full_every`th layer from the first on attends to all, the others to the last `window` tokens; the first
    layer is dense. `routed_scale`: the factor on the routed experts' sum; by itself it is sqrt(experts_per_token),
    which gives the mean of so many experts the size of one (XS.2: 2.5 for 8). `eos` is the id that ends a text; it
    also begins and pads. Whether the sizes fit each other is for `parse_config` to say.
    """
    kinds = ["sliding_attention" if index % full_every else "full_attention" for index in range(layers)]
    return {
        "architectures": ["LagunaForCausalLM"],
        "model_type": "laguna",
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": dense_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_attention_heads_per_layer": [heads] * layers,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "layer_types": kinds,
        "mlp_layer_types": ["sparse" if index else "dense" for index in range(layers)],
        "sliding_window": window,
        "max_position_embeddings": context,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
        "gating": "per-head",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tied,
        "num_experts": experts,
        "num_experts_per_tok": experts_per_token,
        "moe_intermediate_size": expert_size,
        "shared_expert_intermediate_size": shared_expert_size,
        "moe_routed_scaling_factor": math.sqrt(experts_per_token) if routed_scale is None else routed_scale,
        "moe_router_logit_softcapping": 0.0,
        "norm_topk_prob": True,
        "initializer_range": DEVIATION,
        "bos_token_id": eos,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "dtype": "float32",
    }


@torch.no_grad()
def initialise(model: CausalLM, seed: int) -> None:
    """Give every parameter its first values, and the routers' selection biases 0.

    Matrices are drawn from normal(0, `DEVIATION`), those that add to the stream with less by sqrt(2 * layers), as in
    GPT-2; norms are 1, biases 0. Each parameter has a generator of its own, whose seed follows from `seed` and the
    parameter's name, and a shard is cut from the whole: the values depend neither on the order nor on the number of
    ranks nor on the device. A model on the meta device must have been given memory before.
    """
    config = model.config
    inward = DEVIATION / math.sqrt(2 * len(config.layers))
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(f"{name} has no memory yet: call to_empty() before")
        _put(parameter, _drawn(name, parameter.shape, seed, _deviation(name, config.hidden_size, config.tied, inward)))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.zero_()


def _deviation(name: str, hidden: int, tied: bool, inward: float) -> float:
    """What a parameter's values deviate by; 0 for one that is not drawn."""
    owner = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
    if name.endswith(".bias") or owner.endswith("norm"):
        return 0.0
    if owner == "lm_head" or (tied and owner == "embed_tokens"):
        return min(DEVIATION, HEAD_LOGITS / math.sqrt(hidden))
    if owner == "gate":
        return ROUTER_DEVIATION
    return inward if owner in INWARD else DEVIATION


def _drawn(name: str, shape: torch.Size, seed: int, deviation: float) -> Tensor:
    """The whole parameter, fp32, on the CPU."""
    if not deviation:
        return torch.zeros(shape) if name.endswith(".bias") else torch.ones(shape)
    source = torch.Generator().manual_seed(int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:8], "little"))
    return torch.empty(shape).normal_(0, deviation, generator=source)


def _put(parameter: nn.Parameter, whole: Tensor) -> None:
    if isinstance(parameter, DTensor):
        # Without a source rank nothing is sent: every rank has drawn the same.
        local = whole.to(device=parameter.device)
        parts = distribute_tensor(local, parameter.device_mesh, parameter.placements, src_data_rank=None)
        parameter.to_local().copy_(parts.to_local())
    else:
        parameter.copy_(whole)
