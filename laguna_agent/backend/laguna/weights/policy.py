"""Which format each tensor gets: what `--quant` means, in one place.

bf16   every matrix as bfloat16
int8   nothing goes below 8 bits that was not stored so: codes of 4 and 8 bits are carried over, the rest is rounded
       to 8 bits in groups of 128 (8.125 bits a weight)
int4   matrices and experts in 4 bits: carried over where stored so, else rounded in groups of 32 (4.5 bits a weight);
       the embedding and the output head, which every token passes through, keep 8 bits unless stored in 4
stored each tensor as the files have it

Norms, biases, the router and a per-head gate are small and steer everything: they always stay as stored, or plain.
Group integers are laid out for the processor that computes with them (`laid_out`), whatever the option.
"""

from __future__ import annotations

from typing import Literal

import torch

from laguna_agent.backend.kernels.formats import Format, GroupInt, PackedTensor, Plain, Tiled
from laguna_agent.backend.kernels.quantise import carried, carried_format, quantise
from laguna_agent.backend.kernels.reference import dequantise
from laguna_agent.backend.laguna.weights.canonical import Role
from laguna_agent.errors import WeightsError

Quant = Literal["bf16", "int8", "int4", "stored"]

STEERING: tuple[Role, ...] = ("vector", "router", "gate")
SENSITIVE: tuple[Role, ...] = ("embedding", "head")
EIGHT_BITS = GroupInt(8, 128)
FOUR_BITS = GroupInt(4, 32)


def target_format(stored: Format, role: Role, quant: Quant, shape: tuple[int, ...]) -> Format:
    """The format for a tensor of that role and shape that is stored as `stored`."""
    if role in STEERING:
        return stored if quant == "stored" or isinstance(stored, Plain) else Plain(torch.float32)
    if quant == "stored":
        return laid_out(stored, shape)
    if quant == "bf16":
        return Plain(torch.bfloat16)
    own = carried_format(stored)
    if own is not None and (own.bits == 4 or quant == "int8" or role in SENSITIVE):
        return laid_out(own, shape)
    return laid_out(EIGHT_BITS if quant == "int8" or role in SENSITIVE else FOUR_BITS, shape)


def laid_out(format: Format, shape: tuple[int, ...]) -> Format:
    """The same numbers in the order in which the CPU kernels read them, where there is one for that shape.

    The one place that decides on a layout: a pack for another device would differ here.
    """
    if isinstance(format, GroupInt) and (tiled := Tiled(format)).holds(shape):
        return tiled
    return format


def converted(chunk: PackedTensor, target: Format, where: str) -> PackedTensor:
    """`chunk` in the format `target`, no tiles. Raises WeightsError in the name of `where` at what is no number."""
    if chunk.format == target:
        result = chunk
    elif carried_format(chunk.format) == target:
        result = carried(chunk)
    elif isinstance(target, GroupInt):
        result = quantise(dequantise(chunk), target)
    elif isinstance(target, Plain):
        result = PackedTensor(target, chunk.shape, {"values": dequantise(chunk, target.dtype)})
    else:
        raise TypeError(f"nothing is converted to {target.spelling}")
    for part, tensor in result.parts.items():
        if tensor.is_floating_point() and not _finite(tensor):
            raise WeightsError(f"{where}: holds NaN or infinite values ({part}), expected finite weights")
    return result


def _finite(tensor: torch.Tensor) -> bool:
    # torch has no isfinite for 8-bit floats; E4M3 has no infinity, only a NaN of either sign.
    if tensor.dtype == torch.float8_e4m3fn:
        return not bool(((tensor.view(torch.uint8) & 127) == 127).any())
    return bool(torch.isfinite(tensor).all())
