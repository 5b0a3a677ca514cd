"""The structs of `native/abi.h` for ctypes; what the fields mean is said there.

Knows no torch and no model: addresses are integers, whose memory the caller keeps alive.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p

TILED_INT4, TILED_INT8, PLAIN_F32, PLAIN_BF16, PLAIN_F16 = range(5)
SCALE_F32, SCALE_F16, SCALE_BF16 = range(3)
KV_F32, KV_F16, KV_BF16, KV_INT8 = range(4)
GATE_NONE, GATE_PER_HEAD, GATE_PER_ELEMENT = range(3)
DONE, NO_MEMORY, NO_SUCH_INDEX, CANCELLED = range(4)


class Matrix(ctypes.Structure):
    """LagunaMatrix."""

    _fields_ = [
        ("kind", c_int32),
        ("scale_type", c_int32),
        ("minimums", c_int32),
        ("group", c_int32),
        ("count", c_int64),
        ("rows", c_int64),
        ("columns", c_int64),
        ("data", c_void_p),
    ]


class Layer(ctypes.Structure):
    """LagunaLayer."""

    _fields_ = [
        *((name, c_int32) for name in ("heads", "kv_heads", "head_dim", "rotary", "window", "gate_kind")),
        ("eps", c_float),
        *((name, c_void_p) for name in ("input_norm", "post_norm", "q_norm", "k_norm")),
        *((name, c_void_p) for name in ("q_bias", "k_bias", "v_bias", "o_bias")),
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate")),
        *((name, c_int32) for name in ("experts", "per_token", "inner", "shared_inner", "normalize", "reserved")),
        ("routed_scale", c_float),
        ("softcap", c_float),
        ("router", Matrix),
        ("router_bias", c_void_p),
        *((name, Matrix) for name in ("gate_up", "down", "shared_gate", "shared_up", "shared_down")),
    ]


class Run(ctypes.Structure):
    """LagunaRun."""

    _fields_ = [
        *((name, c_void_p) for name in ("k", "v", "k_scale", "v_scale")),
        *((name, c_int64) for name in ("capacity", "start", "count")),
    ]


class Span(ctypes.Structure):
    """LagunaSpan."""

    _fields_ = [(name, c_int64) for name in ("begin", "end", "first")]


class Turn(ctypes.Structure):
    """LagunaTurn."""

    _fields_ = [("cos", c_void_p), ("sin", c_void_p)]


class Forward(ctypes.Structure):
    """LagunaForward."""

    _fields_ = [
        ("layers", POINTER(Layer)),
        *((name, c_int64) for name in ("layer_count", "hidden", "tokens", "span_count")),
        ("h", c_void_p),
        ("spans", POINTER(Span)),
        ("run_counts", POINTER(c_int32)),
        ("runs", POINTER(Run)),
        ("turns", POINTER(Turn)),
        ("cancel", c_void_p),
        ("kv_kind", c_int32),
        ("threads", c_int32),
    ]


class Product(ctypes.Structure):
    """LagunaProduct."""

    _fields_ = [
        ("matrix", Matrix),
        *((name, c_void_p) for name in ("x", "bias", "y", "experts")),
        ("n", c_int64),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class Rows(ctypes.Structure):
    """LagunaRows."""

    _fields_ = [
        ("matrix", Matrix),
        ("ids", c_void_p),
        ("out", c_void_p),
        ("first", c_int64),
        ("n", c_int64),
        ("threads", c_int32),
        ("reserved", c_int32),
    ]


class Attention(ctypes.Structure):
    """LagunaAttention."""

    _fields_ = [
        ("q", c_void_p),
        ("out", c_void_p),
        ("spans", POINTER(Span)),
        ("run_counts", POINTER(c_int32)),
        ("runs", POINTER(Run)),
        ("tokens", c_int64),
        ("span_count", c_int64),
        *((name, c_int32) for name in ("heads", "kv_heads", "head_dim", "window", "kv_kind", "threads")),
    ]


class Routing(ctypes.Structure):
    """LagunaRouting."""

    _fields_ = [
        *((name, c_void_p) for name in ("logits", "bias", "picked", "share")),
        ("tokens", c_int64),
        *((name, c_int32) for name in ("experts", "per_token", "normalize")),
        ("softcap", c_float),
    ]


def declare(opened: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes what the library's functions take; raises AttributeError where one is missing."""
    for name, struct in (
        ("forward", Forward),
        ("product", Product),
        ("exact_product", Product),
        ("rows", Rows),
        ("attention", Attention),
        ("routing", Routing),
    ):
        getattr(opened, f"laguna_{name}").argtypes = [POINTER(struct)]
    opened.laguna_function.argtypes = [ctypes.c_int, c_void_p, c_void_p, c_int64]
    for name in ("sources", "variant", "variant_name"):
        getattr(opened, f"laguna_{name}").restype = ctypes.c_char_p
    opened.laguna_choose_variant.argtypes = [ctypes.c_char_p]
    opened.laguna_pin.argtypes, opened.laguna_pin.restype = [POINTER(c_int32), ctypes.c_int], None
    return opened
