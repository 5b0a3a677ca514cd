// The two products of attention, in registers: rows times a panel, and rows times four keys.
//
// A panel is PANEL columns wide and lies without gaps, so a panel of a block of keys stays in a core's nearest cache while
// all rows pass over it. Rows that do not fill a tile of registers get a tile of fewer.
#pragma once

#include "attention_numbers.h"

namespace LAGUNA_VARIANT {
namespace attending {

// Sums of a tile that fit into the registers beside what is multiplied: rows, and sixteens of columns.
#if defined(__AVX512F__)
constexpr int ROWS_AT_ONCE = 6, VECTORS = 4, ROWS_OF_FOUR = 6;
#elif defined(__AVX2__)
constexpr int ROWS_AT_ONCE = 6, VECTORS = 1, ROWS_OF_FOUR = 3;
#elif defined(__ARM_NEON)
constexpr int ROWS_AT_ONCE = 6, VECTORS = 1, ROWS_OF_FOUR = 6;
#else
constexpr int ROWS_AT_ONCE = 2, VECTORS = 1, ROWS_OF_FOUR = 2;
#endif
constexpr int PANEL = 16 * VECTORS;

// c [rows, columns] = or += a [rows, depth] times b [depth, columns]; steps lead from row to row, of a and c in floats, of
// b in bytes.
struct Panel {
    const float *a;
    int64_t a_step;
    const void *b;
    int64_t b_step;
    float *c;
    int64_t c_step, depth;
    bool add;
    const char *ahead;  // what is wanted next, fetched meanwhile with the steps of b, where b is what the cache keeps
};

// KEPT: b is rows of the cache and no panel.
template <int KIND, bool KEPT, int R, int V> static void multiply_tile(const Panel &p) {
    constexpr int size = bytes_of(KIND), lines = V * size / 4 ? V * size / 4 : 1;
    const float *a = p.a;
    const char *b = (const char *)p.b, *ahead = p.ahead;
    const int64_t a_step = p.a_step, b_step = p.b_step, c_step = p.c_step;
    float *c = p.c;
    F sums[R * V];
    if (p.add) each<R * V>([&](int i) WRITTEN_OUT { sums[i] = load(c + i / V * c_step + i % V * 16); });
    else each<R * V>([&](int i) WRITTEN_OUT { sums[i] = zeros(); });
    for (int64_t k = 0; k < p.depth; k++) {
        F columns[V];
        each<V>([&](int v) WRITTEN_OUT { columns[v] = sixteen_of<KIND>(b + 16 * v * size); });
        if (KEPT) each<lines>([&](int line) WRITTEN_OUT { __builtin_prefetch(ahead + k * b_step + 64 * line, 0, 2); });
        each<R>([&](int r) WRITTEN_OUT {
            const F row = splat(a[r * a_step + k]);
            each<V>([&](int v) WRITTEN_OUT { sums[r * V + v] = fma(row, columns[v], sums[r * V + v]); });
        });
        b += b_step;
    }
    each<R * V>([&](int i) WRITTEN_OUT { store(c + i / V * c_step + i % V * 16, sums[i]); });
}

// The tile for so many rows (1 .. ROWS_AT_ONCE) and sixteens of columns (1 .. VECTORS).
template <int R = ROWS_AT_ONCE, int V = VECTORS> static void multiply(int rows, int vectors, const Panel &p) {
    if constexpr (R > 1)
        if (rows < R) return multiply<R - 1, V>(rows, vectors, p);
    if constexpr (V > 1)
        if (vectors < V) return multiply<R, V - 1>(rows, vectors, p);
    multiply_tile<KV_F32, false, R, V>(p);
}

INLINE FloatPart fma_part(FloatPart a, FloatPart b, FloatPart c) {
#if defined(__AVX512F__)
    return (FloatPart)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (FloatPart)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
    return (FloatPart)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

// to[i] = the sum of v[i]'s lanes.
INLINE void store_sums_of_four(const FloatPart *v, float *to) {
#if defined(__AVX512F__)
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512d ab = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)));
    const __m512d cd = _mm512_castps_pd(_mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)));
    const __m512 all = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                     _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#elif defined(__AVX2__)
    const __m256 ab = _mm256_hadd_ps((__m256)v[0], (__m256)v[1]), cd = _mm256_hadd_ps((__m256)v[2], (__m256)v[3]);
    const __m256 all = _mm256_hadd_ps(ab, cd);
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
#else
    for (int i = 0; i < 4; i++) {
        float lane[WIDTH];
        memcpy(lane, v + i, sizeof lane);
        for (int width = WIDTH / 2; width; width /= 2)
            for (int l = 0; l < width; l++) lane[l] += lane[l + width];
        to[i] = lane[0];
    }
#endif
}

// Scores [rows, 4] = q [rows, dims] times four keys [4, dims]; `dims` is a multiple of 16.
struct Four {
    const float *q, *keys;
    int64_t dims;
    float *scores;
    int64_t step;  // from row to row of the scores
};

template <int R> static void score_tile(const Four &f) {
    const float *q = f.q, *keys = f.keys;
    const int64_t dims = f.dims;
    FloatPart sums[R][4];
    each<4 * R>([&](int i) WRITTEN_OUT { sums[i / 4][i % 4] = (FloatPart){}; });
    for (int64_t d = 0; d < dims; d += WIDTH) {
        FloatPart key[4];
        each<4>([&](int j) WRITTEN_OUT { memcpy(&key[j], keys + j * dims + d, sizeof key[j]); });
        each<R>([&](int r) WRITTEN_OUT {
            FloatPart row;
            memcpy(&row, q + r * dims + d, sizeof row);
            each<4>([&](int j) WRITTEN_OUT { sums[r][j] = fma_part(row, key[j], sums[r][j]); });
        });
    }
    each<R>([&](int r) WRITTEN_OUT { store_sums_of_four(sums[r], f.scores + r * f.step); });
}

template <int R = ROWS_OF_FOUR> static void score(int rows, const Four &f) {
    if constexpr (R > 1)
        if (rows < R) return score<R - 1>(rows, f);
    score_tile<R>(f);
}

// Rows of each pass, where `rows` are done in as few passes of at most `most` as they need: no pass has but one or two
// where another has all.
INLINE int64_t pass_of(int64_t rows, int64_t most) {
    const int64_t passes = (rows + most - 1) / most;
    return (rows + passes - 1) / passes;
}

}  // namespace attending
}  // namespace LAGUNA_VARIANT
