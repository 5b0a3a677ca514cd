// How the rows of a matrix are stored, and how 16 bytes of one become numbers in registers.
//
// Every format F has: COLUMNS, which 16 bytes hold; STEP, columns of these under one scale; `four`, the codes of four
// of them as fp32, exact (`i` must be known to the compiler, or the word leaves the registers); `scale` and `minimum` of the group that a column lies in; `finish`, for what a row has in common. A
// number is finish(code * scale + minimum). Rows lie `row_bytes(K)` bytes apart, K columns padded to whole loads with
// codes whose columns meet zeros.
#pragma once

#include "platform.cuh"

namespace laguna {

// A matrix, or a stack of them, in memory. `scales` and `extra` (minimums, or one divisor of each row) may be null.
struct Matrix {
    const void *codes, *scales, *extra;
};

// One of the four words of a load; `i` must be known to the compiler.
DEVICE unsigned word_of(uint4 word, int i) { return i == 0 ? word.x : i == 1 ? word.y : i == 2 ? word.z : word.w; }

// The code at bit `at` of a word, less `zero`; exact. As it stands there, in the last bits of a power of two whose bit
// `at` means one, it is that much more than the power: no shift, one masking, one subtraction. The code's bits end
// before bit 23, and `at` must be known to the compiler.
template <unsigned MASK> DEVICE float lifted(unsigned word, int at, float zero) {
    const unsigned power = static_cast<unsigned>(150 - at) << 23;
    return __uint_as_float((word & (MASK << at)) | power) - (__uint_as_float(power) + zero);
}

struct F32 {
    using Stored = float;
    DEVICE float value(Stored x) { return x; }
};
struct F16 {
    using Stored = unsigned short;
    DEVICE float value(Stored x) { return halves(x).x; }
};
struct Bf16 {
    using Stored = unsigned short;
    DEVICE float value(Stored x) { return bf16_value(x); }
};
// The bits of an e4m3 number, where fp32 has them, mean 2^-120 of it, denormals too. 0x7f and 0xff are no numbers.
struct E4m3 {
    using Stored = unsigned char;
    DEVICE float value(unsigned x) {
        return __uint_as_float(((x & 0x80) << 24) | ((x & 0x7f) << 20)) * __uint_as_float(247u << 23);
    }
};

// For a format that has `four`: all codes of a load at once.
template <class F, int N> struct Load {
    DEVICE void expand(uint4 word, float (&v)[N]) {
        UNROLL
        for (int i = 0; i < N; i += 4) F::four(word, i, v + i);
    }
};

// Plain numbers: no scale.
template <class S> struct Plain;

template <> struct Plain<F32> : Load<Plain<F32>, 4> {
    static constexpr int COLUMNS = 4, STEP = 4;
    static constexpr bool SCALED = false, MINIMUMS = false, DIVIDED = false;
    DEVICE void four(uint4 word, int i, float *v) {
        UNROLL
        for (int j = 0; j < 4; j++) v[j] = __uint_as_float(word_of(word, i + j));
    }
};

template <> struct Plain<F16> : Load<Plain<F16>, 8> {
    static constexpr int COLUMNS = 8, STEP = 8;
    static constexpr bool SCALED = false, MINIMUMS = false, DIVIDED = false;
    DEVICE void four(uint4 word, int i, float *v) {
        const float2 low = halves(word_of(word, i / 2)), high = halves(word_of(word, i / 2 + 1));
        v[0] = low.x, v[1] = low.y, v[2] = high.x, v[3] = high.y;
    }
};

template <> struct Plain<Bf16> : Load<Plain<Bf16>, 8> {
    static constexpr int COLUMNS = 8, STEP = 8;
    static constexpr bool SCALED = false, MINIMUMS = false, DIVIDED = false;
    DEVICE void four(uint4 word, int i, float *v) {
        const unsigned low = word_of(word, i / 2), high = word_of(word, i / 2 + 1);
        v[0] = bf16_value(low), v[1] = __uint_as_float(low & 0xffff0000u);
        v[2] = bf16_value(high), v[3] = __uint_as_float(high & 0xffff0000u);
    }
};

// Codes of 4 bits, the lower half of a byte first; with MIN they are 0..15, else 0..15 means -8..7.
template <int G, class S, bool MIN> struct Int4 : Load<Int4<G, S, MIN>, 32> {
    using Scale = S;
    static constexpr int COLUMNS = 32, GROUP = G, STEP = G < 32 ? G : 32;
    static constexpr bool SCALED = true, MINIMUMS = MIN, DIVIDED = false;
    DEVICE void four(uint4 word, int i, float *v) {
        const unsigned low = word_of(word, i / 8), high = low >> 20;
        const float zero = MIN ? 0.0f : 8.0f;
        UNROLL
        for (int j = 0; j < 4; j++) {
            const int n = i % 8 + j;
            v[j] = n < 5 ? lifted<15>(low, 4 * n, zero) : lifted<15>(high, 4 * (n - 5), zero);
        }
    }
};

// Codes of 8 bits with a sign.
template <int G, class S, bool MIN> struct Int8 : Load<Int8<G, S, MIN>, 16> {
    using Scale = S;
    static constexpr int COLUMNS = 16, GROUP = G, STEP = G < 16 ? G : 16;
    static constexpr bool SCALED = true, MINIMUMS = MIN, DIVIDED = false;
    DEVICE void four(uint4 word, int i, float *v) {
        const unsigned low = word_of(word, i / 4) ^ 0x80808080u, high = low >> 16;
        v[0] = lifted<255>(low, 0, 128.0f), v[1] = lifted<255>(low, 8, 128.0f);
        v[2] = lifted<255>(high, 0, 128.0f), v[3] = lifted<255>(high, 8, 128.0f);
    }
};

template <int G, class S> struct Fp8 : Load<Fp8<G, S>, 16> {
    using Scale = S;
    static constexpr int COLUMNS = 16, GROUP = G, STEP = G < 16 ? G : 16;
    static constexpr bool SCALED = true, MINIMUMS = false, DIVIDED = false;
    DEVICE void four(uint4 word, int i, float *v) {
        const unsigned codes = word_of(word, i / 4);
        UNROLL
        for (int j = 0; j < 4; j++) v[j] = E4m3::value(codes >> (8 * j) & 255);
    }
};

// e2m1: where fp32 has them, its bits mean 2^-126 of the number.
struct Nvfp4 : Load<Nvfp4, 32> {
    using Scale = E4m3;
    static constexpr int COLUMNS = 32, GROUP = 16, STEP = 16;
    static constexpr bool SCALED = true, MINIMUMS = false, DIVIDED = true;
    DEVICE void four(uint4 word, int i, float *v) {
        const unsigned codes = word_of(word, i / 8) >> (4 * (i % 8));
        UNROLL
        for (int j = 0; j < 4; j++) {
            const unsigned code = codes >> (4 * j);
            v[j] = __uint_as_float(((code & 8) << 28) | ((code & 7) << 22)) * __uint_as_float(253u << 23);
        }
    }
};

template <class F> DEVICE constexpr int padded(int columns) { return ceil_div(columns, F::COLUMNS) * F::COLUMNS; }
template <class F> DEVICE constexpr int row_bytes(int columns) { return ceil_div(columns, F::COLUMNS) * 16; }

// One row of a matrix of K columns. `row` counts through a whole stack: expert * rows + row.
template <class F, int K> struct Row {
    const unsigned char *codes;
    const void *scales, *extra;
    size_t row;

    DEVICE Row<F, K> of(Matrix m, size_t row) {
        return {static_cast<const unsigned char *>(m.codes) + row * row_bytes<F>(K), m.scales, m.extra, row};
    }
    // The 16 bytes that begin with `column`, a multiple of F::COLUMNS.
    METHOD uint4 load(int column) const { return load_once(codes + column / F::COLUMNS * 16); }

    // Where the scale of a column is, in elements; padding has none of its own and takes the row's last.
    METHOD size_t place_of_group(int column) const {
        constexpr int groups = ceil_div(K, F::GROUP);
        const int group = column / F::GROUP;
        return row * groups + (padded<F>(K) == K ? group : min(group, groups - 1));
    }
    METHOD float scale(int column) const {
        if constexpr (!F::SCALED) {
            return 1.0f;
        } else {
            return F::Scale::value(static_cast<const typename F::Scale::Stored *>(scales)[place_of_group(column)]);
        }
    }
    METHOD float minimum(int column) const {
        if constexpr (!F::MINIMUMS) {
            return 0.0f;
        } else {
            return F::Scale::value(static_cast<const typename F::Scale::Stored *>(extra)[place_of_group(column)]);
        }
    }
    // Of a row's sum its value: some formats divide all of a row by one number.
    METHOD float finish(float sum) const {
        if constexpr (F::DIVIDED) return sum / static_cast<const float *>(extra)[row];
        else return sum;
    }
};

}  // namespace laguna
