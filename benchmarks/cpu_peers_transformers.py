"""transformers as a contender of `cpu_peers.py`: its own Laguna with random weights in bf16.

Values do not change how fast it is, so none are shared with the other contenders. Knows transformers; must not know
who else is measured.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

from cpu_peers_worker import serve


class Transformers:
    """The first layers of a Laguna, its experts computed by torch's grouped product."""

    @staticmethod
    def imports() -> None:
        """What is loaded before the clock runs."""
        # It looks for a package `kernels`, and a benchmark beside this file has that name.
        sys.path.remove(str(Path(__file__).parent))
        from transformers import LagunaForCausalLM  # noqa: F401

    def __init__(self, threads: int, settings: dict[str, Any]) -> None:
        """`settings`: the model's config.json."""
        import torch
        import transformers
        from transformers import DynamicCache, LagunaConfig, LagunaForCausalLM

        torch.set_num_threads(threads)
        torch.manual_seed(1)
        self.torch, self.threads, self.version, self.new_cache = torch, threads, transformers.__version__, DynamicCache
        self.config = LagunaConfig(**{key: value for key, value in settings.items() if key != "model_type"})
        self.config._attn_implementation, self.config._experts_implementation = "sdpa", "grouped_mm"
        self.model = LagunaForCausalLM._from_config(self.config, dtype=torch.bfloat16).eval()
        self.vocabulary = self.config.vocab_size
        self.kept: dict[str, Any] = {}
        self.variants = [""]
        self.clear()

    def choose(self, variant: str) -> None:
        """There is but one."""

    def clear(self) -> None:
        self.cache = self.new_cache(config=self.config)

    def read(self, ids: list[int], wanted: int = 1) -> Any:
        with self.torch.inference_mode():
            given = self.torch.tensor([ids])
            return self.model(given, past_key_values=self.cache, use_cache=True, logits_to_keep=wanted).logits

    def logits(self, given: Any) -> bytes:
        found: bytes = given[0].float().numpy().tobytes()
        return found

    def keep(self, name: str) -> None:
        self.kept[name] = self.cache

    def recall(self, name: str) -> None:
        # A sliding window cannot be rewound, so what is read next is appended to a copy.
        self.cache = copy.deepcopy(self.kept[name])

    def about(self) -> dict[str, Any]:
        chosen = (self.model.config._attn_implementation, self.model.config._experts_implementation)
        return {"engine": f"transformers {self.version}", "threads": self.threads, "implementations": chosen}


if __name__ == "__main__":
    serve(Transformers)
