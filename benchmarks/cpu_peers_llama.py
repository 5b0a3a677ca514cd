"""llama.cpp as a contender of `cpu_peers.py`, through the low-level calls of `llama-cpp-python`: no sampler, no Python
between tokens but one call.

Run by the interpreter that has the package; imports nothing of ours but the questions. Settings are llama.cpp's own
but for those that the benchmark holds equal (threads, 512 tokens at once, an f16 cache) and the window's cache, which
is kept to the window's size.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from cpu_peers_worker import CHUNK, JUDGED, serve

FLASH = {"auto": -1, "off": 0, "on": 1}
ERROR = 4
"""Of its log's levels; the others tell pages of properties."""


class Llama:
    """An open GGUF file, with one context for each way to compute attention."""

    @staticmethod
    def imports() -> None:
        """What is loaded before the clock runs."""
        import llama_cpp  # noqa: F401

    def __init__(self, path: str, threads: int, context: int, flash: list[str], beta_fast: float = -1.0) -> None:
        """`context`: tokens that must fit. `beta_fast`: yarn's, which llama.cpp does not read from Laguna files."""
        from llama_cpp import llama_cpp as api

        self.api, self.threads, self.variants = api, threads, flash
        self._log = api.llama_log_callback(_say)
        api.llama_log_set(self._log, None)
        api.llama_backend_init()
        options = api.llama_model_default_params()
        options.load_mode = api.LLAMA_LOAD_MODE_MMAP
        self.model = api.llama_model_load_from_file(path.encode(), options)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not open {Path(path).name}")
        self.contexts = {name: self._context(context, name, beta_fast) for name in flash}
        self.batch = api.llama_batch_init(CHUNK, 0, 1)
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.kept: dict[tuple[str, str], tuple[Any, int]] = {}
        self.choose(flash[0])
        self.length = 0

    def _context(self, tokens: int, flash: str, beta_fast: float) -> Any:
        chosen = self.api.llama_context_default_params()
        chosen.n_ctx, chosen.n_batch, chosen.n_ubatch = tokens, CHUNK, CHUNK
        # Reserved for the logits of a whole chunk otherwise: 200 MB in each context.
        chosen.n_outputs_max = chosen.n_outputs_max_per_seq = JUDGED
        chosen.n_threads = chosen.n_threads_batch = self.threads
        chosen.swa_full, chosen.flash_attn_type = False, FLASH[flash]
        chosen.yarn_beta_fast = beta_fast
        made = self.api.llama_init_from_model(self.model, chosen)
        if not made:
            raise RuntimeError(f"llama.cpp makes no context of {tokens} tokens with flash attention {flash}")
        return made

    def choose(self, variant: str) -> None:
        self.variant, self.context = variant, self.contexts[variant]
        self.memory = self.api.llama_get_memory(self.context)

    def clear(self) -> None:
        self.api.llama_memory_clear(self.memory, True)
        self.length = 0

    def read(self, ids: list[int], wanted: int = 1) -> Any:
        batch, count = self.batch, len(ids)
        batch.n_tokens = count
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = token, self.length + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = place >= count - wanted
        failed = self.api.llama_decode(self.context, batch)
        if failed:
            raise RuntimeError(f"llama_decode gives {failed}")
        self.length += count
        # Asking for logits waits until they are there.
        self.api.llama_get_logits_ith(self.context, -1)
        return wanted

    def logits(self, given: Any) -> bytes:
        width = 4 * self.vocabulary
        rows = (self.api.llama_get_logits_ith(self.context, place - given) for place in range(given))
        return b"".join(ctypes.string_at(row, width) for row in rows)

    def keep(self, name: str) -> None:
        size = self.api.llama_state_seq_get_size(self.context, 0)
        room = (ctypes.c_uint8 * size)()
        if self.api.llama_state_seq_get_data(self.context, room, size, 0) != size:
            raise RuntimeError("llama.cpp does not give its state")
        self.kept[self.variant, name] = (room, self.length)

    def recall(self, name: str) -> None:
        # Its window's cache overwrites what lies before the window, so tokens cannot simply be removed.
        room, self.length = self.kept[self.variant, name]
        self.api.llama_memory_clear(self.memory, False)
        if not self.api.llama_state_seq_set_data(self.context, room, len(room), 0):
            raise RuntimeError("llama.cpp does not take its state back")

    def about(self) -> dict[str, Any]:
        import llama_cpp

        system = self.api.llama_print_system_info().decode()
        return {"engine": f"llama-cpp-python {llama_cpp.__version__}", "threads": self.threads, "system": system}


def _say(level: int, text: bytes, _: object) -> None:
    if level == ERROR:
        print(text.decode(errors="replace"), end="", flush=True)


if __name__ == "__main__":
    serve(Llama)
