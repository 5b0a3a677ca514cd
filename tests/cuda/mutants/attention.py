"""Faults planted into `attention.cuh` and `kv.cuh`."""

from __future__ import annotations

from tests.cuda.mutants import Mutant

_A, _K = "attention.cuh", "kv.cuh"

_PLACE = (
    Mutant(
        _A,
        "shared[lane() + i * WARP] = x[i];\n    __syncwarp();",
        "shared[lane() + i * WARP] = x[i];",
        "rope reads what other lanes have not written yet",
    ),
    Mutant(_A, "+ warp() * D;", ";", "all warps turn their heads in one place"),
    Mutant(
        _A, "- shared[column + HALF] * sin[column]", "+ shared[column + HALF] * sin[column]", "rope turns backwards"
    ),
    Mutant(_A, "shared[column + HALF] * sin[column]", "shared[column ^ 1] * sin[column]", "rope pairs neighbours"),
    Mutant(_A, "else if (column < ROTARY)", "else if (column < D)", "rope turns the whole head"),
    Mutant(_A, "cos + t * (ROTARY / 2)", "cos", "every row turns by the first row's angle"),
    Mutant(_A, "lane_sum<WARP>(squares) / D", "lane_sum<WARP / 2>(squares) / D", "the norm's sum stops early"),
    Mutant(_A, "of_q ? q_norm : k_norm", "q_norm", "keys are normed with the weight of queries"),
    Mutant(_A, "if (!of_v) {", "if (true) {", "values are normed and turned"),
    Mutant(
        _A,
        "if (item >= HEADS + 2 * KV_HEADS || counts[t] == 0) return;",
        "if (counts[t] == 0) return;",
        "the last block's idle warps have heads too",
    ),
    Mutant(
        _A,
        "if (item >= HEADS + 2 * KV_HEADS || counts[t] == 0) return;",
        "if (item >= HEADS + 2 * KV_HEADS) return;",
        "a dead row is placed",
    ),
    Mutant(_A, "KeyRun::of(runs, t, counts[t] - 1)", "KeyRun::of(runs, t, 0)", "a token goes into its first run"),
    Mutant(
        _A,
        "head * run.slots + static_cast<size_t>(positions[t] - run.first)",
        "head * run.slots + static_cast<size_t>(positions[t])",
        "slots are counted from position 0",
    ),
    Mutant(
        _A,
        "unsigned char *row = codes + slot * D * KV::BYTES;",
        "unsigned char *row = codes + static_cast<int>(slot * D * KV::BYTES);",
        "slots overflow 31 bits in place",
    ),
    Mutant(_A, "step; step /= 2) largest", "step > 1; step /= 2) largest", "the search for a scale stops early"),
    Mutant(
        _A,
        "static_cast<int>(__float_as_uint(fabsf(x[i])))",
        "static_cast<int>(__float_as_uint(x[i]))",
        "a scale of the largest number, not the largest size",
    ),
    Mutant(_A, "divisor = scale < 1e-30f ? 1e-30f : scale;", "divisor = scale;", "a head of zeros is divided by zero"),
    Mutant(_A, "of_v ? run.v_scale : run.k_scale, slot", "run.k_scale, slot", "values leave their scale with the keys"),
)

_FORMATS = (
    Mutant(_K, "x = x > LARGEST ? LARGEST : x < -LARGEST ? -LARGEST : x;", "", "f16 overflows to infinity"),
    Mutant(_K, "(bits + 0x7fff + (bits >> 16 & 1)) >> 16", "bits >> 16", "bf16 is cut off, not rounded"),
    Mutant(_K, "static_cast<int>(rintf(x))", "static_cast<int>(x)", "int8 codes are cut off, not rounded"),
    Mutant(_K, "LARGEST = 127.0f", "LARGEST = 128.0f", "the largest int8 code wraps around"),
    Mutant(_K, "(bits + 0x7ffff + (bits >> 20 & 1)) >> 20", "bits >> 20", "fp8 codes are cut off, not rounded"),
    Mutant(_K, "if (size < 0.015625f) code", "if (size < 0.0f) code", "small fp8 codes are made like large ones"),
    Mutant(_K, "sign | code", "code", "fp8 codes lose their sign"),
    Mutant(
        _K,
        "(t * MOST_RUNS + index) * RUN_FIELDS",
        "(t * (MOST_RUNS - 1) + index) * RUN_FIELDS",
        "a row's runs begin one run early",
    ),
)

_ATTEND = (
    Mutant(
        _A,
        "q[(head + g) * D + column] * scale : 0.0f;\n    }\n    __syncthreads();",
        "q[(head + g) * D + column] * scale : 0.0f;\n    }",
        "missing barrier after the queries are staged",
    ),
    Mutant(
        _A,
        "seen.join(step);\n    __syncthreads();",
        "seen.join(step);",
        "warps leave what they have seen where others still read queries",
    ),
    Mutant(
        _A,
        "shared + warp() * (HELD * LEFT));\n    __syncthreads();",
        "shared + warp() * (HELD * LEFT));",
        "missing barrier before the warps' parts are joined",
    ),
    Mutant(
        _A,
        "for (int step = LANES; step < WARP; step *= 2) seen.join(step);",
        "for (int step = LANES; step < WARP / 2; step *= 2) seen.join(step);",
        "the last groups of a warp are not joined",
    ),
    Mutant(
        _A,
        "position >= WINDOW ? position - WINDOW + 1 : 0",
        "position >= WINDOW ? position - WINDOW : 0",
        "the window is one key too long",
    ),
    Mutant(
        _A, "min(begin + each, position + 1LL)", "min(begin + each, position + 2LL)", "a token sees the next one's key"
    ),
    Mutant(
        _A,
        "low + static_cast<long long>(split) * each, end",
        "low + static_cast<long long>(split) * (each - 1), end",
        "pieces overlap by a key",
    ),
    Mutant(
        _A,
        "ceil_div(ceil_div(position + 1 - low, SPLITS), PIECE) * PIECE",
        "(position + 1 - low) / SPLITS / PIECE * PIECE",
        "the pieces do not reach the last keys",
    ),
    Mutant(
        _A,
        "const size_t slot = kv_head * run.slots + ",
        "const size_t slot = ",
        "every head reads the first KV head's keys",
    ),
    Mutant(
        _A,
        "run.k + slot * (D * KV::BYTES), *v",
        "run.k + static_cast<int>(slot * (D * KV::BYTES)), *v",
        "slots overflow 31 bits in attend",
    ),
    Mutant(
        _A,
        "const size_t head = static_cast<size_t>(t) * HEADS + kv_head * GROUP;",
        "const size_t head = static_cast<size_t>(t) * HEADS + kv_head;",
        "queries read another KV head",
    ),
    Mutant(
        _A,
        "const int group = warp() % WARPS * (WARP / LANES) + lane() / LANES;",
        "const int group = warp() % WARPS * (WARP / LANES);",
        "all groups of a warp see the same keys",
    ),
    Mutant(
        _A,
        "lane_sum<LANES>(score[g][n])",
        "lane_sum<(LANES > 1 ? LANES / 2 : 1)>(score[g][n])",
        "the sum of products stops early",
    ),
    Mutant(
        _A,
        "score[g][n] = at + n * GROUPS < count ? score[g][n] * keys.scale[n] : minus_infinity();",
        "score[g][n] = score[g][n] * keys.scale[n];",
        "keys behind the last one weigh like zeros",
    ),
    Mutant(
        _A,
        "if (row < count && L::load(j) < L::LOADS) word",
        "if (L::load(j) < L::LOADS) word",
        "keys behind the last one are read",
    ),
    Mutant(
        _A, "if (row < count && L::load(j) < L::LOADS) word", "if (row < count) word", "idle lanes read the next key"
    ),
    Mutant(
        _A,
        "seen.largest[g] = whole, seen.sum[g] *= factor;",
        "seen.largest[g] = whole;",
        "the sum is not rescaled when a larger score comes",
    ),
    Mutant(
        _A,
        "seen.sum[g] += score[g][n], score[g][n] *= values.scale[n];",
        "score[g][n] *= values.scale[n], seen.sum[g] += score[g][n];",
        "the values' scales count in the sum of weights",
    ),
    Mutant(_A, "? score[g][n] * keys.scale[n] :", "? score[g][n] :", "the keys' scales are forgotten"),
    Mutant(_A, "whole == minus_infinity() ? 0.0f : whole", "whole", "of nothing seen comes no number"),
    Mutant(_A, "g / HELD * WARPS * HELD + g % HELD", "g % HELD", "the second set's heads are the first's"),
    Mutant(
        _A,
        "queries = shared + warp() / WARPS * (HELD * L::STAGED)",
        "queries = shared",
        "the second set of warps has the first one's queries",
    ),
    Mutant(_A, "L::load(j) * 16;", "L::load(j) * 16 + 8;", "misaligned loads of keys"),
)

_MERGE = (
    Mutant(
        _A,
        "if (lane() == 0) part[SPLITS] = sum;\n    }\n    __syncthreads();",
        "if (lane() == 0) part[SPLITS] = sum;\n    }",
        "missing barrier before the pieces are joined",
    ),
    Mutant(_A, "whole = lane_max<WARP>(whole);", "", "each lane rescales by its own pieces"),
    Mutant(_A, "part[SPLITS] == 0.0f ? 0.0f : value / part[SPLITS]", "value / part[SPLITS]", "a dead row is 0 / 0"),
    Mutant(_A, "GATE == 1 ? 0 : column", "GATE == 1 ? 0 : column ^ 1", "a neighbour's gate"),
    Mutant(_A, "softplus(gate[head * GATE", "softplus(gate[blockIdx.x * GATE", "every row takes the first row's gates"),
    Mutant(_A, "if (column >= D) return;", "", "threads behind the last column write"),
)

MUTANTS = (*_PLACE, *_FORMATS, *_ATTEND, *_MERGE)
