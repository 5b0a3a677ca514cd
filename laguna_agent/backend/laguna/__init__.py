"""The in-process engine: Laguna, and the dense Qwen2 architecture, in our own torch code.

Knows tensors and token ids; must not know sessions, tools, faces or HTTP. `config`, `config_json` load without torch;
everything else loads it, so nothing outside this package may import it before a person has asked for a local model.
"""
