"""Checkpoints of the tests in memory: tensors of the hub or fused layout put into a model, and the golden cases.

The engine's own loader has tests of its own; these must not fail or pass with it.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.config_json import load_config
from laguna_agent.backend.laguna.model import CausalLM

# Read when the module is loaded: the fixture that isolates a test removes such variables.
SHARED = Path(os.environ.get("LAGUNA_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
CASES = ("a1_perhead_mixed_heads", "a2_perelement_all_full", "a3_router_softcap", "a4_fused_tied", "a5_bf16_s21_like")

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def canonical(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the hub or the fused layout under the model's own names: experts stacked, gate rows before up rows."""
    out: dict[str, Tensor] = {}
    parts: dict[tuple[str, str], dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        found = _EXPERT.fullmatch(name)
        if found:
            parts[found[1], found[3]][int(found[2])] = tensor
            continue
        name = name.replace(".mlp.shared_experts.", ".mlp.shared_expert.")
        out[name.replace(".mlp.gate.e_score_correction_bias", ".mlp.experts.e_score_correction_bias")] = tensor

    def stack(prefix: str, kind: str) -> Tensor:
        experts = parts[prefix, kind]
        return torch.stack([experts[index] for index in range(len(experts))])

    for prefix in sorted({prefix for prefix, _ in parts}):
        out[f"{prefix}.gate_up_proj"] = torch.cat([stack(prefix, "gate"), stack(prefix, "up")], dim=1)
        out[f"{prefix}.down_proj"] = stack(prefix, "down")
    return out


def filled(config: ModelConfig, tensors: dict[str, Tensor]) -> CausalLM:
    """An fp32 model of `config` with these weights; every name must fit."""
    named = {name: tensor.float() for name, tensor in canonical(tensors).items()}
    rows = {
        int(name.split(".")[2]): len(tensor)
        for name, tensor in named.items()
        if name.endswith(".self_attn.g_proj.weight")
    }
    model = CausalLM(config.with_gate_rows(rows))
    model.load_state_dict(named)
    return model.requires_grad_(False)


def golden(case: str) -> tuple[CausalLM, dict[str, Tensor]]:
    """The model of a golden case and its expected tensors; skips where the vectors are not there."""
    folder = SHARED / "golden" / case
    if not folder.is_dir():
        pytest.skip(f"no golden vectors in {folder}; set LAGUNA_SHARED to the folder that holds golden/")
    return filled(load_config(folder), load_file(folder / "model.safetensors")), load_file(
        folder / "golden.safetensors"
    )
