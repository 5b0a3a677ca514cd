// Vectors of as many floats as one register of this machine holds, and the widening of stored numbers into them.
//
// The vector extensions of GCC and Clang are compiled for whatever the machine has (AVX-512, AVX2, NEON, SSE2, or
// plain scalars). Intrinsics appear only where the compilers make several instructions of what the machine does in one.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#define VECTORS "avx512"
#elif defined(__AVX2__)
#include <immintrin.h>
#define LANES 8
#define VECTORS "avx2"
#elif defined(__ARM_NEON)
#define LANES 4
#define VECTORS "neon"
#else
#define LANES 4
#define VECTORS "portable"
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float F32 __attribute__((vector_size(4 * LANES)));
typedef int32_t I32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t U32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t U16 __attribute__((vector_size(2 * LANES)));
typedef uint8_t U8 __attribute__((vector_size(LANES)));
typedef int8_t I8 __attribute__((vector_size(LANES)));
typedef int16_t I16 __attribute__((vector_size(2 * LANES)));

INLINE F32 load(const float *p) {
    F32 v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, F32 v) { memcpy(p, &v, sizeof v); }

INLINE F32 splat(float value) { return value - (F32){0}; }

// LANES stored integers as 32-bit ones.
INLINE U32 widen_u8(const void *p) {
#if defined(__AVX512F__)
    return (U32)_mm512_cvtepu8_epi32(_mm_loadu_si128(p));
#elif defined(__AVX2__)
    return (U32)_mm256_cvtepu8_epi32(_mm_loadl_epi64(p));
#else
    U8 v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(__builtin_convertvector(v, U16), U32);
#endif
}

INLINE I32 widen_i8(const void *p) {
#if defined(__AVX512F__)
    return (I32)_mm512_cvtepi8_epi32(_mm_loadu_si128(p));
#elif defined(__AVX2__)
    return (I32)_mm256_cvtepi8_epi32(_mm_loadl_epi64(p));
#else
    I8 v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(__builtin_convertvector(v, I16), I32);
#endif
}

INLINE U32 widen_u16(const void *p) {
#if defined(__AVX512F__)
    return (U32)_mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
#elif defined(__AVX2__)
    return (U32)_mm256_cvtepu16_epi32(_mm_loadu_si128(p));
#else
    U16 v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, U32);
#endif
}

INLINE float sum(F32 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float part[LANES];
    store(part, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
#endif
}

// The line between codes and values of one group: value = code * scale + offset, rounded once.
typedef struct {
#if defined(__AVX512F__)
    F32 table;  // the values of the codes 0..15
#endif
    F32 scale, offset;
} Grid;

INLINE Grid grid(float scale, float offset) {
    Grid made;
    made.scale = splat(scale);
    made.offset = splat(offset);
#if defined(__AVX512F__)
    const F32 codes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    made.table = codes * made.scale + made.offset;
#endif
    return made;
}

// The values of LANES bytes of two nibbles each: those of the low nibbles, then those of the high ones.
INLINE void nibble_values(const uint8_t *codes, Grid grid, F32 *low, F32 *high) {
    const U32 wide = widen_u8(codes);
#if defined(__AVX512F__)
    // One look-up per value; the look-up reads four bits of its index and so needs no mask.
    *low = (F32)_mm512_permutexvar_ps((__m512i)wide, (__m512)grid.table);
    *high = (F32)_mm512_permutexvar_ps((__m512i)(wide >> 4), (__m512)grid.table);
#else
    *low = __builtin_convertvector((I32)(wide & 15), F32) * grid.scale + grid.offset;
    *high = __builtin_convertvector((I32)(wide >> 4), F32) * grid.scale + grid.offset;
#endif
}

INLINE F32 byte_values(const int8_t *codes, Grid grid) {
    return __builtin_convertvector(widen_i8(codes), F32) * grid.scale + grid.offset;
}

INLINE F32 bf16_values(const uint16_t *stored) {
    return (F32)(widen_u16(stored) << 16);
}

// fp16 by way of fp32's exponents, subnormal numbers and infinities included.
INLINE F32 f16_values(const uint16_t *stored) {
    const U32 wide = widen_u16(stored);
    const U32 size = (U32)((F32)((wide & 0x7fff) << 13) * 0x1p112f);
    const U32 infinite = (U32)((wide & 0x7c00) == 0x7c00) & 0x7f800000u;
    return (F32)(size | infinite | ((wide & 0x8000) << 16));
}
