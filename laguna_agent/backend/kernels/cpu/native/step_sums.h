// The integer sums of one step of unpacked tiles: 32 columns of sixteen rows in each block, for some tokens.
//
// How unpacked codes lie is settled here: mostly as in a tile, eight loads of 64 bytes for each block; for processors
// that multiply small matrices (i8mm) in pairs of rows of eight columns.
#pragma once

#include "activations.h"

namespace LAGUNA_VARIANT {

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
template <class C> INLINE int32_t beginning(const Step *s) {
    if (C::minimums && (C::int4 || !BYTES_ARE_OFFSET)) return 0;
    if (C::int4) return s->offset;
    return BYTES_ARE_OFFSET ? 16 * s->offset : 0;
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

// Bring the unpacked codes of a step of one block into pairs of rows: 16 bytes for each, eight pairs for eight columns.
template <class C> INLINE void arrange(uint8_t *codes) {
    int32x4_t words[8][4];
    const uint8x16_t offset = vdupq_n_u8(C::int4 ? 0 : 128);
    for (int j = 0; j < 8; j++)
        for (int q = 0; q < 4; q++) words[j][q] = vreinterpretq_s32_u8(veorq_u8(vld1q_u8(codes + 64 * j + 16 * q), offset));
    for (int c = 0; c < 4; c++)
        for (int q = 0; q < 4; q++) {
            vst1q_s32((int32_t *)(codes + 128 * c + 32 * q), vzip1q_s32(words[2 * c][q], words[2 * c + 1][q]));
            vst1q_s32((int32_t *)(codes + 128 * c + 32 * q + 16), vzip2q_s32(words[2 * c][q], words[2 * c + 1][q]));
        }
}

template <class C, int BLOCKS, int TOKENS>
INLINE void step_sums(const uint8_t *w, const Step *const *x, int64_t s, I (*part)[BLOCKS]) {
    static_assert(BLOCKS == 1, "pairs of rows are of one block");
    constexpr int PAIRS = (TOKENS + 1) / 2;
    const Step *step[2 * PAIRS];
    int32x4_t sums[PAIRS][8];
    // The last of an odd number of tokens is its own neighbour.
    for (int t = 0; t < 2 * PAIRS; t++) step[t] = x[t < TOKENS ? t : TOKENS - 1] + s;
    for (int pair = 0; pair < PAIRS; pair++) {
        const int32_t one = beginning<C>(step[2 * pair]), two = beginning<C>(step[2 * pair + 1]);
        for (int rows = 0; rows < 8; rows++) sums[pair][rows] = int32x4_t{one, two, one, two};
    }
    for (int c = 0; c < 4; c++) {
        int8x16_t tokens[PAIRS];
        for (int pair = 0; pair < PAIRS; pair++)
            tokens[pair] = vcombine_s8(vld1_s8(step[2 * pair]->codes + 8 * c), vld1_s8(step[2 * pair + 1]->codes + 8 * c));
        for (int rows = 0; rows < 8; rows++) {
            const int8x16_t codes = vld1q_s8((const int8_t *)w + 128 * c + 16 * rows);
            for (int pair = 0; pair < PAIRS; pair++) sums[pair][rows] = vmmlaq_s32(sums[pair][rows], codes, tokens[pair]);
        }
    }
    for (int t = 0; t < TOKENS; t++)
        for (int q = 0; q < 4; q++) {
            const int32x4_t low = sums[t / 2][2 * q], high = sums[t / 2][2 * q + 1];
            part[t][0].part[q] = (IntPart)(t & 1 ? vuzp2q_s32(low, high) : vuzp1q_s32(low, high));
        }
}

#else

template <class C> INLINE void arrange(uint8_t *) {}

// part[t][b] for steps `s` of the rows x[t]; `w` are the codes of the step, [8, TILE_BLOCKS, 64].
template <class C, int BLOCKS, int TOKENS>
INLINE void step_sums(const uint8_t *w, const Step *const *x, int64_t s, I (*part)[BLOCKS]) {
    for (int t = 0; t < TOKENS; t++)
        for (int b = 0; b < BLOCKS; b++) part[t][b] = splat_int(beginning<C>(x[t] + s));
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        B codes[BLOCKS];
        for (int b = 0; b < BLOCKS; b++) codes[b] = load_bytes(w + (j * TILE_BLOCKS + b) * 64);
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; t++) {
            const int32_t four = word(x[t] + s, j);
            for (int b = 0; b < BLOCKS; b++)
                part[t][b] = C::int4 ? dot_nibbles(part[t][b], codes[b], four) : dot_bytes(part[t][b], codes[b], four);
        }
    }
}

#endif

}  // namespace LAGUNA_VARIANT
