"""The arithmetic under the model's modules: weights in their storage formats, and what is computed with them.

Knows tensors and formats; must not know layers, configs, checkpoints or token ids.
"""
