// Tiles times activations of 8 bits: the loops in which nearly all time is spent.
//
// One accumulator holds sixteen rows of one token. Per 32 columns its products are summed exactly, in integers; then
// they are scaled and added in fp32, steps in ascending order. So a result does not depend on how many tokens or blocks
// are done together, on the number of threads, nor on which of the ways below was taken.
#pragma once

#include "step_sums.h"

namespace LAGUNA_VARIANT {

// How far ahead of the products weights are asked for, in bytes. The processor's own foresight ends at every page.
constexpr int64_t AHEAD = 4608;

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
            for (int t = 0; t < TOKENS; t++) even[t] = splat_int(beginning<C>(x[t] + at)), odd[t] = splat_int(0);
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
            arrange<C>(to);
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
        step_sums<C, BLOCKS, TOKENS>(w, rows, s, part);
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
