// Keys and values as they are kept, and as numbers: rows for a few queries, panels and columns for many.
//
// Everything here is about one KV head and consecutive keys of one run; what lies behind the last key is never read.
#pragma once

#include "attention_products.h"

namespace LAGUNA_VARIANT {
namespace attending {

// to [4, dims rounded up to 16]: up to four keys; 0 for those that there are not. What lies as far behind `ahead` is
// fetched meanwhile.
template <int KIND>
static void four_keys(const char *from, const char *ahead, int64_t count, int64_t dims, float *to) {
    constexpr int64_t size = bytes_of(KIND);
    const int64_t width = rounded(dims, 16), whole = dims / 64 * 64;
    for (int64_t key = 0; key < count; key++, to += width, from += dims * size, ahead += dims * size) {
        for (int64_t d = 0; d < whole; d += 64) {
            each<size>([&](int line) WRITTEN_OUT { __builtin_prefetch(ahead + d * size + 64 * line, 0, 2); });
            each<4>([&](int i) WRITTEN_OUT { store(to + d + 16 * i, sixteen_of<KIND>(from + (d + 16 * i) * size)); });
        }
        for (int64_t d = whole; d < dims; d += 16) store(to + d, numbers<KIND>(from, d, dims));
    }
    for (int64_t key = count; key < 4; key++, to += width) memset(to, 0, width * sizeof(float));
}

// to [panels of dims, steps, PANEL]: values, times their scales unless those are NULL. `steps` is at least `count`; the
// rest is left as it is. `ahead` as above, or NULL.
template <int KIND>
static void value_panels(const char *from, const char *ahead, const float *scales, int64_t count, int64_t dims,
                         int64_t steps, float *to) {
    constexpr int64_t size = bytes_of(KIND);
    for (int64_t d = 0; d < dims; d += PANEL, to += steps * PANEL)
        for (int64_t key = 0; key < count; key++) {
            const F scale = splat(scales ? scales[key] : 1.0f);
            const char *row = from + key * dims * size;
            float *panel = to + key * PANEL;
            if (ahead && d * size % 64 == 0)
                for (int64_t at = 0; at < PANEL * size; at += 64)
                    __builtin_prefetch(ahead + (key * dims + d) * size + at, 0, 2);
            if (d + PANEL <= dims)
                each<VECTORS>([&](int i) WRITTEN_OUT {
                    const F v = sixteen_of<KIND>(row + (d + 16 * i) * size);
                    store(panel + 16 * i, scales ? v * scale : v);
                });
            else
                for (int64_t at = d; at < dims; at += 16) {
                    const F v = numbers<KIND>(row, at, dims);
                    store(panel + at - d, scales ? v * scale : v);
                }
        }
}

// Sixteen vectors of sixteen as a square, rows made columns.
INLINE void transpose(F *v) {
#if defined(__AVX512F__)
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps((__m512)v[i].part[0], (__m512)v[i + 1].part[0]);
        a[i + 1] = _mm512_unpackhi_ps((__m512)v[i].part[0], (__m512)v[i + 1].part[0]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            const __m512d x = _mm512_castps_pd(a[i + j]), y = _mm512_castps_pd(a[i + j + 2]);
            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
        }
    // b[4 g + c], piece p: numbers 4 p + c of vectors 4 g .. 4 g + 3.
    for (int c = 0; c < 4; c++) {
        const __m512 low = _mm512_shuffle_f32x4(b[c], b[4 + c], 0x44), high = _mm512_shuffle_f32x4(b[c], b[4 + c], 0xee);
        const __m512 l = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0x44);
        const __m512 h = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], 0xee);
        v[c].part[0] = (FloatPart)_mm512_shuffle_f32x4(low, l, 0x88);
        v[4 + c].part[0] = (FloatPart)_mm512_shuffle_f32x4(low, l, 0xdd);
        v[8 + c].part[0] = (FloatPart)_mm512_shuffle_f32x4(high, h, 0x88);
        v[12 + c].part[0] = (FloatPart)_mm512_shuffle_f32x4(high, h, 0xdd);
    }
#else
    float from[256], to[256];
    memcpy(from, v, sizeof from);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) to[16 * i + j] = from[16 * j + i];
    memcpy(v, to, sizeof to);
#endif
}

// to [panels of keys, dims, PANEL]: keys as columns, times their scales unless those are NULL; 0 for keys that there are
// not, up to the next sixteen. `scales` can be read up to there.
template <int KIND>
static void key_panels(const char *from, const float *scales, int64_t count, int64_t dims, float *to) {
    for (int64_t first = 0; first < count; first += 16) {
        float *panel = to + first / PANEL * PANEL * dims + first % PANEL;
        const F scale = scales ? load(scales + first) : splat(1.0f);
        for (int64_t d = 0; d < dims; d += 16) {
            F square[16];
            for (int64_t i = 0; i < 16; i++)
                square[i] = first + i < count ? numbers<KIND>(from + (first + i) * dims * bytes_of(KIND), d, dims) : zeros();
            transpose(square);
            for (int64_t i = 0; i < 16 && d + i < dims; i++)
                store(panel + (d + i) * PANEL, scales ? square[i] * scale : square[i]);
        }
    }
}

// The same for a kind that is known only when they are called.
INLINE void four_keys(int kind, const char *from, const char *ahead, int64_t count, int64_t dims, float *to) {
    if (kind == KV_F16) four_keys<KV_F16>(from, ahead, count, dims, to);
    else if (kind == KV_BF16) four_keys<KV_BF16>(from, ahead, count, dims, to);
    else if (kind == KV_INT8) four_keys<KV_INT8>(from, ahead, count, dims, to);
    else four_keys<KV_F32>(from, ahead, count, dims, to);
}

INLINE void value_panels(int kind, const char *from, const char *ahead, const float *scales, int64_t count, int64_t dims,
                         int64_t steps, float *to) {
    if (kind == KV_F16) value_panels<KV_F16>(from, ahead, scales, count, dims, steps, to);
    else if (kind == KV_BF16) value_panels<KV_BF16>(from, ahead, scales, count, dims, steps, to);
    else if (kind == KV_INT8) value_panels<KV_INT8>(from, ahead, scales, count, dims, steps, to);
    else value_panels<KV_F32>(from, ahead, scales, count, dims, steps, to);
}

INLINE void key_panels(int kind, const char *from, const float *scales, int64_t count, int64_t dims, float *to) {
    if (kind == KV_F16) key_panels<KV_F16>(from, scales, count, dims, to);
    else if (kind == KV_BF16) key_panels<KV_BF16>(from, scales, count, dims, to);
    else if (kind == KV_INT8) key_panels<KV_INT8>(from, scales, count, dims, to);
    else key_panels<KV_F32>(from, scales, count, dims, to);
}

}  // namespace attending
}  // namespace LAGUNA_VARIANT
