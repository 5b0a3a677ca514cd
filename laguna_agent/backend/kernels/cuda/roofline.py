"""The most tokens per second that a card's memory allows, by arithmetic: bytes per second over bytes per token.

Nothing here was measured, and no kernel reaches these numbers: they say what cannot be passed. Knows sizes, formats and
data sheets; must not know a model's files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from laguna_agent.backend.kernels.cuda.cards import CARDS, DataSheet
from laguna_agent.backend.kernels.cuda.geometry import XS_2, Geometry
from laguna_agent.backend.kernels.cuda.matrices import MatrixKind, encoding_of
from laguna_agent.backend.kernels.cuda.step import kinds_of, plan_of
from laguna_agent.backend.kernels.formats import Format, Fp8, GroupInt, Plain

RESERVED = 3 << 29
"""Bytes that a card does not give to weights and keys: the driver's context, the buffers of a step and of a prompt."""
KEY_BYTES = 2
"""Of one number of a key or a value: f16."""
_BF16 = Plain(torch.bfloat16)
_INT8 = GroupInt(8, 128)
_INT4 = GroupInt(4, 128)
_OFFICIAL_INT8_FROM = 31
"""The published INT4 file has the experts of the layers from here on in 8 bits."""


@dataclass(frozen=True)
class Weights:
    """How a model is stored: the formats of its backbone, of its experts, and of its head and table; routers and
    per-head gates are bf16. `mixed`: where it is XS.2, the experts of the last layers have 8 bits, as in the file
    published for it; `published`: no other model is known to be stored so."""

    name: str
    backbone: Format
    experts: Format
    ends: Format = _BF16
    mixed: bool = False
    published: bool = False

    def kinds(self, geometry: Geometry) -> dict[str, MatrixKind]:
        """Every matrix of the model, by its name in the step's plan. Raises ValueError where no kernel reads one."""
        kinds = kinds_of(geometry, self.backbone, self.experts)
        for name in ("embed", "head"):
            kinds[name] = _in_format(kinds[name], self.ends)
        for index in range(len(geometry.layers)):
            if self.mixed and geometry.name == XS_2.name and index >= _OFFICIAL_INT8_FROM:
                for name in (f"{index}.experts_gate_up", f"{index}.experts_down"):
                    kinds[name] = _in_format(kinds[name], _INT8)
        return kinds


SCHEMES = (
    Weights("bf16", _BF16, _BF16),
    Weights("FP8, head bf16", Fp8(128, torch.bfloat16), Fp8(128, torch.bfloat16)),
    Weights("official INT4", _BF16, _INT4, mixed=True, published=True),
    Weights("experts INT4, rest int8", _INT8, _INT4, _INT8, mixed=True),
    Weights("our int4", GroupInt(4, 32), GroupInt(4, 32), _INT8),
)


@dataclass(frozen=True)
class Row:
    """A model in one kind of weights: bytes of all of them, of those that a token reads, of the keys and values that it
    reads and that a cache of so many tokens takes; and how many launches a step is, without and with graphs."""

    model: str
    weights: str
    nbytes: int
    token_bytes: int
    key_bytes: int
    launches: int
    launches_as_graphs: int

    def ceiling(self, card: DataSheet) -> float:
        """Tokens per second if nothing took time but reading."""
        return card.bandwidth / (self.token_bytes + self.key_bytes)

    def fits(self, card: DataSheet) -> bool:
        """Whether weights and keys lie in the card's memory, with what it reserves."""
        return self.nbytes + self.key_bytes + RESERVED <= card.memory


def roofline(geometries: tuple[Geometry, ...], context: int) -> list[Row]:
    """Rows for each model and kind of weights, with keys of `context` tokens before the next. The official INT4 file is
    known of XS.2 only."""
    return [
        row_of(geometry, weights, context)
        for geometry in geometries
        for weights in SCHEMES
        if not weights.published or geometry.name == XS_2.name
    ]


def row_of(geometry: Geometry, weights: Weights, context: int) -> Row:
    """One model in one kind of weights. Raises ValueError where no kernel reads it so."""
    kinds = weights.kinds(geometry)
    plan = plan_of(geometry, 1, kinds)
    return Row(
        geometry.name,
        weights.name,
        sum(kind.nbytes for name, kind in kinds.items() if not (geometry.tied and name == "embed")),
        token_bytes(geometry, kinds),
        key_bytes(geometry, context),
        len(plan.operations) + 1,
        # The graph up to the logits, and that of the sampling.
        2,
    )


def token_bytes(geometry: Geometry, kinds: Mapping[str, MatrixKind]) -> int:
    """Bytes of weights that one token reads: of the table a row, of a stack the experts that are picked, of the rest
    everything once."""
    total = 0
    for name, kind in kinds.items():
        if name == "embed":
            total += kind.nbytes // kind.rows
        elif kind.experts:
            total += kind.nbytes * geometry.per_token // kind.experts
        else:
            total += kind.nbytes
    return total


def key_bytes(geometry: Geometry, context: int) -> int:
    """Bytes of keys and values of `context` tokens: a sliding layer keeps and reads its window."""
    kept = sum(min(context, layer.window) if layer.window else context for layer in geometry.layers)
    return 2 * KEY_BYTES * geometry.kv_heads * geometry.head_dim * kept


def records(rows: list[Row]) -> list[dict[str, object]]:
    """The same as plain data, one record for a row and a card."""
    return [
        {
            "model": row.model,
            "weights": row.weights,
            "weight_bytes": row.nbytes,
            "weight_bytes_per_token": row.token_bytes,
            "key_bytes_per_token": row.key_bytes,
            "launches_per_token": row.launches,
            "launches_per_token_as_graphs": row.launches_as_graphs,
            "card": card.name,
            "bandwidth": card.bandwidth,
            "memory": card.memory,
            "fits": row.fits(card),
            "ceiling_tokens_per_second": round(row.ceiling(card), 1),
        }
        for row in rows
        for card in CARDS
    ]


def _in_format(kind: MatrixKind, format: Format) -> MatrixKind:
    encoding = encoding_of(format, kind.columns)
    if encoding is None:
        raise ValueError(f"no kernel reads {format.spelling} with {kind.columns} columns")
    return replace(kind, encoding=encoding)
