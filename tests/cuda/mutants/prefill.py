"""Faults planted into the Triton kernels. `tests/cuda/test_triton.py` runs them: their source is Python."""

from __future__ import annotations

from tests.cuda.mutants import Mutant

_SOURCE = "triton_kernels.py"
_PLANTED = (
    ("ups = gates + INNER", "ups = gates\n    gates = gates + INNER", "gate and up swapped"),
    ("ups = gates + INNER", "ups = gates", "the gate's rows taken for up's"),
    ("gate / (1.0 + tl.exp(-gate)) * up", "up / (1.0 + tl.exp(-up)) * gate", "SiLU of up and not of the gate"),
    ("expert * (2 * INNER) +", "expert * INNER +", "an expert's stride without its up rows"),
    ("rows = expert * ROWS +", "rows = (expert + 1) * ROWS +", "down of the next expert"),
    ("(words >> (4 * p)) & 0xF", "(words >> (28 - 4 * p)) & 0xF", "int4 planes in reverse order"),
    ("(words >> (4 * p)) & 0xF", "(words >> (4 * (p ^ 1))) & 0xF", "the two nibbles of a byte swapped"),
    ("else 8388616.0", "else 8388615.0", "7 as the zero point of int4"),
    ("if MINIMUMS else 8388616.0", "if not MINIMUMS else 8388616.0", "a zero point where there are minimums"),
    ("& 0xFF) ^ 0x80)", "& 0xFF))", "int8 codes without their sign"),
    ("(((words >> (16 * p)) & 0xFFFF) << 16)", "(((words >> (16 - 16 * p)) & 0xFFFF) << 16)", "bf16 pairs swapped"),
    ("((byte & 0x80) << 8) | ", "", "fp8 without its sign"),
    ("(nibble & 7) << 9", "(nibble & 7) << 10", "the exponent of e2m1 one bit off"),
    ("(256.0 * 16384.0)", "(256.0 * 8192.0)", "half of nvfp4's power of two"),
    ("* PER + p) // GROUP", "* PER) // GROUP", "the word's first column decides on the scale group"),
    ("first * PER // GROUP)[None", "first // GROUP)[None", "the scale group counted in words"),
    (
        "tl.minimum(((first + tl.arange(0, BW)) * PER + p) // GROUP, GROUPS - 1)",
        "((first + tl.arange(0, BW)) * PER + p) // GROUP",
        "scales read behind the last row's end",
    ),
    ("values += _groups(extra,", "values += _groups(scales,", "scales added instead of minimums"),
    ("sums /= tl.load(extra", "sums *= tl.load(extra", "rows of nvfp4 multiplied by their divisor"),
    ("up /= tl.load(extra + ups)", "up /= tl.load(extra + gates)", "up divided by the gate's divisor"),
    (
        "tl.load(at, mask=(word < WORDS)[:, None], other=0)",
        "tl.load(at)",
        "words read behind the end of the last row",
    ),
    (
        "tl.load(at, mask=(word < WORDS)[None, :], other=0.0)",
        "tl.load(at)",
        "the next plane read where a row of x ends",
    ),
    (
        "for first in range(0, WORDS, BW):\n        words",
        "for first in range(0, WORDS - BW + 1, BW):\n        words",
        "the last words of a row left out",
    ),
    (
        "tl.where((inner < INNER)[None, :], gate / (1.0 + tl.exp(-gate)) * up, 0.0)",
        "gate / (1.0 + tl.exp(-gate)) * up",
        "padding between the products not zero",
    ),
    (
        "inner = (column % OUT_WORDS) * OUT_PER + column // OUT_WORDS",
        "inner = column",
        "columns stored in order and not in planes",
    ),
    ("(pair // PER_TOKEN)", "(pair % PER_TOKEN)", "another token's row"),
    ("out + pair[:, None] * ROWS", "out + sorted_at[:, None] * ROWS", "results left in the experts' order"),
    (
        "inside = live[:, None] & (row < ROWS)[None, :]",
        "inside = (sorted_at >= 0)[:, None] & (row < ROWS)[None, :]",
        "rows behind a block's end stored",
    ),
    (
        "inside = live[:, None] & (row < ROWS)[None, :]",
        "inside = live[:, None] & (row >= 0)[None, :]",
        "columns behind a row's end stored by down",
    ),
    (
        "inside = (token < tokens)[:, None] & (row < height)[None, :]",
        "inside = (token >= 0)[:, None] & (row < height)[None, :]",
        "rows behind the last token stored",
    ),
    (
        "inside = (token < tokens)[:, None] & (row < height)[None, :]",
        "inside = (token < tokens)[:, None] & (row >= 0)[None, :]",
        "columns behind a row's end stored by linear",
    ),
    (
        "sorted_at = tl.load(firsts + block) + tl.arange(0, BM)\n    live = sorted_at < tl.load(ends + block)",
        "sorted_at = tl.load(firsts + block) + tl.arange(0, BM)\n    live = sorted_at <= tl.load(ends + block)",
        "one row of the next expert computed with this one's gates",
    ),
    (
        "if expert >= COUNT:\n        return\n    sorted_at = tl.load",
        "sorted_at = tl.load",
        "blocks that are not needed read behind the stack",
    ),
    (
        "tl.load(experts + block).to(tl.int64)\n    if expert >= COUNT:\n        return\n    sorted_at = tl",
        "tl.load(experts + block)\n    if expert >= COUNT:\n        return\n    sorted_at = tl",
        "32 bits for places in the gates' stack",
    ),
    (
        "tl.load(experts + block).to(tl.int64)\n    if expert >= COUNT:\n        return\n    sorted_at = (",
        "tl.load(experts + block)\n    if expert >= COUNT:\n        return\n    sorted_at = (",
        "32 bits for places in down's stack",
    ),
    (".to(tl.float32) * part", ".to(tl.float32) * part * tl.load(share + pair)", "the share applied twice"),
    ("tl.load(share + pair)", "tl.load(share + which)", "every token with the first one's shares"),
    ("if BIAS:", "if BIAS and CODES != 'nvfp4':", "no bias for one format"),
)
MUTANTS = tuple(Mutant(_SOURCE, old, new, fault) for old, new, fault in _PLANTED)
