"""In which numbers keys and values are kept: 32, 16 or 8 bits each (section 4).

The 8-bit formats keep one fp32 scale for every token and KV head, symmetric: a number is code * scale. What attention
makes of codes is `kernels/attention.py`'s business. Knows tensors; must not know caches or models.

`f16` is what an engine that computes in fp32 keeps. Measured with `benchmarks/kv_cache.py` (Qwen2.5-Coder-1.5B, 256
tokens of code, against f32; a token's attention over 8,000 tokens, one thread of a Xeon with AVX-512):

    format   bytes   mean KL   top-1 agreement   us a layer
    f32        512         0            1.0000         2522
    f16        256    2.1e-6            1.0000         2144
    bf16       256    7.2e-5            1.0000         2235
    int8       132    8.2e-3            0.9414         4274
    fp8        132    2.5e-1            0.8867         7066

So half the bytes cost nothing, and bf16 is 30 times less exact for no gain. The 8-bit formats are for contexts that
would not fit otherwise. Qwen2 is hard on them: in its first layers biases make a few dimensions of the keys hundreds of
times larger than the rest, and they take the steps of a scale (int8) or lose their own last bits (fp8).
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
        """Codes of [..., head_dim], and where the format has them scales fp32 [...].

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
