"""The sizes of a model as its kernels see them, and those of the published ones (specification section 1).

Knows numbers only. What a checkpoint's config says is made into this by who knows configs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GateKind = Literal["per-head", "per-element"]


@dataclass(frozen=True)
class LayerGeometry:
    """One decoder layer. `window` 0: full attention. `rotary` leading dimensions of a head turn. `dense`: the inner
    width of a dense layer, 0 where the layer has experts."""

    heads: int
    rotary: int
    window: int = 0
    gate: GateKind | None = None
    dense: int = 0


@dataclass(frozen=True)
class Geometry:
    """A whole model; counts of elements. `shared`: inner width of the shared expert, 0 without one."""

    name: str
    vocabulary: int
    hidden: int
    kv_heads: int
    head_dim: int
    layers: tuple[LayerGeometry, ...]
    experts: int = 0
    per_token: int = 0
    inner: int = 0
    shared: int = 0
    normalize: bool = True
    softcap: bool = False
    query_key_norm: bool = True
    qkv_bias: bool = False
    output_bias: bool = False
    tied: bool = False

    def gate_rows(self, layer: LayerGeometry) -> int:
        """Rows of a layer's gate; 0 without one."""
        if layer.gate is None:
            return 0
        return layer.heads * (1 if layer.gate == "per-head" else self.head_dim)


def _mixed(count: int, full: int, sliding: int, dense: int) -> tuple[LayerGeometry, ...]:
    """Every fourth layer full, from the first on, half of each head turning; the first layer dense."""
    kinds = (LayerGeometry(full, 64, 0, "per-head"), LayerGeometry(sliding, 128, 512, "per-head"))
    first = LayerGeometry(full, 64, 0, "per-head", dense)
    return (first, *(kinds[bool(index % 4)] for index in range(1, count)))


XS_2 = Geometry("XS.2", 100352, 2048, 8, 128, _mixed(40, 48, 64, 8192), 256, 8, 512, 512)
S_2_1 = Geometry("S 2.1", 100352, 3072, 8, 128, _mixed(48, 48, 72, 12288), 256, 10, 1024, 1024)
# The width of its three dense layers is not published; 12288 stands for it.
M_1 = Geometry(
    "M.1",
    100352,
    4096,
    8,
    128,
    (LayerGeometry(64, 128, 0, "per-element", 12288),) * 3 + (LayerGeometry(64, 128, 0, "per-element"),) * 67,
    256,
    16,
    1024,
    1024,
)
PUBLISHED = (XS_2, S_2_1, M_1)
