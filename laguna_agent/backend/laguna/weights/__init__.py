"""A model's weights: found in safetensors or GGUF files, checked, packed once, and opened by mapping.

`open_weights` is the door. Knows files, tensor names, formats and memory; must not know how a model computes, nor
tokens, templates or sessions.
"""

from laguna_agent.backend.laguna.weights.opening import Weights, open_weights
from laguna_agent.backend.laguna.weights.progress import Progress

__all__ = ["Progress", "Weights", "open_weights"]
