// Few rows and the cache itself: codes become numbers in the registers that multiply them, and are stored nowhere.
//
// For processors with registers enough that all rows of a group of heads meet a key in one pass, for the usual sizes of
// groups, and for head sizes that are whole panels; everything else goes by way of a buffer (attention_blocks.h), for every
// further size costs all who build the library time.
#pragma once

#include "attention_products.h"

namespace LAGUNA_VARIANT {
namespace attending {

#if defined(__AVX512F__)
INLINE bool goes_direct(int kind, int64_t rows, int64_t dims) {
    return kind != KV_F32 && (rows == 8 || rows == 6 || rows == 4 || rows == 1) && dims % PANEL == 0;
}
// The next smaller of these groups.
constexpr int smaller(int rows) { return rows == 8 ? 6 : rows == 6 ? 4 : 1; }

// Scores [R, J] of J keys that lie `stride` bytes apart; R times J is a multiple of 4. `ahead` is fetched with them.
template <int KIND, int R, int J>
static void score_direct(const float *q, int64_t dims, const char *keys, const char *ahead, float *scores, int64_t step) {
    constexpr int size = bytes_of(KIND);
    const int64_t stride = dims * size;
    F sums[R * J];
    each<R * J>([&](int i) WRITTEN_OUT { sums[i] = zeros(); });
    for (int64_t d = 0; d < dims; d += 16) {
        F key[J];
        each<J>([&](int j) WRITTEN_OUT { key[j] = sixteen_of<KIND>(keys + j * stride + d * size); });
        if (d * size % 64 == 0) each<J>([&](int j) WRITTEN_OUT { __builtin_prefetch(ahead + j * stride + d * size, 0, 2); });
        each<R>([&](int r) WRITTEN_OUT {
            const F row = load(q + r * dims + d);
            each<J>([&](int j) WRITTEN_OUT { sums[r * J + j] = fma(row, key[j], sums[r * J + j]); });
        });
    }
    constexpr int at_once = 4 / J;  // rows whose sums make four
    each<R / at_once>([&](int i) WRITTEN_OUT {
        FloatPart four[4];
        float found[4];
        each<4>([&](int at) WRITTEN_OUT { four[at] = sums[4 * i + at].part[0]; });
        store_sums_of_four(four, found);
        each<at_once>([&](int r) WRITTEN_OUT { memcpy(scores + (i * at_once + r) * step, found + r * J, 4 * J); });
    });
}

// The block's keys as a whole: scores [R, count], all of them but the last keys that are no four (or two).
template <int KIND, int R = 8>
static int64_t scores_direct(int rows, const float *q, int64_t dims, const char *k, const char *ahead, int64_t count,
                             float *scores, int64_t step) {
    constexpr int together = R > 6 ? 2 : 4;
    if constexpr (R > 1)
        if (rows < R) return scores_direct<KIND, smaller(R)>(rows, q, dims, k, ahead, count, scores, step);
    const int64_t stride = dims * bytes_of(KIND);
    int64_t key = 0;
    for (; key + together <= count; key += together)
        score_direct<KIND, R, together>(q, dims, k + key * stride, ahead + key * stride, scores + key, step);
    return key;
}

// sums [R, dims] += weights [R, count] times values, a panel or for many rows half a one at a time.
template <int KIND, int R = 8>
static void values_direct(int rows, const float *weights, int64_t step, const char *v, const char *ahead, int64_t dims,
                          int64_t count, float *sums) {
    constexpr int vectors = R > 6 ? VECTORS / 2 : VECTORS;
    if constexpr (R > 1)
        if (rows < R) return values_direct<KIND, smaller(R)>(rows, weights, step, v, ahead, dims, count, sums);
    const int64_t size = bytes_of(KIND);
    for (int64_t d = 0; d < dims; d += 16 * vectors)
        multiply_tile<KIND, true, R, vectors>(
            {weights, step, v + d * size, dims * size, sums + d, dims, count, true, ahead + d * size});
}
#endif

}  // namespace attending
}  // namespace LAGUNA_VARIANT
