"""Faults planted into `sampling.cuh`."""

from __future__ import annotations

from tests.cuda.mutants import Mutant

_S = "sampling.cuh"

MUTANTS = (
    Mutant(
        _S,
        "desk().bin[i] = 0;\n        __syncthreads();",
        "desk().bin[i] = 0;",
        "missing barrier after the bins are emptied",
    ),
    Mutant(
        _S,
        "by.mass(row, id));\n        }\n        __syncthreads();",
        "by.mass(row, id));\n        }",
        "missing barrier after the bins are filled",
    ),
    Mutant(_S, "desk().bin[i] = 0;", "if (left == BITS) desk().bin[i] = 0;", "stale bins"),
    Mutant(
        _S,
        "if (lane() == 0) desk().of_warp[warp()] = sum;\n    __syncthreads();",
        "if (lane() == 0) desk().of_warp[warp()] = sum;",
        "missing barrier between the warps' sums",
    ),
    Mutant(
        _S,
        "desk().within = low;\n        __syncthreads();",
        "desk().within = low;",
        "missing barrier before the bin that was found is read",
    ),
    Mutant(
        _S,
        "if (lane() == 0) desk().of_warp[warp()] = best;\n    __syncthreads();",
        "if (lane() == 0) desk().of_warp[warp()] = best;",
        "missing barrier between the warps' maxima",
    ),
    Mutant(_S, "if (w > warp()) behind", "if (w >= warp()) behind", "a warp's own sum counts twice"),
    Mutant(_S, "if (lane() + step < WARP) sum += other;", "sum += other;", "the last lanes add themselves"),
    Mutant(
        _S,
        "for (int step = 1; step < WARP; step *= 2)",
        "for (int step = 1; step < WARP / 2; step *= 2)",
        "the sum over a warp stops early",
    ),
    Mutant(
        _S,
        "for (int step = WARP / 2; step; step /= 2)",
        "for (int step = WARP / 4; step; step /= 2)",
        "the search for the largest stops early",
    ),
    Mutant(_S, "| (0x7fffffff - id)", "| id", "the last of equal largest is taken"),
    Mutant(
        _S,
        "static_cast<Mass>((1 << ID_BITS) - 1 - id);\n    }",
        "static_cast<Mass>(id);\n    }",
        "of equal logits the higher ids stay",
    ),
    Mutant(_S, "if (x != x) return 0xffffffffu;", "", "a NaN with a sign is the smallest number"),
    Mutant(_S, "__float_as_uint(x + 0.0f)", "__float_as_uint(x)", "minus zero is less than zero"),
    Mutant(_S, "? ~bits : bits | 0x80000000u", "? bits : bits | 0x80000000u", "negative numbers are in reverse order"),
    Mutant(_S, "return share < min_p ? 0", "return share <= 0.5f * min_p ? 0", "min-p drops too few"),
    Mutant(_S, "        row.min_p = 0.0f;\n", "", "min-p comes before top-p"),
    Mutant(_S, "key >= row.lowest && ", "", "what was dropped is drawn"),
    Mutant(_S, "key >= row.lowest && ", "key > row.lowest && ", "the last that stays is dropped"),
    Mutant(_S, "sorted >> left == prefix", "true", "later digits count tokens of other bins"),
    Mutant(
        _S,
        "if (before < limit && limit <= with_high)",
        "if (before <= limit && limit < with_high)",
        "a limit that is reached exactly is missed",
    ),
    Mutant(_S, "return whole + (static_cast<double>(whole) < part);", "return whole / 2;", "top-p is halved"),
    Mutant(_S, "top_k[t] > 0 && top_k[t] < V", "top_k[0] > 0 && top_k[0] < V", "the first row's top-k decides for all"),
    Mutant(
        _S, "ByCount{static_cast<Mass>(top_k[t])}", "ByCount{static_cast<Mass>(top_k[t] + 1)}", "top-k keeps one more"
    ),
    Mutant(_S, "logits += static_cast<size_t>(t) * V;", "", "every row has the first one's logits"),
    Mutant(_S, "static_cast<double>(uniform) *", "(1.0 - uniform) *", "draws begin with the last id"),
    Mutant(_S, "(1ull << (62 - ID_BITS))", "(1ull << (66 - ID_BITS))", "the sum of masses overflows"),
    Mutant(_S, "(logits[id] - largest) / temperature", "logits[id] / temperature", "large logits have infinite shares"),
    Mutant(
        _S,
        "atomicAdd(&desk().bin[sorted >> rest & ((1 << width) - 1)], by.mass(row, id))",
        "desk().bin[sorted >> rest & ((1 << width) - 1)] = by.mass(row, id)",
        "the last token of a bin counts alone",
    ),
)
