"""The keys of a GGUF file of arch `laguna` or `qwen2` as the config.json that they stand for (specification section 7).

One reader of configs checks everything (`config_json`), so this only renames keys, old spellings included, and
settles what GGUF says differently: which layers slide, which are dense, and the attention factor.

The attention factor is a hazard. llama.cpp computes A = attn_factor * (1 + 0.1 ln factor) and reads only
`rope.scaling.attn_factor`; converters write config.json's `attention_factor` into `yarn_attn_factor`, which nothing
reads, and official files carry 1.0 there where config.json says 1.3466. So A is llama.cpp's, unless a person says
otherwise. Two more keys llama.cpp does not read for Laguna, `yarn_beta_fast` (it takes 32) and the router's softcap;
there the file is believed, for it says what the model was trained with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from laguna_agent.backend.laguna.config import LARGEST, ModelConfig, refuse
from laguna_agent.backend.laguna.config_fields import Fields
from laguna_agent.backend.laguna.config_json import parse_config

FULL, SLIDING = "full_attention", "sliding_attention"


def gguf_config(
    keys: Mapping[str, Any], source: str, *, vocab_size: int, tied: bool, attention_factor: float | None = None
) -> ModelConfig:
    """The config of a GGUF file from its metadata.

    `vocab_size`: rows of token_embd; `tied`: there is no `output` tensor; `attention_factor`: the factor A of yarn
    layers, where a person knows better than the file. Raises ConfigError naming the key.
    """
    architecture = keys.get("general.architecture")
    if architecture not in ("laguna", "qwen2"):
        refuse(source, "general.architecture", architecture, "'laguna' or 'qwen2'")
    reader = _Keys(keys, source, architecture)
    values = reader.shared()
    values |= {"vocab_size": vocab_size, "tie_word_embeddings": tied}
    values |= reader.laguna(attention_factor) if architecture == "laguna" else reader.qwen2()
    return parse_config(values, source)


class _Keys:
    def __init__(self, keys: Mapping[str, Any], source: str, architecture: str) -> None:
        self.source, self.keys = source, keys
        self.fields = Fields(keys, source)
        self.prefix = f"{architecture}."

    def name(self, *spellings: str) -> str:
        """The first spelling that the file has, else the first of all."""
        full = [self.prefix + spelling for spelling in spellings]
        return next((name for name in full if name in self.keys), full[0])

    def integer(self, *spellings: str, default: int | None = None) -> int:
        return self.fields.integer(self.name(*spellings), default)

    def number(self, *spellings: str, default: float | None = None) -> float:
        return self.fields.number(self.name(*spellings), default)

    def has(self, *spellings: str) -> bool:
        return self.name(*spellings) in self.keys

    def shared(self) -> dict[str, Any]:
        """What both architectures say in the same way."""
        for key, wanted in (("attention.qk_norm", True), ("attention.sink_enabled", False)):
            if bool(self.keys.get(self.prefix + key, wanted)) != wanted:
                refuse(self.source, self.prefix + key, not wanted, f"{wanted}, which is all that is supported")
        eos = [self.fields.optional_integer(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")]
        values: dict[str, Any] = {
            "model_type": self.prefix[:-1],
            "num_hidden_layers": self.integer("block_count"),
            "hidden_size": self.integer("embedding_length"),
            "max_position_embeddings": self.integer("context_length"),
            "rms_norm_eps": self.number("attention.layer_norm_rms_epsilon"),
            "eos_token_id": list(dict.fromkeys(number for number in eos if number is not None)),
        }
        for key, ours in (("bos", "bos_token_id"), ("padding", "pad_token_id")):
            values[ours] = self.fields.optional_integer(f"tokenizer.ggml.{key}_token_id")
        if self.has("feed_forward_length"):
            values["intermediate_size"] = self._same("feed_forward_length")
        return values

    def _same(self, *spellings: str) -> int:
        """An integer that may be written once or once a layer; all the entries that are not 0 must be equal."""
        name = self.name(*spellings)
        found = self.keys.get(name)
        if not isinstance(found, list):
            return self.fields.integer(name)
        kinds = {entry for entry in found if entry}
        if len(kinds) > 1 or any(type(entry) is not int for entry in found):
            refuse(self.source, name, found, "the same integer for every layer")
        return kinds.pop() if kinds else 0

    def _per_layer(self, name: str, count: int) -> list[int]:
        found = self.keys.get(name)
        if isinstance(found, list):
            return self.fields.integers(name, count) or []
        return [self.fields.integer(name)] * count

    def qwen2(self) -> dict[str, Any]:
        """Keys of the dense Qwen2 models."""
        kind = self.keys.get(self.name("rope.scaling.type"), "none")
        if kind != "none":
            refuse(self.source, self.name("rope.scaling.type"), kind, "none, which is all that is supported for qwen2")
        values = {
            "num_attention_heads": self._same("attention.head_count"),
            "num_key_value_heads": self._same("attention.head_count_kv"),
            "rope_theta": self.number("rope.freq_base", default=10000.0),
        }
        if self.has("attention.key_length"):
            values["head_dim"] = self.integer("attention.key_length")
        return values

    def laguna(self, attention_factor: float | None) -> dict[str, Any]:
        """Keys of the Laguna models."""
        count = self.integer("block_count")
        if not 0 < count <= 4096:
            refuse(self.source, self.name("block_count"), count, "1 to 4096 layers")
        head_dim = self.integer("attention.key_length")
        if self.integer("attention.value_length", default=head_dim) != head_dim:
            refuse(self.source, self.name("attention.value_length"), "another size", f"key_length ({head_dim})")
        if self.integer("expert_gating_func", default=2) != 2:
            refuse(
                self.source, self.name("expert_gating_func"), self.keys[self.name("expert_gating_func")], "2 (sigmoid)"
            )
        heads = self._per_layer(self.name("attention.head_count"), count)
        values: dict[str, Any] = {
            "head_dim": head_dim,
            "num_attention_heads": heads[0],
            "num_attention_heads_per_layer": heads,
            "num_key_value_heads": self._same("attention.head_count_kv"),
            "sliding_window": self.integer("attention.sliding_window", default=0),
            "layer_types": self._layer_types(count),
            "mlp_layer_types": self._mlp_types(count),
            "gating": "per-head",
            "norm_topk_prob": self.fields.flag(self.name("expert_weights_norm"), True),
            "moe_routed_scaling_factor": self.number("expert_weights_scale", default=1.0),
            "moe_router_logit_softcapping": self.number("router_logit_softcapping", default=0.0),
            "rope_parameters": self._rope(head_dim, attention_factor),
        }
        if "sparse" in values["mlp_layer_types"]:
            values |= self._experts()
        return values

    def _experts(self) -> dict[str, Any]:
        shared = self.integer("expert_shared_count", default=1)
        if shared > 1:
            refuse(self.source, self.name("expert_shared_count"), shared, "0 or 1")
        return {
            "num_experts": self.integer("expert_count"),
            "num_experts_per_tok": self.integer("expert_used_count"),
            "moe_intermediate_size": self.integer("expert_feed_forward_length"),
            "shared_expert_intermediate_size": self.integer("expert_shared_feed_forward_length", default=0) * shared,
        }

    def _layer_types(self, count: int) -> list[str]:
        if not self.integer("attention.sliding_window", default=0):
            return [FULL] * count
        if self.has("attention.layer_types"):
            return [SLIDING if kind else FULL for kind in self._per_layer(self.name("attention.layer_types"), count)]
        name = self.name("attention.sliding_window_pattern")
        pattern = self.keys.get(name, 4)
        if isinstance(pattern, list):
            if len(pattern) != count or any(type(entry) not in (bool, int) for entry in pattern):
                refuse(self.source, name, pattern, f"{count} flags")
            return [SLIDING if entry else FULL for entry in pattern]
        period = self.integer("attention.sliding_window_pattern", default=4)
        # A period of n is n - 1 sliding layers after each full one; 0 and 1 leave no layer to slide.
        return [FULL if period < 2 or layer % period == 0 else SLIDING for layer in range(count)]

    def _mlp_types(self, count: int) -> list[str]:
        listed = self.keys.get(self.name("dense_layers"))
        if isinstance(listed, list):
            dense = set(self.fields.integers(self.name("dense_layers")) or [])
        else:
            dense = set(range(self.integer("leading_dense_block_count", default=0)))
        return ["dense" if layer in dense else "sparse" for layer in range(count)]

    def _rope(self, head_dim: int, attention_factor: float | None) -> dict[str, Any]:
        full: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": self.number("rope.freq_base", default=500000.0),
            "partial_rotary_factor": self._partial(head_dim, "rope.dimension_count", default=head_dim // 2),
        }
        sliding: dict[str, Any] = {
            "rope_type": "default",
            "rope_theta": self.number("rope.freq_base_swa", "rope.swa.freq_base", default=10000.0),
            "partial_rotary_factor": self._partial(
                head_dim, "rope.dimension_count_swa", "rope.swa.dimension_count", default=head_dim
            ),
        }
        kind = self.keys.get(self.name("rope.scaling.type"), "none")
        if kind == "yarn":
            full |= self._yarn(attention_factor)
        elif kind != "none":
            refuse(self.source, self.name("rope.scaling.type"), kind, "'yarn' or 'none'")
        return {FULL: full, SLIDING: sliding}

    def _partial(self, head_dim: int, *spellings: str, default: int) -> float:
        count = self.integer(*spellings, default=default)
        if not 0 < count <= head_dim < LARGEST:
            refuse(self.source, self.name(*spellings), count, f"1 to attention.key_length ({head_dim})")
        # config.json has a share, and its reader rounds down: a half keeps the count through the division.
        return (count + 0.5) / head_dim

    def _yarn(self, attention_factor: float | None) -> dict[str, Any]:
        factor = self.number("rope.scaling.factor")
        if attention_factor is None:
            own = 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
            attention_factor = own * self.number("rope.scaling.attn_factor", default=1.0)
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": self.integer("rope.scaling.original_context_length"),
            "beta_fast": self.number("rope.scaling.yarn_beta_fast", "rope.scaling.beta_fast", default=32.0),
            "beta_slow": self.number("rope.scaling.yarn_beta_slow", "rope.scaling.beta_slow", default=1.0),
            "attention_factor": attention_factor,
        }
