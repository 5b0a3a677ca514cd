"""In which numbers keys and values are kept: 32, 16 or 8 bits each (section 4).

The 8-bit formats keep one fp32 scale for every token and KV head, symmetric: a number is code * scale. What attention
makes of codes is `kernels/attention.py`'s business. Knows tensors; must not know caches or models.

`f16` is what an engine that computes in fp32 should keep: attention on a CPU is bound by reading keys, so half the
bytes is also less time, and rounding to 11 bits moves the logits less than any of the weight formats does.
`benchmarks/kv_cache.py` prints error and time of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KVFormatName = Literal["f32", "f16", "bf16", "int8", "fp8"]

DEFAULT: KVFormatName = "f16"

SMALLEST_SCALE = 1e-30
"""Keeps a token of zeros from dividing by zero."""


@dataclass(frozen=True)
class KVFormat:
    """`dtype` of the codes; `largest` code, in magnitude; `scaled`: whether every token and head has a scale."""

    name: KVFormatName
    dtype: torch.dtype
    largest: float
    scaled: bool = False

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """Codes [kv_heads, n, head_dim] of such a tensor, and where the format has them scales fp32 [kv_heads, n].

        Numbers beyond the format's range become its largest; a NaN stays one (in its code or its scale).
        """
        if not self.scaled:
            if self.dtype == torch.float16 and x.dtype != torch.float16:
                x = x.clamp(-self.largest, self.largest)
            return (x.to(self.dtype),)
        wide = x.float()
        scale = wide.abs().amax(-1) / self.largest
        codes = wide / scale.clamp_min(SMALLEST_SCALE)[..., None]
        if self.dtype == torch.int8:
            return codes.round_().to(torch.int8), scale
        return codes.clamp_(-self.largest, self.largest).to(self.dtype), scale

    def token_bytes(self, head_dim: int) -> int:
        """Bytes of one token's key or value in one KV head."""
        return head_dim * self.dtype.itemsize + (4 if self.scaled else 0)


FORMATS: dict[KVFormatName, KVFormat] = {
    "f32": KVFormat("f32", torch.float32, torch.finfo(torch.float32).max),
    "f16": KVFormat("f16", torch.float16, torch.finfo(torch.float16).max),
    "bf16": KVFormat("bf16", torch.bfloat16, torch.finfo(torch.bfloat16).max),
    "int8": KVFormat("int8", torch.int8, 127, scaled=True),
    "fp8": KVFormat("fp8", torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max, scaled=True),
}


def exact_format(dtype: torch.dtype) -> KVFormatName:
    """The format that keeps what is computed in `dtype` as it is. Raises KeyError for other than 16 and 32 bits."""
    return {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]  # type: ignore[return-value]
