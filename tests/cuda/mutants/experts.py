"""Faults of the router and of the experts' kernels."""

from __future__ import annotations

from tests.cuda.mutants import Mutant

_ROUTER = (
    Mutant(
        "router.cuh",
        "for (int step = WARP / 2; step; step /= 2)",
        "for (int step = WARP / 2; step > 1; step /= 2)",
        "the shuffle for the best expert stops early",
    ),
    Mutant(
        "router.cuh",
        "for (int step = WARP / 2; step; step /= 2)",
        "for (int step = WARP / 4; step; step /= 2)",
        "the two halves of the warp never compare their best experts",
    ),
    Mutant(
        "router.cuh", "__shfl_xor_sync(ALL_LANES, x", "__shfl_xor_sync(0xffffu, x", "the mask names half of the lanes"
    ),
    Mutant("router.cuh", "if (order[i] > best)", "if (order[i] >= best)", "of a lane's equal experts the last wins"),
    Mutant("router.cuh", "| (0xffffffffu - expert));", "| (expert ^ 31));", "of equal experts another wins"),
    Mutant("router.cuh", "if (x != x) return 0xffffffffu;", "if (x != x) return 1;", "no number is the smallest"),
    Mutant(
        "router.cuh",
        "bits & 0x80000000u ? ~bits : bits | 0x80000000u",
        "bits | 0x80000000u",
        "negative sums in reverse order",
    ),
    Mutant("router.cuh", "softcap != 0.0f ?", "softcap > 1e9f ?", "the softcap is forgotten"),
    Mutant("router.cuh", "order[i] = expert < E ? ", "order[i] = true ? ", "lanes read experts behind the last"),
    Mutant("router.cuh", "static_cast<size_t>(blockIdx.x) * E;", "0;", "every token takes the first one's logits"),
    Mutant(
        "router.cuh",
        "if (i * WARP + lane() == winner) order[i] = 0;",
        "if (i && i * WARP + lane() == winner) order[i] = 0;",
        "who was picked among the first 32 is picked again",
    ),
    Mutant(
        "router.cuh",
        "? score_of(mine[chosen], softcap) : 0.0f",
        "? score_of(mine[chosen], softcap) : 0.5f",
        "lanes without an expert count in the sum of shares",
    ),
    Mutant(
        "router.cuh",
        "score_of(mine[chosen], softcap) :",
        "score_of(mine[chosen], softcap) + bias[chosen] :",
        "the bias gets into the shares",
    ),
)

_BOTH = (
    Mutant(
        "experts.cuh",
        "            __syncthreads();\n            for (int item",
        "            for (int item",
        "missing barrier after staging",
    ),
    Mutant(
        "experts.cuh",
        "if (!FIRST || begin) __syncthreads();",
        "if (!FIRST) __syncthreads();",
        "missing barrier before the next tile: stale readers",
    ),
    Mutant(
        "experts.cuh",
        "if (!FIRST || begin) __syncthreads();",
        "if (begin) __syncthreads();",
        "missing barrier between the experts and the shared one",
    ),
    Mutant(
        "experts.cuh",
        "static_cast<size_t>(of) * ROWS + row[r]",
        "static_cast<size_t>(of) * (ROWS + 1) + row[r]",
        "the expert's stride is off by a row",
    ),
    Mutant(
        "formats.cuh",
        "static_cast<const unsigned char *>(m.codes) + row * row_bytes<F>(K)",
        "static_cast<const unsigned char *>(m.codes) + static_cast<int>(static_cast<unsigned>(row) * row_bytes<F>(K))",
        "offsets into a stack are int",
    ),
    Mutant(
        "formats.cuh",
        "static_cast<const unsigned char *>(m.codes) + row * row_bytes<F>(K)",
        "static_cast<const unsigned char *>(m.codes) + static_cast<unsigned>(row) * row_bytes<F>(K)",
        "offsets into a stack are unsigned: beyond 4 GiB they wrap",
    ),
    Mutant("experts.cuh", "lane() % LANES) * F::COLUMNS", "lane()) * F::COLUMNS", "lanes of the second row go astray"),
    Mutant(
        "experts.cuh", "word[a][r] = next[a][r]", "word[a][r] = word[a][r]", "the next step's weights are not taken"
    ),
    Mutant("experts.cuh", "load(next, item + AHEAD, end)", "load(next, item + 1, end)", "weights of the wrong step"),
    Mutant(
        "experts.cuh",
        "const int of = matrix_of((item + a) / STEPS);\n            if (item + a >= end || column_of(item + a) >= K)",
        "const int of = matrix_of((item + a) / STEPS);\n            if (item + a >= end)",
        "idle lanes read behind the row",
    ),
    Mutant(
        "experts.cuh",
        "factor_of(vector);\n            if (item + a >= end || column_of(item + a) >= K)",
        "factor_of(vector);\n            if (item + a >= end)",
        "idle lanes multiply what lies behind the vector",
    ),
    Mutant(
        "experts.cuh",
        "factor_of(vector);\n            if (item + a >= end || column_of(item + a) >= K)",
        "factor_of(vector);\n            if (column_of(item + a) >= K)",
        "steps behind the last are added",
    ),
    Mutant(
        "experts.cuh", "(vector - begin) * staged_floats", "vector * staged_floats", "the second tile's place is wrong"
    ),
    Mutant(
        "experts.cuh",
        "static_cast<size_t>(v) * K, 0);",
        "static_cast<size_t>(v - begin) * K, 0);",
        "the second tile holds the first experts' activations",
    ),
    Mutant("experts.cuh", "__shfl_sync(ALL_LANES, factor, vector)", "factor", "each lane takes its own share"),
    Mutant(
        "experts.cuh",
        "__shfl_sync(ALL_LANES, matrix, vector)",
        "__shfl_sync(0x7fffffffu, matrix, vector)",
        "the mask leaves lanes out",
    ),
    Mutant("experts.cuh", "rows[r].finish(part[r][0])", "part[r][0]", "a row's divisor is forgotten"),
)

_GATE_UP = (
    Mutant("experts.cuh", "silu(gate) * up", "silu(up) * gate", "gate and up are swapped"),
    Mutant("experts.cuh", "bundle.row[2 * p] + I;", "bundle.row[2 * p] + I - 1;", "the up row is one off"),
    Mutant("experts.cuh", "min(first + p, I - 1)", "first + p", "rows behind the last are read"),
    Mutant("experts.cuh", "&& first + p < I)", ")", "rows behind the last are written"),
    Mutant(
        "experts.cuh",
        "lane_sum<LANES>(sum[2 * p + 1])",
        "lane_sum<LANES / 2>(sum[2 * p + 1])",
        "the sum of the up row stops early",
    ),
    Mutant(
        "experts.cuh",
        "if (lane() % LANES == 0 && first + p < I)",
        "if (lane() == 0 && first + p < I)",
        "only the first row of a warp is written",
    ),
    Mutant(
        "experts.cuh",
        "static_cast<size_t>(pair / COUNT) * K",
        "static_cast<size_t>(pair % COUNT) * K",
        "a pair takes another token's x",
    ),
)

_DOWN = (
    Mutant(
        "experts.cuh",
        "bundle.row[r] = min(first + r, H - 1)",
        "bundle.row[r] = first + r",
        "down: rows behind the last are read",
    ),
    Mutant("experts.cuh", "&& first + r < H)", ")", "down: rows behind the last are written"),
    Mutant(
        "experts.cuh", "lane_sum<LANES>(sum[r])", "lane_sum<WARP>(sum[r])", "the rows of a warp are summed together"
    ),
    Mutant("experts.cuh", "+= all;", "= all;", "the stream is overwritten"),
    Mutant("experts.cuh", "{shared, {}, 0, 1.0f}", "{shared, {}, 0, scale}", "the shared expert is scaled"),
    Mutant("experts.cuh", "picked[mine], scale * share[mine]", "picked[mine], share[mine]", "the scale is forgotten"),
    Mutant(
        "experts.cuh",
        "token * COUNT + min(lane(), COUNT - 1)",
        "token * COUNT + lane()",
        "lanes without an expert read behind the list",
    ),
    Mutant(
        "experts.cuh",
        "static_cast<size_t>(token) * COUNT * I)",
        "static_cast<size_t>(token) * I)",
        "the second token takes the first one's activations",
    ),
    Mutant(
        "experts.cuh",
        "shared_act + static_cast<size_t>(token) * IS",
        "shared_act",
        "every token takes the first one's shared activations",
    ),
)

MUTANTS: tuple[Mutant, ...] = (*_ROUTER, *_BOTH, *_GATE_UP, *_DOWN)
