// Sixteen numbers at a time, on whatever registers the processor has: one of AVX-512, two of AVX2, four of NEON or SSE.
//
// Everything above is written once, for sixteen lanes, because the weights lie in tiles of sixteen rows. This file is
// compiled once for each variant (`variants.py` has the flags), all of it in a namespace of the variant's own, so that
// the linker cannot take a function of one variant for that of another. For the same reason nothing here may use
// templates of the standard library.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))

namespace LAGUNA_VARIANT {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
constexpr int PARTS = 16 / WIDTH;

typedef float FloatPart __attribute__((vector_size(4 * WIDTH)));
typedef int32_t IntPart __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t WordPart __attribute__((vector_size(4 * WIDTH)));
typedef uint8_t BytePart __attribute__((vector_size(4 * WIDTH)));

struct F { FloatPart part[PARTS]; };  // sixteen floats
struct I { IntPart part[PARTS]; };    // sixteen integers of 32 bits
struct B { BytePart part[PARTS]; };   // sixty-four bytes: four for each lane

// Unrolled early, so that the parts become registers.
#define EACH _Pragma("GCC unroll 4") for (int p = 0; p < PARTS; p++)

INLINE F splat(float value) { F r; EACH r.part[p] = value - (FloatPart){}; return r; }
INLINE F zeros() { F r; EACH r.part[p] = (FloatPart){}; return r; }
INLINE I splat_int(int32_t value) { I r; EACH r.part[p] = value - (IntPart){}; return r; }
INLINE F load(const float *from) { F r; EACH memcpy(&r.part[p], from + WIDTH * p, sizeof r.part[p]); return r; }
INLINE void store(float *to, F v) { EACH memcpy(to + WIDTH * p, &v.part[p], sizeof v.part[p]); }
INLINE I load_int(const int32_t *from) { I r; EACH memcpy(&r.part[p], from + WIDTH * p, sizeof r.part[p]); return r; }
INLINE void store_int(int32_t *to, I v) { EACH memcpy(to + WIDTH * p, &v.part[p], sizeof v.part[p]); }
INLINE B load_bytes(const void *from) {
    B r;
    EACH memcpy(&r.part[p], (const char *)from + 4 * WIDTH * p, sizeof r.part[p]);
    return r;
}
INLINE void store_bytes(void *to, B v) { EACH memcpy((char *)to + 4 * WIDTH * p, &v.part[p], sizeof v.part[p]); }

INLINE F operator+(F a, F b) { EACH a.part[p] += b.part[p]; return a; }
INLINE F operator-(F a, F b) { EACH a.part[p] -= b.part[p]; return a; }
INLINE F operator*(F a, F b) { EACH a.part[p] *= b.part[p]; return a; }
INLINE F operator/(F a, F b) { EACH a.part[p] /= b.part[p]; return a; }
// Integers wrap around, as the processors' do: what is made of a number's bits may be no number.
INLINE I operator+(I a, I b) { EACH a.part[p] = (IntPart)((WordPart)a.part[p] + (WordPart)b.part[p]); return a; }
INLINE I operator-(I a, I b) { EACH a.part[p] = (IntPart)((WordPart)a.part[p] - (WordPart)b.part[p]); return a; }
INLINE I operator<<(I a, int n) { EACH a.part[p] = (IntPart)((WordPart)a.part[p] << n); return a; }
INLINE I operator>>(I a, int n) { EACH a.part[p] >>= n; return a; }
INLINE I operator&(I a, I b) { EACH a.part[p] &= b.part[p]; return a; }
INLINE B operator&(B a, B b) { EACH a.part[p] &= b.part[p]; return a; }
// Lanes of `yes` where `a < b`, else of `no`; a NaN is not less.
INLINE F where_less(F a, F b, F yes, F no) {
    EACH yes.part[p] = a.part[p] < b.part[p] ? yes.part[p] : no.part[p];
    return yes;
}
INLINE F bits_as_float(I v) { F r; EACH r.part[p] = (FloatPart)v.part[p]; return r; }
INLINE I float_as_bits(F v) { I r; EACH r.part[p] = (IntPart)v.part[p]; return r; }
INLINE F to_float(I v) { F r; EACH r.part[p] = __builtin_convertvector(v.part[p], FloatPart); return r; }

// a * b + c; one rounding where the processor has such an instruction, two where it has none.
INLINE F fma(F a, F b, F c) {
#if defined(__AVX512F__)
    EACH c.part[p] = (FloatPart)_mm512_fmadd_ps((__m512)a.part[p], (__m512)b.part[p], (__m512)c.part[p]);
#elif defined(__AVX2__)
    EACH c.part[p] = (FloatPart)_mm256_fmadd_ps((__m256)a.part[p], (__m256)b.part[p], (__m256)c.part[p]);
#elif defined(__ARM_NEON)
    EACH c.part[p] = (FloatPart)vfmaq_f32((float32x4_t)c.part[p], (float32x4_t)a.part[p], (float32x4_t)b.part[p]);
#else
    EACH c.part[p] = a.part[p] * b.part[p] + c.part[p];
#endif
    return c;
}

// The larger; `b` where either is no number.
INLINE F max(F a, F b) {
#if defined(__AVX512F__)
    EACH a.part[p] = (FloatPart)_mm512_max_ps((__m512)a.part[p], (__m512)b.part[p]);
#elif defined(__AVX2__)
    EACH a.part[p] = (FloatPart)_mm256_max_ps((__m256)a.part[p], (__m256)b.part[p]);
#else
    EACH a.part[p] = a.part[p] > b.part[p] ? a.part[p] : b.part[p];
#endif
    return a;
}

INLINE F min(F a, F b) {
#if defined(__AVX512F__)
    EACH a.part[p] = (FloatPart)_mm512_min_ps((__m512)a.part[p], (__m512)b.part[p]);
#elif defined(__AVX2__)
    EACH a.part[p] = (FloatPart)_mm256_min_ps((__m256)a.part[p], (__m256)b.part[p]);
#else
    EACH a.part[p] = a.part[p] < b.part[p] ? a.part[p] : b.part[p];
#endif
    return a;
}

INLINE F absolute(F a) { return bits_as_float(float_as_bits(a) & splat_int(0x7fffffff)); }

// The nearest integers, halves to even; for numbers of magnitude below 2^22.
INLINE I nearest(F v) {
    const F shift = splat(12582912.0f);  // 1.5 * 2^23: what is added to it loses its fraction
    return float_as_bits(v + shift) - float_as_bits(shift);
}

INLINE float sum(F v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v.part[0]);
#else
    // Pairs as in the reduction above, so that all variants add in the same order.
    float lane[16];
    store(lane, v);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
#endif
}

INLINE float largest(F v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v.part[0]);
#else
    float lane[16];
    store(lane, v);
    for (int i = 1; i < 16; i++) lane[0] = lane[0] > lane[i] ? lane[0] : lane[i];
    return lane[0];
#endif
}

// Sixteen stored halves as integers of 32 bits.
INLINE I widen_halves(const uint16_t *from) {
    I r;
#if defined(__AVX512F__)
    r.part[0] = (IntPart)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__AVX2__)
    EACH r.part[p] = (IntPart)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(from + 8 * p)));
#else
    typedef uint16_t HalfPart __attribute__((vector_size(2 * WIDTH)));
    EACH {
        HalfPart v;
        memcpy(&v, from + WIDTH * p, sizeof v);
        r.part[p] = __builtin_convertvector(v, IntPart);
    }
#endif
    return r;
}

INLINE F load_bf16(const uint16_t *from) { return bits_as_float(widen_halves(from) << 16); }

INLINE F load_f16(const uint16_t *from) {
    F r;
#if defined(__AVX512F__)
    r.part[0] = (FloatPart)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
#elif defined(__AVX2__)
    EACH r.part[p] = (FloatPart)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8 * p)));
#elif defined(__ARM_NEON)
    EACH r.part[p] = (FloatPart)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * p)));
#else
    // By way of fp32's exponents, subnormal numbers and infinities included.
    const I wide = widen_halves(from);
    const I size = float_as_bits(bits_as_float((wide & splat_int(0x7fff)) << 13) * splat(0x1p112f));
    EACH {
        const IntPart infinite = ((wide.part[p] & 0x7c00) == 0x7c00) & 0x7f800000;
        const IntPart bits = size.part[p] | infinite | ((wide.part[p] & 0x8000) << 16);
        memcpy(&r.part[p], &bits, sizeof bits);
    }
#endif
    return r;
}

INLINE uint16_t f16_of(float value) {
#if defined(__AVX2__)
    return (uint16_t)_cvtss_sh(value, 0);
#else
    // The addition rounds to the 11 bits that fp16 has at this size; below its normal numbers to a multiple of 2^-24.
    uint32_t bits, rounded;
    memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) {
        float small;
        memcpy(&small, &size, 4);
        small += 0.5f;
        memcpy(&rounded, &small, 4);
        return (uint16_t)(sign | (rounded - 0x3f000000));
    }
    rounded = size + 0xfff + (size >> 13 & 1);
    return (uint16_t)(sign | ((rounded >> 13) - (112 << 10)));
#endif
}

INLINE void store_f16(uint16_t *to, F v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)v.part[0], 0));
#elif defined(__AVX2__)
    EACH _mm_storeu_si128((__m128i *)(to + 8 * p), _mm256_cvtps_ph((__m256)v.part[p], 0));
#elif defined(__ARM_NEON)
    EACH vst1_u16(to + 4 * p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v.part[p])));
#else
    float lane[16];
    store(lane, v);
    for (int i = 0; i < 16; i++) to[i] = f16_of(lane[i]);
#endif
}

// bf16 by rounding to nearest even; a NaN stays one.
INLINE uint16_t bf16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Sixteen signed bytes as floats.
INLINE F load_int8(const int8_t *from) {
    I r;
#if defined(__AVX512F__)
    r.part[0] = (IntPart)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
    EACH r.part[p] = (IntPart)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(from + 8 * p)));
#else
    for (int i = 0; i < 16; i++) r.part[i / WIDTH][i % WIDTH] = from[i];
#endif
    return to_float(r);
}

INLINE void store_int8(int8_t *to, I v) {
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)v.part[0]));
#else
    int32_t lane[16];
    store_int(lane, v);
    for (int i = 0; i < 16; i++) to[i] = (int8_t)lane[i];
#endif
}

INLINE B low_nibbles(B v) { EACH v.part[p] &= 15; return v; }
INLINE B high_nibbles(B v) { EACH v.part[p] >>= 4; return v; }

// For each lane: sum += the four bytes of `weights` times the four signed bytes of `four` (one word for all lanes).
// `dot_nibbles` takes weights of 0..15. `dot_bytes` takes weights that are stored with 128 added: where the processor
// multiplies unsigned with signed bytes it takes them as they are, and BYTES_ARE_OFFSET says that 128 times the sum of
// the signed ones must be taken off.
#if defined(__AVX512VNNI__)
constexpr bool BYTES_ARE_OFFSET = true;
INLINE I dot_nibbles(I sum, B weights, int32_t four) {
    sum.part[0] = (IntPart)_mm512_dpbusd_epi32((__m512i)sum.part[0], (__m512i)weights.part[0], _mm512_set1_epi32(four));
    return sum;
}
INLINE I dot_bytes(I sum, B weights, int32_t four) { return dot_nibbles(sum, weights, four); }
#elif defined(__AVXVNNI__)
constexpr bool BYTES_ARE_OFFSET = true;
INLINE I dot_nibbles(I sum, B weights, int32_t four) {
    const __m256i wide = _mm256_set1_epi32(four);
    EACH sum.part[p] = (IntPart)_mm256_dpbusd_avx_epi32((__m256i)sum.part[p], (__m256i)weights.part[p], wide);
    return sum;
}
INLINE I dot_bytes(I sum, B weights, int32_t four) { return dot_nibbles(sum, weights, four); }
#elif defined(__AVX2__)
constexpr bool BYTES_ARE_OFFSET = false;
INLINE I dot_nibbles(I sum, B weights, int32_t four) {
    // Two products of 15 and 127 fit into 16 bits.
    const __m256i wide = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1);
    EACH sum.part[p] += (IntPart)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)weights.part[p], wide), ones);
    return sum;
}
INLINE I dot_bytes(I sum, B weights, int32_t four) {
    // Two products of 255 and 127 do not: the sign goes to the other factor.
    const __m256i wide = _mm256_set1_epi32(four), ones = _mm256_set1_epi16(1), high = _mm256_set1_epi8((char)128);
    EACH {
        const __m256i w = _mm256_xor_si256((__m256i)weights.part[p], high);
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_sign_epi8(w, w), _mm256_sign_epi8(wide, w));
        sum.part[p] += (IntPart)_mm256_madd_epi16(pairs, ones);
    }
    return sum;
}
#elif defined(__ARM_FEATURE_DOTPROD)
constexpr bool BYTES_ARE_OFFSET = false;
INLINE I dot_nibbles(I sum, B weights, int32_t four) {
    const int8x16_t wide = vreinterpretq_s8_s32(vdupq_n_s32(four));
    EACH sum.part[p] = (IntPart)vdotq_s32((int32x4_t)sum.part[p], (int8x16_t)weights.part[p], wide);
    return sum;
}
INLINE I dot_bytes(I sum, B weights, int32_t four) {
    EACH weights.part[p] ^= 128;
    return dot_nibbles(sum, weights, four);
}
#else
constexpr bool BYTES_ARE_OFFSET = true;
INLINE I dot_nibbles(I sum, B weights, int32_t four) {
    // The bytes of each lane one after the other: shifts of whole lanes, which every processor does four at a time.
    for (int byte = 0; byte < 4; byte++) {
        const int32_t factor = (int8_t)((uint32_t)four >> 8 * byte);
        EACH sum.part[p] += ((IntPart)weights.part[p] >> 8 * byte & 255) * factor;
    }
    return sum;
}
INLINE I dot_bytes(I sum, B weights, int32_t four) { return dot_nibbles(sum, weights, four); }
#endif

INLINE void prefetch(const void *at) { __builtin_prefetch(at); }

}  // namespace LAGUNA_VARIANT
