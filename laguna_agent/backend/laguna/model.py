"""The whole model: token ids in, logits out, for one sequence or several at once (section 2).

A batch is ragged, never padded: the tokens of all sequences lie behind one another, so the weights are read once for
all of them and no arithmetic is spent on padding. Knows layers and caches; must not know files, sampling or text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from laguna_agent.backend.kernels import dispatch
from laguna_agent.backend.kernels.attention import KeyRun
from laguna_agent.backend.kernels.cuda.graphs import HostExperts
from laguna_agent.backend.kernels.cuda.launch import Device
from laguna_agent.backend.kernels.formats import Weight
from laguna_agent.backend.laguna.cache import KVCache, Step
from laguna_agent.backend.laguna.cache_format import KVFormatName, exact_format
from laguna_agent.backend.laguna.compiled import CompiledLayers, compiled_layers
from laguna_agent.backend.laguna.config import AttentionType, ModelConfig
from laguna_agent.backend.laguna.device_step import DeviceStep, device_step
from laguna_agent.backend.laguna.holders import Embedding, Linear
from laguna_agent.backend.laguna.layers import DecoderLayer, RMSNorm, Span
from laguna_agent.backend.laguna.rope import Rotation, inverse_frequencies, rotation
from laguna_agent.backend.laguna.sampling import Choice
from laguna_agent.errors import ContextTooLong, UsageError


class Piece(NamedTuple):
    """Token ids of one sequence, int64 [n] with n >= 0, that follow what its cache holds; without a cache they start
    at position 0."""

    ids: Tensor
    cache: KVCache | None = None


class Alone:
    """The span of a sequence without a cache: it sees its own keys."""

    def __init__(self, tokens: int) -> None:
        self.begin, self.end, self.first = 0, tokens, 0

    def keys(self, layer: int, k: Tensor, v: Tensor) -> list[KeyRun]:
        """Its own keys, whatever the layer."""
        return [KeyRun(k, v)]

    def commit(self) -> None:
        """Nothing to keep."""


class Decoder(nn.Module):
    """Embedding, layers and the last norm. Without `dtype`, parameters are made in torch's default."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype=dtype)
        self.layers = nn.ModuleList(DecoderLayer(config, index, dtype) for index in range(len(config.layers)))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, dtype)


class CausalLM(nn.Module):
    """A causal language model of either architecture; parameter names equal the checkpoints' (section 5).

    `dtype` is the parameters'; `compute_dtype` that of activations and caches (default: the same). The weights are
    uninitialised until a loader puts them in.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype = torch.float32, compute_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype or dtype
        self.model = Decoder(config, dtype)
        self.lm_head = None if config.tied else Linear(config.hidden_size, config.vocab_size, dtype=dtype)
        # Plain attributes, for a buffer would be cast along with the weights, and these stay fp32.
        self.compiled: CompiledLayers | None = None
        self.stepped: DeviceStep | None = None
        self._frequencies = {kind: inverse_frequencies(rope) for kind, rope in config.rope.items()}

    @property
    def device(self) -> torch.device:
        """Where the computation happens."""
        return self.model.norm.weight.device

    def use_library(self) -> bool:
        """Let the compiled library compute the layers and the head wherever no gradients are asked for: activations
        then meet packed weights in 8 bits. Whether it serves this model: on the CPU, in fp32, and the formats of its
        weights, which must not be replaced any more.
        """
        if self.compute_dtype == torch.float32 and self.device.type == "cpu":
            layers = [layer for layer in self.model.layers if isinstance(layer, DecoderLayer)]
            self.compiled = compiled_layers(self.config, layers, self._table.weight)
        return self.compiled is not None

    def use_device(
        self, device: Device, faulty: frozenset[str] = frozenset(), hosts: Mapping[int, HostExperts] | None = None
    ) -> bool:
        """Let kernels on `device`, where the weights and caches lie, compute passes of a few tokens wherever no
        gradients are asked for; longer ones go through the modules. Whether they read this model's weights, which must
        not be replaced any more. `faulty`, `hosts`: as for `device_step`."""
        self.stepped = device_step(self, device, faulty=faulty, hosts=hosts)
        return self.stepped is not None

    def cancel(self, on: bool) -> None:
        """From any thread: let the pass under way end with PassCancelled between two layers, its caches as they were,
        and those to come too until it is taken back. Where the modules compute, nothing is heard of it."""
        if self.compiled is not None:
            self.compiled.stack.cancel = on

    def new_cache(self, format: KVFormatName | None = None, **options: int) -> KVCache:
        """An empty cache for one sequence of this model; without `format` it keeps what is computed as it is.

        `options` as for `KVCache`.
        """
        kept = format or exact_format(self.compute_dtype)
        return KVCache(self.config, format=kept, device=self.device, **options)

    def forward(
        self,
        pieces: Sequence[Piece],
        *,
        last: int | Sequence[int] | None = None,
        reader: Callable[[Tensor, Weight], Tensor] | None = None,
    ) -> Tensor:
        """Logits in the compute dtype, or in fp32 where a device's step made them: [all tokens, vocab], sequence after
        sequence.

        `last`: only those of so many last tokens of every piece, or of each piece its own number (0 for none).
        `reader` is given the hidden states after the last norm and the head's weight, and what it makes of them is
        returned instead: a loss that never holds all logits, while the weights are whole where they are sharded.

        Tokens given with a cache are appended to it, and then no gradient is kept. Raises UsageError for ids that the
        model does not have and ContextTooLong for more tokens than it has positions; caches stay as they were.
        """
        with self._gradients(pieces):
            if reader is not None:
                return reader(self.hidden(pieces), self._table.weight)
            if self.stepped is not None and self._steps(self.stepped, pieces):
                rows = None if last is None else _last_rows(pieces, last).tolist()
                return self.stepped.logits(pieces, rows)
            h = self.hidden(pieces)
            return self.head(h if last is None else h[_last_rows(pieces, last).to(h.device)])

    def sampled(self, pieces: Sequence[Piece], choices: Sequence[Choice | None]) -> list[int | None] | None:
        """The tokens that follow the pieces, drawn on the device (`DeviceStep.sampled`), where it makes this step; None
        where it does not, and then nothing was done. Raises as `forward` does."""
        with self._gradients(pieces):
            if self.stepped is None or not self._steps(self.stepped, pieces):
                return None
            return self.stepped.sampled(pieces, choices)

    def _steps(self, stepped: DeviceStep, pieces: Sequence[Piece]) -> bool:
        """Whether the device makes this step."""
        if torch.is_grad_enabled():
            return False
        self._check_ids(torch.cat([piece.ids for piece in pieces]))
        self._check_lengths(pieces)
        return stepped.serves(pieces)

    def head(self, h: Tensor) -> Tensor:
        """Logits of final hidden states: [n, hidden] -> [n, vocab]."""
        if self.compiled is not None and self.compiled.head is not None and not torch.is_grad_enabled():
            return self.compiled.head(h)
        return dispatch.linear(h, self._table.weight)

    @property
    def _table(self) -> Embedding | Linear:
        """What the head multiplies with."""
        return self.model.embed_tokens if self.lm_head is None else self.lm_head

    def hidden(self, pieces: Sequence[Piece]) -> Tensor:
        """Hidden states after the last norm, [all tokens, hidden]; otherwise like `forward`."""
        with self._gradients(pieces):
            ids = torch.cat([piece.ids.to(self.device) for piece in pieces])
            self._check_ids(ids)
            self._check_lengths(pieces)
            h: Tensor = self.model.embed_tokens(ids, self.compute_dtype)
            if not len(ids):
                return h
            if self.compiled is None or torch.is_grad_enabled() or not self._through_library(h, pieces):
                h = self._through_modules(h, pieces)
            normed: Tensor = self.model.norm(h)
            return normed

    def _gradients(self, pieces: Sequence[Piece]) -> torch.set_grad_enabled:
        """Those that are asked for, but for tokens that are appended to a cache."""
        cached = any(piece.cache is not None for piece in pieces)
        return torch.set_grad_enabled(torch.is_grad_enabled() and not cached)

    def _through_library(self, h: Tensor, pieces: Sequence[Piece]) -> bool:
        """All layers over h in place, where the compiled ones serve these pieces: whether they did."""
        assert self.compiled is not None
        formats = {piece.cache.shape.format.name for piece in pieces if piece.cache is not None}
        alone = formats.pop() if len(formats) == 1 else exact_format(self.compute_dtype)
        caches = [self.new_cache(alone) if piece.cache is None else piece.cache for piece in pieces]
        if not self.compiled.serves(caches):
            return False
        self.compiled.run(h, [(cache, piece.ids.tolist()) for cache, piece in zip(caches, pieces, strict=True)])
        return True

    def _through_modules(self, h: Tensor, pieces: Sequence[Piece]) -> Tensor:
        spans = self._spans(pieces)
        turns = self._rotations(spans)
        seen: list[Span] = [span for span in spans if span.end > span.begin]
        for layer in self.model.layers:
            assert isinstance(layer, DecoderLayer)
            h = layer(h, turns[layer.attention_type], seen)
        for span in spans:
            span.commit()
        return h

    def _check_ids(self, ids: Tensor) -> None:
        if ids.dtype != torch.int64 or ids.dim() != 1:
            raise ValueError(f"token ids are {ids.dtype} of {ids.dim()} dimensions, expected int64 of one")
        if not len(ids):
            return
        least, most = torch.aminmax(ids)
        if least < 0 or most >= self.config.vocab_size:
            at = int(((ids < 0) | (ids >= self.config.vocab_size)).nonzero()[0])
            raise UsageError(
                f"token id {int(ids[at])} at place {at}: the model knows ids 0 to {self.config.vocab_size - 1}; does "
                "the tokenizer belong to it?"
            )

    def _check_lengths(self, pieces: Sequence[Piece]) -> None:
        """All are asked before the first cache is touched."""
        caches = [piece.cache for piece in pieces if piece.cache is not None]
        if len({id(cache) for cache in caches}) < len(caches):
            raise ValueError("one cache was given for two sequences; fork it")
        for piece in pieces:
            held = 0 if piece.cache is None else piece.cache.length
            if held + len(piece.ids) > self.config.context_length:
                raise ContextTooLong(
                    f"{held + len(piece.ids)} tokens were given, the model reads at most {self.config.context_length}"
                )

    def _spans(self, pieces: Sequence[Piece]) -> list[Alone | Step]:
        spans: list[Alone | Step] = []
        begin = 0
        for piece in pieces:
            span = Alone(len(piece.ids)) if piece.cache is None else piece.cache.begin(piece.ids.tolist())
            span.begin, span.end = begin, begin + len(piece.ids)
            begin = span.end
            spans.append(span)
        return spans

    def _rotations(self, spans: Sequence[Span]) -> dict[AttentionType, Rotation]:
        places = [torch.arange(span.first, span.first + span.end - span.begin, device=self.device) for span in spans]
        positions = torch.cat(places)
        return {
            kind: rotation(self._frequencies[kind], rope.attention_factor, positions, self.compute_dtype)
            for kind, rope in self.config.rope.items()
        }


def _last_rows(pieces: Sequence[Piece], last: int | Sequence[int]) -> Tensor:
    """Where the last rows of every piece lie in the packed batch: int64 [sum of last]."""
    wanted = [last] * len(pieces) if isinstance(last, int) else last
    rows: list[int] = []
    end = 0
    for piece, count in zip(pieces, wanted, strict=True):
        end += len(piece.ids)
        if not 0 <= count <= len(piece.ids):
            raise ValueError(f"logits of the last {count} tokens were asked of a piece of {len(piece.ids)}")
        rows += range(end - count, end)
    return torch.tensor(rows, dtype=torch.int64)


def unpadded(ids: Tensor, mask: Tensor, caches: Sequence[KVCache] | None = None) -> list[Piece]:
    """The sequences of a padded batch: ids int64 [batch, n], mask bool [batch, n], True where there is a token.

    Padding may be on either side; positions count tokens only.
    """
    rows = [row[kept] for row, kept in zip(ids, mask, strict=True)]
    return [Piece(row, caches[index] if caches else None) for index, row in enumerate(rows)]


def padded(packed: Tensor, mask: Tensor) -> Tensor:
    """What `forward` gave for `unpadded(ids, mask)`, [tokens, width], laid out as [batch, n, width]; padding is 0."""
    out = packed.new_zeros((*mask.shape, packed.shape[-1]))
    return out.masked_scatter(mask[..., None], packed)
