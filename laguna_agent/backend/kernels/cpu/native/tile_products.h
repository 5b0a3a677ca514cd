// Tiles times activations of 8 bits: the loops in which nearly all time is spent.
//
// One accumulator holds sixteen rows of one token. Per 32 columns its products are summed exactly, in integers; then
// they are scaled and added in fp32, steps in ascending order. So a result does not depend on how many tokens or blocks
// are done together, on the number of threads, nor on which of the ways below was taken.
#pragma once

#include "activations.h"

namespace LAGUNA_VARIANT {

// How far ahead of the products weights are asked for, in bytes. The processor's own foresight ends at every page.
constexpr int64_t AHEAD = 4608;

// As many accumulators as registers hold.
#if defined(__AVX512F__)
constexpr int TILE_BLOCKS = 2, TILE_TOKENS = 6;
#elif defined(__AVX2__)
constexpr int TILE_BLOCKS = 1, TILE_TOKENS = 3;
#else
constexpr int TILE_BLOCKS = 1, TILE_TOKENS = 4;
#endif

// What a kernel must know of a matrix while it is compiled: bits of a code, whether there are minimums.
template <bool INT4, bool MINIMUMS> struct Coded {
    static constexpr bool int4 = INT4, minimums = MINIMUMS;
    static constexpr int64_t bytes = (INT4 ? 8 : 16) * STEP;
};

INLINE int32_t word(const Step *s, int at) {
    int32_t four;
    memcpy(&four, s->codes + 4 * at, 4);
    return four;
}

// What the integer sum of a step begins with.
template <class C> INLINE I beginning(const Step *s) {
    if (C::minimums && (C::int4 || !BYTES_ARE_OFFSET)) return splat_int(0);
    if (C::int4) return splat_int(s->offset);
    return BYTES_ARE_OFFSET ? splat_int(16 * s->offset) : splat_int(0);
}

INLINE F scaled(I sum, F weight_scale, const Step *s, F so_far) {
    return fma(to_float(sum), weight_scale * splat(s->scale), so_far);
}

// One block of rows straight from its tile, `TOKENS` tokens: out[t] = sixteen rows of token t.
template <class C, int TOKENS>
INLINE void packed_block(const LagunaMatrix *m, const uint8_t *w, const Step *const *x, F *out) {
    const int64_t groups = groups_of(m), steps = m->group / STEP, scales = scale_bytes(m);
    const int type = m->scale_type;
    F sums[TOKENS];
    for (int t = 0; t < TOKENS; t++) sums[t] = zeros();
    int64_t at = 0;
    for (int64_t g = 0; g < groups; g++) {
        const uint8_t *behind = w + steps * C::bytes;
        prefetch(behind + AHEAD);
        const F scale = load_scales(type, behind);
        const F minimum = C::minimums ? load_scales(type, behind + scales) : zeros();
        for (int64_t s = 0; s < steps; s++, at++, w += C::bytes) {
            I even[TOKENS], odd[TOKENS];
            for (int t = 0; t < TOKENS; t++) even[t] = beginning<C>(x[t] + at), odd[t] = splat_int(0);
            for (int j = 0; j < C::bytes / 64; j++) {
                prefetch(w + 64 * j + AHEAD);
                const B codes = load_bytes(w + 64 * j);
                if (C::int4) {
                    const B low = low_nibbles(codes), high = high_nibbles(codes);
                    for (int t = 0; t < TOKENS; t++) {
                        even[t] = dot_nibbles(even[t], low, word(x[t] + at, j));
                        odd[t] = dot_nibbles(odd[t], high, word(x[t] + at, j + 4));
                    }
                } else {
                    for (int t = 0; t < TOKENS; t++) {
                        I *sum = j & 1 ? odd + t : even + t;
                        *sum = dot_bytes(*sum, codes, word(x[t] + at, j));
                    }
                }
            }
            for (int t = 0; t < TOKENS; t++) {
                sums[t] = scaled(even[t] + odd[t], scale, x[t] + at, sums[t]);
                if (C::minimums) sums[t] = fma(minimum, splat(x[t][at].total), sums[t]);
            }
        }
        w = behind + scales * (C::minimums ? 2 : 1);
    }
    for (int t = 0; t < TOKENS; t++) out[t] = sums[t];
}

// Some blocks of rows, unpacked once to be used by many tokens: a range of steps, for each of them eight loads of codes
// for each block, and for each block its scales (and minimums) as floats.
struct Unpacked {
    uint8_t *codes;        // [steps, 8, TILE_BLOCKS, 64]
    float *scales, *minimums;  // [steps, TILE_BLOCKS, 16]
};
// Steps that are unpacked at a time: so that codes stay in the innermost cache, beside the activations.
constexpr int64_t UNPACKED_STEPS = 32;
constexpr int64_t UNPACKED_BYTES = UNPACKED_STEPS * TILE_BLOCKS * (8 * 64 + 2 * 64);

INLINE Unpacked unpacked_in(void *scratch) {
    Unpacked u;
    u.codes = (uint8_t *)scratch;
    u.scales = (float *)(u.codes + UNPACKED_STEPS * TILE_BLOCKS * 512);
    u.minimums = u.scales + UNPACKED_STEPS * TILE_BLOCKS * 16;
    return u;
}

// Unpack steps `first` to `last` of `blocks` blocks, the first of which lies at `w`.
template <class C>
static void unpack(const LagunaMatrix *m, const uint8_t *w, int blocks, int64_t first, int64_t last, Unpacked u) {
    const int64_t per_group = m->group / STEP, bytes = group_bytes(m), block = block_bytes(m), scales = scale_bytes(m);
    for (int b = 0; b < blocks; b++)
        for (int64_t s = first; s < last; s++) {
            const uint8_t *group = w + b * block + s / per_group * bytes, *behind = group + per_group * C::bytes;
            const uint8_t *codes = group + s % per_group * C::bytes;
            uint8_t *to = u.codes + (s - first) * TILE_BLOCKS * 512 + b * 64;
            for (int j = 0; j < C::bytes / 64; j++) {
                prefetch(codes + 64 * j + AHEAD);
                const B stored = load_bytes(codes + 64 * j);
                store_bytes(to + j * TILE_BLOCKS * 64, C::int4 ? low_nibbles(stored) : stored);
                if (C::int4) store_bytes(to + (j + 4) * TILE_BLOCKS * 64, high_nibbles(stored));
            }
            const int64_t place = ((s - first) * TILE_BLOCKS + b) * 16;
            store(u.scales + place, load_scales(m->scale_type, behind));
            if (C::minimums) store(u.minimums + place, load_scales(m->scale_type, behind + scales));
        }
}

// Go on with out[t][b * 16 ..] (rows of `stride` floats) by `steps` unpacked steps, which are those of x from `first` on.
template <class C, int BLOCKS, int TOKENS>
static void unpacked_tile(Unpacked u, int64_t steps, int64_t first, const Step *const *x, float *out, int64_t stride) {
    F sums[TOKENS][BLOCKS];
    const Step *rows[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        rows[t] = x[t] + first;
        for (int b = 0; b < BLOCKS; b++) sums[t][b] = first ? load(out + t * stride + 16 * b) : zeros();
    }
    const uint8_t *w = u.codes;
    const float *scales = u.scales, *minimums = u.minimums;
    for (int64_t s = 0; s < steps; s++, w += TILE_BLOCKS * 512, scales += TILE_BLOCKS * 16, minimums += TILE_BLOCKS * 16) {
        I part[TOKENS][BLOCKS];
        for (int t = 0; t < TOKENS; t++)
            for (int b = 0; b < BLOCKS; b++) part[t][b] = beginning<C>(rows[t] + s);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            B codes[BLOCKS];
            for (int b = 0; b < BLOCKS; b++) codes[b] = load_bytes(w + (j * TILE_BLOCKS + b) * 64);
#pragma GCC unroll 8
            for (int t = 0; t < TOKENS; t++) {
                const int32_t four = word(rows[t] + s, j);
                for (int b = 0; b < BLOCKS; b++)
                    part[t][b] = C::int4 ? dot_nibbles(part[t][b], codes[b], four) : dot_bytes(part[t][b], codes[b], four);
            }
        }
        for (int b = 0; b < BLOCKS; b++) {
            const F scale = load(scales + 16 * b), minimum = C::minimums ? load(minimums + 16 * b) : zeros();
            for (int t = 0; t < TOKENS; t++) {
                sums[t][b] = scaled(part[t][b], scale, rows[t] + s, sums[t][b]);
                if (C::minimums) sums[t][b] = fma(minimum, splat(rows[t][s].total), sums[t][b]);
            }
        }
    }
    for (int t = 0; t < TOKENS; t++)
        for (int b = 0; b < BLOCKS; b++) store(out + t * stride + 16 * b, sums[t][b]);
}

}  // namespace LAGUNA_VARIANT
