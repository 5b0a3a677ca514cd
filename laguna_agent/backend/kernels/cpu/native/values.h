// What stored weights are worth, in fp32: sixteen rows of a tile in one column, or one row in sixteen columns.
//
// Rows come out bit for bit as the reference computes them: the product with the scale is rounded, then the sum with
// the minimum. Nothing here knows of products.
#pragma once

#include "tiles.h"

namespace LAGUNA_VARIANT {

// Sixteen codes less their middle (8 or 128): those in bits `shift` and above of the words of a load; a constant.
template <int KIND> INLINE F lane_codes(I words, int shift) {
#if defined(__AVX512F__)
    if (KIND == TILED_INT4) {
        // One look-up, which reads four bits of each word and so needs no mask.
        const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        return {(FloatPart)_mm512_permutexvar_ps((__m512i)(words >> shift).part[0], table)};
    }
#endif
    // With the highest bit of a code turned over it is a signed number; two shifts cut it out and spread its sign.
    const int width = KIND == TILED_INT4 ? 4 : 8;
    const I turned = splat_int(KIND == TILED_INT4 ? (int32_t)0x88888888 : (int32_t)0x80808080);
    EACH words.part[p] ^= turned.part[p];
    return to_float((words << (32 - width - shift)) >> (32 - width));
}

// Value of a code that lost its middle.
template <int KIND> INLINE F value_of(F code, F scale, const F *minimum) {
    if (!minimum) return code * scale;
    return (KIND == TILED_INT4 ? code + splat(8) : code) * scale + *minimum;
}

// Sixteen columns of a row of a PLAIN matrix.
template <int KIND> INLINE F numbers(const uint8_t *from) {
    if (KIND == PLAIN_BF16) return load_bf16((const uint16_t *)from);
    if (KIND == PLAIN_F16) return load_f16((const uint16_t *)from);
    return load((const float *)from);
}

INLINE int64_t number_bytes(int kind) { return kind == PLAIN_F32 ? 4 : 2; }

// A block of a tiled matrix, column after column: panel [padded columns][16].
template <int KIND> static void block_values(const LagunaMatrix *m, const uint8_t *at, float *panel) {
    const int64_t groups = groups_of(m), all_codes = m->group / STEP * code_bytes(m), scales = scale_bytes(m);
    for (int64_t g = 0; g < groups; g++, at += group_bytes(m)) {
        const F scale = load_scales(m->scale_type, at + all_codes);
        F minimum = zeros();
        if (m->minimums) minimum = load_scales(m->scale_type, at + all_codes + scales);
        const F *added = m->minimums ? &minimum : nullptr;
        for (const uint8_t *codes = at; codes < at + all_codes; codes += code_bytes(m), panel += 16 * STEP)
            for (int j = 0; j < (KIND == TILED_INT4 ? 4 : 8); j++) {
                const I words = load_int((const int32_t *)(codes + 64 * j));
                for (int i = 0; i < 4; i++) {
                    float *to = panel + 16 * (4 * j + i);
                    store(to, value_of<KIND>(lane_codes<KIND>(words, 8 * i), scale, added));
                    if (KIND == TILED_INT4)
                        store(to + 16 * 16, value_of<KIND>(lane_codes<KIND>(words, 8 * i + 4), scale, added));
                }
            }
    }
}

// Codes of row `lane` in the 32 columns that begin at `codes`, in order of columns: int4 0..15, int8 less 128.
template <int KIND> INLINE void row_codes(const uint8_t *codes, int lane, int8_t *to) {
    for (int j = 0; j < (KIND == TILED_INT4 ? 4 : 8); j++) {
        uint32_t word;
        memcpy(&word, codes + 64 * j + 4 * lane, 4);
        if (KIND == TILED_INT4) {
            const uint32_t low = word & 0x0f0f0f0f, high = word >> 4 & 0x0f0f0f0f;
            memcpy(to + 4 * j, &low, 4);
            memcpy(to + 16 + 4 * j, &high, 4);
        } else {
            word ^= 0x80808080;
            memcpy(to + 4 * j, &word, 4);
        }
    }
}

// `count` rows of a block from row `lane` on, `m->columns` floats each, one behind the other.
template <int KIND>
static void rows_of_block(const LagunaMatrix *m, const uint8_t *at, int lane, int count, float *out) {
    const int64_t columns = m->columns, all_codes = m->group / STEP * code_bytes(m);
    for (int64_t c = 0; c < columns; c += m->group, at += group_bytes(m)) {
        float scales[16], minimums[16] = {0};
        store(scales, load_scales(m->scale_type, at + all_codes));
        if (m->minimums) store(minimums, load_scales(m->scale_type, at + all_codes + scale_bytes(m)));
        for (int64_t s = 0; s < m->group / STEP && c + s * STEP < columns; s++) {
            int8_t codes[16][STEP];
            for (int r = 0; r < count; r++) row_codes<KIND>(at + s * code_bytes(m), lane + r, codes[r]);
            const int64_t begin = c + s * STEP, width = columns - begin < STEP ? columns - begin : STEP;
            for (int r = 0; r < count; r++) {
                const F scale = splat(scales[lane + r]), minimum = splat(minimums[lane + r]);
                const F less = splat(KIND == TILED_INT4 && !m->minimums ? 8 : 0);
                float values[STEP], *to = width == STEP ? out + r * columns + begin : values;
                for (int half = 0; half < STEP; half += 16) {
                    const F product = (load_int8(codes[r] + half) - less) * scale;
                    // Without a minimum nothing is added: a zero keeps its sign.
                    store(to + half, m->minimums ? product + minimum : product);
                }
                if (width < STEP) memcpy(out + r * columns + begin, values, width * sizeof *values);
            }
        }
    }
}

// One row of a PLAIN matrix.
template <int KIND> static void row_of_numbers(const uint8_t *from, int64_t columns, float *out) {
    int64_t c = 0;
    for (; c + 16 <= columns; c += 16) store(out + c, numbers<KIND>(from + c * number_bytes(KIND)));
    if (c == columns) return;
    // Behind the last row of a mapped file there may be nothing to read.
    uint8_t last[64] = {0};
    float values[16];
    memcpy(last, from + c * number_bytes(KIND), (columns - c) * number_bytes(KIND));
    store(values, numbers<KIND>(last));
    memcpy(out + c, values, (columns - c) * sizeof *out);
}

}  // namespace LAGUNA_VARIANT
