"""Faults planted into the products of a few tokens with whole matrices, and into how rows become numbers."""

from tests.cuda.mutants import Mutant

_NUMBERS = (
    Mutant("formats.cuh", "MIN ? 0.0f : 8.0f", "MIN ? 0.0f : 7.0f", "zero point of int4 is 7"),
    Mutant("formats.cuh", "n = i % 8 + j;", "n = i % 8 + (j ^ 1);", "nibbles the other way round"),
    Mutant("formats.cuh", "high = low >> 20;", "high = low >> 16;", "upper nibbles of a word from the wrong bit"),
    Mutant("formats.cuh", "word_of(word, i / 4) ^ 0x80808080u", "word_of(word, i / 4)", "int8 without its sign"),
    Mutant(
        "formats.cuh",
        "v[0] = bf16_value(low), v[1] = __uint_as_float(low & 0xffff0000u);",
        "v[1] = bf16_value(low), v[0] = __uint_as_float(low & 0xffff0000u);",
        "bf16 halves of a word swapped",
    ),
    Mutant("formats.cuh", "halves(word_of(word, i / 2 + 1))", "halves(word_of(word, i / 2))", "f16 word read twice"),
    Mutant("formats.cuh", "247u << 23", "246u << 23", "exponent of e4m3 off by one"),
    Mutant("formats.cuh", "((code & 8) << 28) | ", "", "nvfp4 without its sign"),
    Mutant(
        "formats.cuh",
        "return sum / static_cast<const float *>(extra)[row];",
        "return sum * static_cast<const float *>(extra)[row];",
        "nvfp4 multiplied with its divisor",
    ),
    Mutant(
        "formats.cuh",
        "constexpr int groups = ceil_div(K, F::GROUP);",
        "constexpr int groups = K / F::GROUP;",
        "a short last group has no scale",
    ),
    Mutant("formats.cuh", "min(group, groups - 1)", "group", "padding reads the scale behind the row's last"),
    Mutant(
        "formats.cuh",
        "return ceil_div(columns, F::COLUMNS) * 16;",
        "return columns / F::COLUMNS * 16;",
        "rows as if the last load were whole",
    ),
    Mutant("formats.cuh", "codes + column / F::COLUMNS * 16", "codes + column / F::COLUMNS * 8", "misaligned load"),
)

_SUMS = (
    Mutant(
        "platform.cuh",
        "for (int step = LANES / 2; step; step /= 2) x += ",
        "for (int step = LANES / 2; step > 1; step /= 2) x += ",
        "sum over lanes stops a step early",
    ),
    Mutant(
        "products.cuh",
        "DEVICE int place_of(int column) { return column + column / 32 * 4; }",
        "DEVICE int place_of(int column) { return column + column / 32 * 8; }",
        "gaps in shared memory wider than its room",
    ),
    Mutant("products.cuh", "column + 3 < K ? x[column + 3] : 0.0f", "x[column + 3]", "tail column of x unguarded"),
    Mutant(
        "products.cuh",
        "column < K ? load_four(x + column) : float4{0.0f, 0.0f, 0.0f, 0.0f}",
        "load_four(x + column)",
        "x read behind its end",
    ),
    Mutant("products.cuh", "at += 4 * blockDim.x", "at += blockDim.x", "squares counted four times"),
    Mutant(
        "products.cuh",
        "store_four(shared + t * staged_floats(TILE)",
        "store_four(shared + t * TILE",
        "tokens staged without room for their gaps",
    ),
    Mutant("products.cuh", "lane_sum<WARP>(squares[t])", "lane_sum<WARP / 2>(squares[t])", "half a warp's squares"),
    Mutant("products.cuh", "scratch[warp() * T + t] = sum;", "scratch[t] = sum;", "warps race for one place"),
    Mutant(
        "products.cuh",
        "    __syncthreads();\n    UNROLL\n    for (int t = 0; t < T; t++) {\n        float sum = 0.0f;",
        "    UNROLL\n    for (int t = 0; t < T; t++) {\n        float sum = 0.0f;",
        "the norm's sums read before they are there",
    ),
    Mutant("products.cuh", "row[r].scale(column + part)", "row[r].scale(column)", "scale of the load's first group"),
    Mutant("products.cuh", "place_of(column - begin + i)", "place_of(column + i)", "a tile as if it were the first"),
    Mutant("products.cuh", "x.x + x.y + x.z + x.w;", "x.x + x.y + x.z;", "minimum without the fourth column"),
    Mutant("products.cuh", "at <= last ? at : last", "at", "tail rows unguarded"),
    Mutant("products.cuh", "at < last ? at : last", "at", "tail rows unguarded, gated"),
    Mutant(
        "products.cuh",
        "column < K ? row[r].load(column) : uint4{0, 0, 0, 0}",
        "row[r].load(column)",
        "tail of a row unguarded",
    ),
    Mutant("products.cuh", "fetch(next, column + STEP);", "fetch(next, column);", "weights of the step before"),
    Mutant("products.cuh", "lane_sum<LANES>(sum[r][t])", "lane_sum<LANES / 2>(sum[r][t])", "half a row's lanes"),
)

_STAGED = "{stage}\n                    __syncthreads();\n"
_JOINED = "stage_rows<T, K, TILE, NORM>(shared, in.x, begin, in.norm_weight, squares);"
_GATED = "stage_rows<T, K, TILE, NORM>(shared, x, begin, norm_weight, squares);"
_WAIT = "if (begin) __syncthreads();"
_LOOP = f"in_row);\n            for (int begin = 0; begin < K; begin += TILE) {{\n                {_WAIT}\n"

_NEXT = "        else if constexpr (sizeof...(Rest) > 0) segment<Rest...>"

_KERNELS = (
    Mutant("linear.cuh", _STAGED.format(stage=_JOINED), _JOINED + "\n", "missing barrier after staging"),
    Mutant("linear.cuh", _STAGED.format(stage=_GATED), _GATED + "\n", "missing barrier after staging, gated"),
    Mutant(
        "linear.cuh",
        f"S::ROWS - 1, {_LOOP}",
        f"S::ROWS - 1, {_LOOP.replace(_WAIT, '')}",
        "the next tile overwrites what is still read",
    ),
    Mutant(
        "linear.cuh",
        f"pairs.begin(gate, up, first, APART, ROWS - 1, {_LOOP}",
        f"pairs.begin(gate, up, first, APART, ROWS - 1, {_LOOP.replace(_WAIT, '')}",
        "the next tile overwrites what is still read, gated",
    ),
    Mutant("linear.cuh", "(block * ROUNDS + round) * rows", "(block + round) * rows", "rounds do the same rows"),
    Mutant("linear.cuh", " || row >= S::ROWS) continue;", ") continue;", "rows written that are not there"),
    Mutant(
        "linear.cuh",
        "static_cast<size_t>(t) * S::ROWS + row;",
        "static_cast<size_t>(t) * K + row;",
        "outputs of tokens lie a row of x apart",
    ),
    Mutant("linear.cuh", "sum += bias[row];", "sum += bias[first];", "bias of a warp's first row"),
    Mutant("linear.cuh", "ADD ? *to + sum : sum", "sum", "what was there is forgotten"),
    Mutant(
        "linear.cuh",
        f"bias, out);\n{_NEXT}(block - ",
        f"bias, out);\n{_NEXT}(-1 + ",
        "blocks of the next matrix begin elsewhere",
    ),
    Mutant("linear.cuh", "at += gridDim.x * blockDim.x", "at += K", "only the first columns after the norm are kept"),
    Mutant("linear.cuh", "silu(g) * u", "silu(u) * g", "swapped gate and up"),
    Mutant("linear.cuh", "id >= ROWS", "id > ROWS", "a row behind the table's last"),
    Mutant("linear.cuh", "id = ids[blockIdx.y];", "id = ids[0];", "every token the first one's row"),
    Mutant("linear.cuh", "if (first + i + j < K) to", "to", "embedding's tail columns unguarded"),
)

MUTANTS = (*_NUMBERS, *_SUMS, *_KERNELS)
