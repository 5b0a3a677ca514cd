// How keys and values are kept, and where: the formats of the cache (laguna/cache_format.py) and its runs.
//
// Every format KV has: `Loaded`, the format of formats.cuh that makes numbers of 16 bytes; BYTES of a code; SCALED,
// whether each token and head has an fp32 scale; LARGEST code; and `store`, which encodes a number that was divided by
// its scale already.
#pragma once

#include "formats.cuh"

namespace laguna {

constexpr int MOST_RUNS = 8, RUN_FIELDS = 7;

struct KvF32 {
    using Loaded = Plain<F32>;
    static constexpr int BYTES = 4;
    static constexpr bool SCALED = false;
    static constexpr float LARGEST = 1.0f;
    DEVICE void store(void *row, int column, float x) { static_cast<float *>(row)[column] = x; }
};

struct KvF16 {
    using Loaded = Plain<F16>;
    static constexpr int BYTES = 2;
    static constexpr bool SCALED = false;
    static constexpr float LARGEST = 65504.0f;
    // Comparisons, because fminf and fmaxf would make a number of a NaN.
    DEVICE void store(void *row, int column, float x) {
        x = x > LARGEST ? LARGEST : x < -LARGEST ? -LARGEST : x;
        static_cast<unsigned short *>(row)[column] = half_of(x);
    }
};

struct KvBf16 {
    using Loaded = Plain<Bf16>;
    static constexpr int BYTES = 2;
    static constexpr bool SCALED = false;
    static constexpr float LARGEST = 1.0f;
    DEVICE void store(void *row, int column, float x) {
        const unsigned bits = __float_as_uint(x);
        const unsigned rounded = x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        static_cast<unsigned short *>(row)[column] = static_cast<unsigned short>(rounded);
    }
};

struct KvInt8 {
    using Loaded = Int8<16, F32, false>;
    static constexpr int BYTES = 1;
    static constexpr bool SCALED = true;
    static constexpr float LARGEST = 127.0f;
    DEVICE void store(void *row, int column, float x) {
        static_cast<signed char *>(row)[column] = static_cast<signed char>(x != x ? 0 : static_cast<int>(rintf(x)));
    }
};

struct KvFp8 {
    using Loaded = Fp8<16, F32>;
    static constexpr int BYTES = 1;
    static constexpr bool SCALED = true;
    static constexpr float LARGEST = 448.0f;
    // e4m3 to nearest, ties to even. Below 2^-6 codes count steps of 2^-9; above, they are fp32's bits, rounded to
    // three of the mantissa, with an exponent that is 120 less.
    DEVICE void store(void *row, int column, float x) {
        const unsigned sign = __float_as_uint(x) >> 24 & 0x80;
        float size = fabsf(x);
        size = size > LARGEST ? LARGEST : size;
        const unsigned bits = __float_as_uint(size);
        unsigned code = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - (120 << 3);
        if (size < 0.015625f) code = static_cast<unsigned>(rintf(size * 512.0f));
        if (x != x) code = 0x7f;
        static_cast<unsigned char *>(row)[column] = static_cast<unsigned char>(sign | code);
    }
};

// Consecutive positions of one sequence in memory: k and v [kv_heads, slots, D], their scales [kv_heads, slots]; the
// position of slot 0, and how many slots are filled.
struct KeyRun {
    unsigned char *k, *v;
    float *k_scale, *v_scale;
    size_t slots;
    long long first, count;

    // Number `index` of row t. Addresses are integers because there is one launch for caches that come and go.
    DEVICE KeyRun of(const long long *runs, int t, int index) {
        const long long *at = runs + (t * MOST_RUNS + index) * RUN_FIELDS;
        return {reinterpret_cast<unsigned char *>(at[0]), reinterpret_cast<unsigned char *>(at[1]),
                reinterpret_cast<float *>(at[2]),         reinterpret_cast<float *>(at[3]),
                static_cast<size_t>(at[4]),               at[5],
                at[6]};
    }
};

}  // namespace laguna
