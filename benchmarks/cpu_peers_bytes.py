"""What one decoded token reads from memory: every weight that it multiplies with at its stored bits, and its keys.

Knows configs and tensors; must not know how anybody computes. Of experts those count that a token is sent to, of the
embedding its one row; a window's keys count as far as they are seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from laguna_agent.backend.kernels.formats import Plain, bytes_needed
from laguna_agent.backend.laguna.config import ModelConfig
from laguna_agent.backend.laguna.weights.canonical import expected_tensors
from laguna_agent.backend.laguna.weights.packing import pack_layout
from laguna_agent.backend.laguna.weights.policy import Quant
from laguna_agent.backend.laguna.weights.stored import Checkpoint

KEY_BYTES = 2
"""Of one number in the f16 caches of all contenders; transformers keeps bf16."""


@dataclass(frozen=True)
class Traffic:
    """Bytes: `weights` of a token wherever it stands; keys of it in a full layer and in a windowed one, each counted
    over all such layers, and how many tokens the window shows."""

    weights: int
    full: int
    sliding: int
    window: int

    def at(self, context: int) -> int:
        """Bytes that a token after `context` others reads."""
        return self.weights + self.full * context + self.sliding * min(context, self.window)


def traffic(config: ModelConfig, sizes: Mapping[str, int]) -> Traffic:
    """The traffic of a model whose tensors take `sizes` bytes, by canonical name."""
    weights = 0
    for name, shape, role in expected_tensors(config):
        size = sizes[name]
        if role == "embedding" and not config.tied:
            size //= shape[0]
        elif role == "experts":
            size = size * config.experts_per_token // config.experts
        weights += size
    each = 2 * config.kv_heads * config.head_dim * KEY_BYTES
    full = sum(layer.attention == "full_attention" for layer in config.layers)
    return Traffic(weights, each * full, each * (len(config.layers) - full), config.sliding_window)


def packed_sizes(checkpoint: Checkpoint, quant: Quant) -> dict[str, int]:
    """Bytes of a checkpoint's tensors in a packed file."""
    _, formats = pack_layout(checkpoint, quant)
    return {name: bytes_needed(formats[name], tensor.shape) for name, tensor in checkpoint.tensors.items()}


def stored_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    """Bytes of a checkpoint's tensors as its files have them."""
    return {name: bytes_needed(tensor.format, tensor.shape) for name, tensor in checkpoint.tensors.items()}


def plain_sizes(config: ModelConfig, format: Plain) -> dict[str, int]:
    """Bytes of the model's tensors, all in that format."""
    return {name: bytes_needed(format, shape) for name, shape, _ in expected_tensors(config)}
