"""Weights made of random bytes, for cases: every code of a format occurs, and no value is none.

Knows formats; must not know kernels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laguna_agent.backend.kernels.formats import Format, Fp8, GroupInt, Nvfp4, PackedTensor, Part, Plain


def every_format() -> tuple[Format, ...]:
    """One of each that differs to a kernel: bits, groups within a load, of one and of several, scales, minimums."""
    f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16
    return (
        *(Plain(dtype) for dtype in (f32, f16, bf16)),
        *(GroupInt(4, group, bf16) for group in (16, 32, 128)),
        *(GroupInt(4, 32, scale, minimums=True) for scale in (f32, f16, bf16)),
        *(GroupInt(8, group, bf16) for group in (16, 32, 128)),
        *(GroupInt(8, 64, scale, minimums=True) for scale in (f32, f16)),
        Fp8(128),
        Fp8(1 << 20, f16),
        Fp8(1 << 20),
        Nvfp4(),
    )


def published_formats() -> tuple[Format, ...]:
    """Those that the published checkpoints have, or are requantised to."""
    bf16 = torch.bfloat16
    return (Plain(bf16), GroupInt(4, 128, bf16), GroupInt(8, 128, bf16), Fp8(128), Fp8(1 << 20), Nvfp4())


def random_weight(format: Format, shape: tuple[int, ...], chance: torch.Generator) -> PackedTensor:
    """A weight [rows, columns] or [experts, rows, columns] of random codes; the scales lie around 1.

    A group of fp8 that is wider than a row becomes the row, as checkpoints have it.
    """
    if isinstance(format, Fp8) and format.group > shape[-1]:
        format = Fp8(shape[-1], format.scale_type)
    parts = {part.name: _random(part, (*shape[:-1], part.columns), chance) for part in format.parts(shape[-1])}
    return PackedTensor(format, shape, parts)


def _random(part: Part, shape: tuple[int, ...], chance: torch.Generator) -> Tensor:
    """The numbers of one part."""
    if part.name == "codes":
        return _codes(part.dtype, shape, chance)
    if part.name in ("values", "minimums"):
        return torch.randn(shape, generator=chance).to(part.dtype)
    return (torch.rand(shape, generator=chance) + 0.5).to(part.dtype)


def _codes(dtype: torch.dtype, shape: tuple[int, ...], chance: torch.Generator) -> Tensor:
    found = torch.randint(0, 256, (math.prod(shape),), dtype=torch.uint8, generator=chance).view(shape)
    if dtype == torch.float8_e4m3fn:
        # 0x7f and 0xff are no numbers.
        found = torch.where(found & 127 == 127, found - 1, found)
    return found.view(dtype)
