"""Our engine as a contender of `cpu_peers.py`: the model alone, without sampling.

Knows how a model is opened and computed; must not know who else is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpu_peers_worker import serve

if TYPE_CHECKING:
    from laguna_agent.backend.laguna.cache import KVCache
    from laguna_agent.backend.laguna.cache_format import KVFormatName
    from laguna_agent.backend.laguna.model import CausalLM


class Ours:
    """An open model: a packed file, or what the program itself makes of a GGUF file."""

    @staticmethod
    def imports() -> None:
        """What is loaded before the clock runs; the kernels are compiled at their first use on a machine."""
        from laguna_agent.backend.kernels.cpu.library import library
        from laguna_agent.backend.laguna import loading  # noqa: F401

        library()

    def __init__(
        self,
        path: str,
        threads: int,
        kind: str,
        quant: str = "auto",
        folder: str = "",
        arithmetic: str = "fast",
        kv: KVFormatName = "f16",
    ) -> None:
        """`kind`: "pack" for a packed file, "program" for the program's own opening of a GGUF file with `quant`
        (packed files go to `folder`), "stored" for a GGUF file's weights as they are. `arithmetic`: "fast", or "exact"
        for activations in fp32; `kv`: how keys are kept."""
        import torch

        torch.set_num_threads(threads)
        self.torch, self.threads, self.variants = torch, threads, [""]
        self.model = self._opened(Path(path), kind, quant, folder, arithmetic)
        self.kv: KVFormatName = kv
        self.vocabulary = self.model.config.vocab_size
        self.kept: dict[str, KVCache] = {}
        self.cache = self.model.new_cache(self.kv)

    def choose(self, variant: str) -> None:
        """There is but one."""

    def _opened(self, path: Path, kind: str, quant: Any, folder: str, arithmetic: Any) -> CausalLM:
        from laguna_agent.backend.laguna.loading import build_model
        from laguna_agent.backend.laguna.weights.opening import open_checkpoint, open_weights, read_stored
        from laguna_agent.backend.laguna.weights.pack_file import open_pack

        if kind == "pack":
            pack = open_pack(path)
            return build_model(pack.header.config, pack.tensors, arithmetic=arithmetic)
        if kind == "program":
            weights = open_weights(path, quant, folder=Path(folder))
            return build_model(weights.config, weights.tensors, arithmetic=arithmetic)
        checkpoint = open_checkpoint(path)
        return build_model(checkpoint.config, read_stored(checkpoint), arithmetic=arithmetic)

    def clear(self) -> None:
        self.cache = self.model.new_cache(self.kv)

    def read(self, ids: list[int], wanted: int = 1) -> Any:
        from laguna_agent.backend.laguna.model import Piece

        with self.torch.inference_mode():
            return self.model([Piece(self.torch.tensor(ids), self.cache)], last=wanted)

    def logits(self, given: Any) -> bytes:
        found: bytes = given.float().numpy().tobytes()
        return found

    def keep(self, name: str) -> None:
        self.kept[name] = self.cache

    def recall(self, name: str) -> None:
        # In place: a fork would begin a second run of keys, which no conversation that only grows has.
        self.cache, length = self.kept[name], int(name)
        if self.cache.rewind(length) != length:
            raise RuntimeError(f"the cache cannot go back to {length} tokens")

    def about(self) -> dict[str, Any]:
        from laguna_agent.backend.kernels.cpu.library import status

        return {"engine": "laguna-agent", "threads": self.threads, "kernels": status()}


if __name__ == "__main__":
    serve(Ours)
