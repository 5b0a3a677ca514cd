"""Products of many rows with packed weights, in Triton: dequantised on the way to the tensor cores.

The rows of a weight are read as 32-bit words, of which each holds PER columns. The numbers they meet are stored in
`planes` [rows, PER, words]: plane p has the columns PER * word + p, so one load of words serves PER products whose
operands both lie in memory as they are needed. Sums are fp32; nothing is added by two programs. Under Triton's
interpreter DOT is fp32, for it multiplies bf16 as integers. `CODES` is one of f32, f16, bf16, int4, int8, fp8, nvfp4;
`GROUP` columns share one of the `GROUPS` scales of a row. Imported only where Triton runs.
"""

import triton
import triton.language as tl


@triton.jit
def _e4m3(byte):
    """An e4m3 number over 2^8: its bits where fp16 has them, denormals too."""
    bits = ((byte & 0x80) << 8) | ((byte & 0x7F) << 7)
    return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _code(words, p: tl.constexpr, CODES: tl.constexpr, MINIMUMS: tl.constexpr):
    """Column p of each word as stored, in fp32, exact but for the power of two that `_scales` has."""
    if CODES == "f32":
        values = words.to(tl.float32, bitcast=True)
    elif CODES == "bf16":
        values = (((words >> (16 * p)) & 0xFFFF) << 16).to(tl.float32, bitcast=True)
    elif CODES == "f16":
        values = ((words >> (16 * p)) & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    elif CODES == "int4":
        # An integer in the last bits of 2^23 is that much more than 2^23; without a minimum, the zero is 8.
        bits = ((words >> (4 * p)) & 0xF) | 0x4B000000
        values = bits.to(tl.float32, bitcast=True) - (8388608.0 if MINIMUMS else 8388616.0)
    elif CODES == "int8":
        bits = (((words >> (8 * p)) & 0xFF) ^ 0x80) | 0x4B000000
        values = bits.to(tl.float32, bitcast=True) - 8388736.0
    elif CODES == "fp8":
        values = _e4m3(words >> (8 * p))
    else:
        # e2m1, its bits where fp16 has them: 2^14 too small.
        nibble = words >> (4 * p)
        bits = ((nibble & 8) << 12) | ((nibble & 7) << 9)
        values = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return values


@triton.jit
def _words(codes, rows, first, WORDS: tl.constexpr, BW: tl.constexpr):
    """[BW, BN]: BW words from `first` on of these rows; behind the row's end 0."""
    word = first + tl.arange(0, BW)
    at = codes + rows[None, :] * WORDS + word[:, None]
    if WORDS % BW == 0:
        found = tl.load(at)
    else:
        found = tl.load(at, mask=(word < WORDS)[:, None], other=0)
    return found


@triton.jit
def _groups(
    stored, rows, first, p: tl.constexpr, PER: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, BW: tl.constexpr
):
    """What is stored for the groups of these columns: [1, BN] where a turn lies in one group, else [BW, BN]."""
    if GROUP % (PER * BW) == 0:
        found = tl.load(stored + rows * GROUPS + first * PER // GROUP)[None, :]
    else:
        # Columns of padding have no group; theirs is the last.
        group = tl.minimum(((first + tl.arange(0, BW)) * PER + p) // GROUP, GROUPS - 1)
        found = tl.load(stored + rows[None, :] * GROUPS + group[:, None])
    return found


@triton.jit
def _scales(
    scales,
    rows,
    first,
    p: tl.constexpr,
    CODES: tl.constexpr,
    PER: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    BW: tl.constexpr,
):
    """The factors of these columns, with what `_code` left out."""
    stored = _groups(scales, rows, first, p, PER, GROUP, GROUPS, BW)
    if CODES == "nvfp4":
        factor = _e4m3(stored.to(tl.int32)) * (256.0 * 16384.0)
    elif CODES == "fp8":
        factor = stored.to(tl.float32) * 256.0
    else:
        factor = stored.to(tl.float32)
    return factor


@triton.jit
def _numbers(
    words,
    scales,
    extra,
    rows,
    first,
    p: tl.constexpr,
    CODES: tl.constexpr,
    MINIMUMS: tl.constexpr,
    PER: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    BW: tl.constexpr,
    DOT: tl.constexpr,
):
    """[BW, BN]: column p of each word as numbers; a row of nvfp4 is still to be divided."""
    values = _code(words, p, CODES, MINIMUMS)
    if GROUPS:
        # Loads of the same places by other planes are one load after the compiler.
        values *= _scales(scales, rows, first, p if GROUP < PER else 0, CODES, PER, GROUP, GROUPS, BW)
    if MINIMUMS:
        values += _groups(extra, rows, first, p if GROUP < PER else 0, PER, GROUP, GROUPS, BW).to(tl.float32)
    return values.to(DOT)


@triton.jit
def _plane(x, first, p: tl.constexpr, WORDS: tl.constexpr, BW: tl.constexpr, DOT: tl.constexpr):
    """[BM, BW]: plane p of the rows that begin at the addresses x; 0 behind its end."""
    word = first + tl.arange(0, BW)
    at = x[:, None] + (p * WORDS + word)[None, :]
    if WORDS % BW == 0:
        found = tl.load(at)
    else:
        found = tl.load(at, mask=(word < WORDS)[None, :], other=0.0)
    return found.to(DOT)


@triton.jit
def _product(
    x,
    codes,
    scales,
    extra,
    rows,
    CODES: tl.constexpr,
    MINIMUMS: tl.constexpr,
    PER: tl.constexpr,
    WORDS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BW: tl.constexpr,
    DOT: tl.constexpr,
):
    """fp32 [BM, BN]: the rows at the addresses x times these rows of the weight."""
    sums = tl.zeros((BM, BN), tl.float32)
    for first in range(0, WORDS, BW):
        words = _words(codes, rows, first, WORDS, BW)
        for p in tl.static_range(PER):
            numbers = _numbers(words, scales, extra, rows, first, p, CODES, MINIMUMS, PER, GROUP, GROUPS, BW, DOT)
            sums = tl.dot(_plane(x, first, p, WORDS, BW, DOT), numbers, sums)
    if CODES == "nvfp4":
        sums /= tl.load(extra + rows)[None, :]
    return sums


@triton.jit
def gate_up(
    planes,
    codes,
    scales,
    extra,
    order,
    experts,
    firsts,
    ends,
    out,
    PER_TOKEN: tl.constexpr,
    INNER: tl.constexpr,
    COUNT: tl.constexpr,
    OUT_PER: tl.constexpr,
    OUT_WORDS: tl.constexpr,
    CODES: tl.constexpr,
    MINIMUMS: tl.constexpr,
    PER: tl.constexpr,
    WORDS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BW: tl.constexpr,
    DOT: tl.constexpr,
):
    """out[i] = silu(gate x) * (up x) for the sorted pairs i, in planes for the next product, padding included.

    `order` int [pairs]: pairs (token * PER_TOKEN + which) sorted by expert. Block b has the sorted pairs from firsts[b]
    to ends[b], BM at most, of experts[b]; COUNT: no block. A weight has 2 * INNER rows for each expert, gates first.
    """
    block = tl.program_id(0)
    expert = tl.load(experts + block).to(tl.int64)
    if expert >= COUNT:
        return
    sorted_at = tl.load(firsts + block) + tl.arange(0, BM)
    live = sorted_at < tl.load(ends + block)
    # Dead rows compute what the first pair does, and are not stored.
    pair = tl.load(order + sorted_at, mask=live, other=0).to(tl.int64)
    x = planes + (pair // PER_TOKEN) * (PER * WORDS)
    # Neighbours in `out` belong to weight rows that lie OUT_PER apart: whole rows are read, so that costs nothing.
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = (column % OUT_WORDS) * OUT_PER + column // OUT_WORDS
    gates = expert * (2 * INNER) + tl.minimum(inner, INNER - 1)
    ups = gates + INNER
    gate = tl.zeros((BM, BN), tl.float32)
    up = tl.zeros((BM, BN), tl.float32)
    for first in range(0, WORDS, BW):
        gate_words = _words(codes, gates, first, WORDS, BW)
        up_words = _words(codes, ups, first, WORDS, BW)
        for p in tl.static_range(PER):
            row = _plane(x, first, p, WORDS, BW, DOT)
            numbers = _numbers(gate_words, scales, extra, gates, first, p, CODES, MINIMUMS, PER, GROUP, GROUPS, BW, DOT)
            gate = tl.dot(row, numbers, gate)
            numbers = _numbers(up_words, scales, extra, ups, first, p, CODES, MINIMUMS, PER, GROUP, GROUPS, BW, DOT)
            up = tl.dot(row, numbers, up)
    if CODES == "nvfp4":
        gate /= tl.load(extra + gates)[None, :]
        up /= tl.load(extra + ups)[None, :]
    value = tl.where((inner < INNER)[None, :], gate / (1.0 + tl.exp(-gate)) * up, 0.0)
    at = out + sorted_at.to(tl.int64)[:, None] * (OUT_PER * OUT_WORDS) + column[None, :]
    inside = live[:, None] & (column < OUT_PER * OUT_WORDS)[None, :]
    tl.store(at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def down(
    planes,
    codes,
    scales,
    extra,
    order,
    experts,
    firsts,
    ends,
    out,
    ROWS: tl.constexpr,
    COUNT: tl.constexpr,
    CODES: tl.constexpr,
    MINIMUMS: tl.constexpr,
    PER: tl.constexpr,
    WORDS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BW: tl.constexpr,
    DOT: tl.constexpr,
):
    """out[order[i]] = W[expert of i] planes[i] for the sorted pairs i: rows in, and out to their pair's place."""
    block = tl.program_id(0)
    expert = tl.load(experts + block).to(tl.int64)
    if expert >= COUNT:
        return
    sorted_at = (tl.load(firsts + block) + tl.arange(0, BM)).to(tl.int64)
    live = sorted_at < tl.load(ends + block)
    pair = tl.load(order + sorted_at, mask=live, other=0).to(tl.int64)
    x = planes + tl.where(live, sorted_at, 0) * (PER * WORDS)
    row = tl.program_id(1) * BN + tl.arange(0, BN)
    rows = expert * ROWS + tl.minimum(row, ROWS - 1)
    sums = _product(x, codes, scales, extra, rows, CODES, MINIMUMS, PER, WORDS, GROUP, GROUPS, BM, BN, BW, DOT)
    inside = live[:, None] & (row < ROWS)[None, :]
    tl.store(out + pair[:, None] * ROWS + row[None, :], sums.to(out.dtype.element_ty), mask=inside)


@triton.jit
def combine(parts, share, out, PER_TOKEN: tl.constexpr, COLUMNS: tl.constexpr, BN: tl.constexpr):
    """out[t] = sum over its pairs of share * part: parts [tokens * PER_TOKEN, COLUMNS], share [tokens, PER_TOKEN]."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = column < COLUMNS
    total = tl.zeros((BN,), tl.float32)
    for which in tl.static_range(PER_TOKEN):
        pair = token * PER_TOKEN + which
        part = tl.load(parts + pair * COLUMNS + column, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(share + pair).to(tl.float32) * part
    tl.store(out + token * COLUMNS + column, total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def linear(
    planes,
    codes,
    scales,
    extra,
    bias,
    out,
    tokens,
    height,
    BIAS: tl.constexpr,
    CODES: tl.constexpr,
    MINIMUMS: tl.constexpr,
    PER: tl.constexpr,
    WORDS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BW: tl.constexpr,
    DOT: tl.constexpr,
):
    """out [tokens, height] = planes W^T (+ bias). Neighbouring blocks share a weight's rows, which then lie in L2.

    A model has matrices of many heights: they are no constant, so that few programs are compiled.
    """
    token = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    x = planes + tl.minimum(token, tokens - 1) * (PER * WORDS)
    row = tl.program_id(1) * BN + tl.arange(0, BN)
    rows = tl.minimum(row, height - 1).to(tl.int64)
    sums = _product(x, codes, scales, extra, rows, CODES, MINIMUMS, PER, WORDS, GROUP, GROUPS, BM, BN, BW, DOT)
    if BIAS:
        sums += tl.load(bias + rows).to(tl.float32)[None, :]
    inside = (token < tokens)[:, None] & (row < height)[None, :]
    tl.store(out + token[:, None] * height + row[None, :], sums.to(out.dtype.element_ty), mask=inside)
