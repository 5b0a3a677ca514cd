"""A small random checkpoint with everything that an agent needs of one: weights, tokenizer, template.

`script` makes a model say what a test wants. It computes everything as always; only the logits are replaced, by ones
that leave no doubt. What it says next is told from the tokens in its cache, as with any model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch
from torch import Tensor

from laguna_agent.backend.laguna.local_model import LocalModel
from laguna_agent.backend.laguna.model import Piece
from tests.laguna.small_tokenizer import small_library
from tests.laguna.weight_files import CONFIG, random_tensors, write_folder

TEMPLATES = Path(__file__).parent / "templates"


def whole_checkpoint(folder: Path, template: str = "compact", context: int = 4096) -> Path:
    """Write one; `template` is compact, newline or hermes."""
    library = small_library()
    vocabulary = library.get_vocab_size(with_added_tokens=True)
    tensors = random_tensors()
    source = torch.Generator().manual_seed(3)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.randn(vocabulary, tensors[name].shape[1], generator=source) * 0.1
    eos, end = library.token_to_id("〈|EOS|〉"), library.token_to_id("</assistant>")
    config: dict[str, Any] = CONFIG | {
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "bos_token_id": eos,
        "eos_token_id": [eos, end],
        "pad_token_id": eos,
    }
    write_folder(folder, tensors, config)
    library.save(str(folder / "tokenizer.json"))
    copyfile(TEMPLATES / f"{template}.jinja", folder / "chat_template.jinja")
    return folder


def script(local: LocalModel, answers: Callable[[str], str], opening: str) -> list[int]:
    """Let the model write `answers(text before the answer)`, which ends with the text of its stop token.

    `opening` is the text that begins an answer. Returns a list to which every pass adds how many tokens it computed.
    """
    computed: list[int] = []
    model, tokenizer = local.model, local.tokenizer
    forward = model.forward

    def spoken(pieces: Sequence[Piece], *, last: int | Sequence[int] | None = None) -> Tensor:
        logits = forward(pieces, last=last)
        computed.append(sum(len(piece.ids) for piece in pieces))
        rows = [last] * len(pieces) if isinstance(last, int) else last
        assert rows is not None
        row = 0
        for piece, count in zip(pieces, rows, strict=True):
            assert piece.cache is not None
            read = piece.cache.tokens
            for end in range(len(read) - count + 1, len(read) + 1):
                before, found, said = tokenizer.decode(read[:end]).rpartition(opening)
                answer = tokenizer.encode(answers(before + found))
                logits[row] = -50.0
                logits[row, _next(answer, tokenizer.encode(said))] = 50.0
                row += 1
        return logits

    model.forward = spoken  # type: ignore[method-assign]
    return computed


def _next(answer: list[int], said: list[int]) -> int:
    """The token of `answer` that comes after `said`; a guess that went wrong is answered with anything."""
    return answer[len(said)] if answer[: len(said)] == said and len(said) < len(answer) else answer[-1]
