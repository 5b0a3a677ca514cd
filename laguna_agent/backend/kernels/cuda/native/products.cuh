// Products of a few tokens with the rows of a matrix: the weights are read once, 16 bytes a lane, and become numbers in
// registers; what they meet lies in shared memory.
//
//   x [T, K] in memory ──stage──> shared, TILE columns of each token, a gap of 4 after every 32 (no bank conflicts)
//                                      │
//   a row's bytes ──16 a lane──> four ──> v[4] · x ──> += scale * sum ──lanes──> one number a row and token
//
// What a row gives for a token is summed in an order that neither T nor TILE changes: a token has the same numbers
// alone and among others.
#pragma once

#include "formats.cuh"

namespace laguna {

// Where column c of a tile lies in shared memory. Lanes that read 4, 8, 16 or 32 columns each, four at a time, then
// touch every bank once.
DEVICE int place_of(int column) { return column + column / 32 * 4; }
DEVICE constexpr int staged_floats(int columns) { return columns + columns / 32 * 4; }

// x[column] to x[column + 3] of a row of K columns, zeros behind its last. `x` is aligned to 16 bytes where K is a
// multiple of 4; `column` is one.
template <int K> DEVICE float4 four_of(const float *x, int column) {
    if constexpr (K % 4 == 0) {
        return column < K ? load_four(x + column) : float4{0.0f, 0.0f, 0.0f, 0.0f};
    } else {
        return {column < K ? x[column] : 0.0f, column + 1 < K ? x[column + 1] : 0.0f,
                column + 2 < K ? x[column + 2] : 0.0f, column + 3 < K ? x[column + 3] : 0.0f};
    }
}

// Columns `begin` to `begin` + TILE of T rows of x [T, K] into shared memory, zeros behind the last column. With NORM
// each times `weight[column]`, and the squares of what this thread took are added to `squares`. Barriers are the
// caller's. TILE is a multiple of 32.
template <int T, int K, int TILE, bool NORM>
DEVICE void stage_rows(float *shared, const float *x, int begin, const float *weight, float (&squares)[T]) {
    for (int at = 4 * threadIdx.x; at < TILE; at += 4 * blockDim.x) {
        float4 factor = {1.0f, 1.0f, 1.0f, 1.0f};
        if constexpr (NORM) factor = four_of<K>(weight, begin + at);
        UNROLL
        for (int t = 0; t < T; t++) {
            float4 four = four_of<K>(x + static_cast<size_t>(t) * K, begin + at);
            if constexpr (NORM) {
                squares[t] = fmaf(four.x, four.x, squares[t]), squares[t] = fmaf(four.y, four.y, squares[t]);
                squares[t] = fmaf(four.z, four.z, squares[t]), squares[t] = fmaf(four.w, four.w, squares[t]);
                four.x *= factor.x, four.y *= factor.y, four.z *= factor.z, four.w *= factor.w;
            }
            store_four(shared + t * staged_floats(TILE) + place_of(at), four);
        }
    }
}

// The same without a norm.
template <int T, int K, int TILE> DEVICE void stage(float *shared, const float *x, int begin) {
    float none[T];
    stage_rows<T, K, TILE, false>(shared, x, begin, nullptr, none);
}

// 1 / rms of each of T rows of K columns, on every thread, from the squares that each thread has added up. `scratch`:
// T floats for each of the block's WARPS warps, in shared memory that nothing else uses.
template <int T, int K, int WARPS>
DEVICE void inverse_rms(float (&factor)[T], const float (&squares)[T], float eps, float *scratch) {
    UNROLL
    for (int t = 0; t < T; t++) {
        const float sum = lane_sum<WARP>(squares[t]);
        if (lane() == 0) scratch[warp() * T + t] = sum;
    }
    __syncthreads();
    UNROLL
    for (int t = 0; t < T; t++) {
        float sum = 0.0f;
        UNROLL
        for (int w = 0; w < WARPS; w++) sum += scratch[w * T + t];
        factor[t] = rsqrtf(sum / K + eps);
    }
}

// Add to sum[r][t] what the 16 bytes at `column` of row r give for token t; `shared` is the tile that begins at column
// `begin`. The lane's columns must lie within the tile. What is read of x meets all R rows.
template <class F, int K, int T, int TILE, int R>
DEVICE void add_columns(float (&sum)[R][T], const Row<F, K> (&row)[R], const uint4 (&word)[R], int column,
                        const float *shared, int begin) {
    UNROLL
    for (int part = 0; part < F::COLUMNS; part += F::STEP) {
        float dot[R][T] = {}, plain[T] = {};
        UNROLL
        for (int i = part; i < part + F::STEP; i += 4) {
            float v[R][4];
            UNROLL
            for (int r = 0; r < R; r++) F::four(word[r], i, v[r]);
            UNROLL
            for (int t = 0; t < T; t++) {
                const float4 x = load_four(shared + t * staged_floats(TILE) + place_of(column - begin + i));
                UNROLL
                for (int r = 0; r < R; r++) {
                    dot[r][t] = fmaf(v[r][0], x.x, dot[r][t]), dot[r][t] = fmaf(v[r][1], x.y, dot[r][t]);
                    dot[r][t] = fmaf(v[r][2], x.z, dot[r][t]), dot[r][t] = fmaf(v[r][3], x.w, dot[r][t]);
                }
                if (F::MINIMUMS) plain[t] += x.x + x.y + x.z + x.w;
            }
        }
        UNROLL
        for (int r = 0; r < R; r++) {
            const float scale = row[r].scale(column + part), minimum = row[r].minimum(column + part);
            UNROLL
            for (int t = 0; t < T; t++) {
                sum[r][t] = F::SCALED ? fmaf(scale, dot[r][t], sum[r][t]) : sum[r][t] + dot[r][t];
                if (F::MINIMUMS) sum[r][t] = fmaf(minimum, plain[t], sum[r][t]);
            }
        }
    }
}

// R rows of a matrix of K columns on their way through the tiles. LANES neighbouring lanes work on a row, `in_row` is
// this one's number among them. The bytes of the next step are on their way while those of this one are multiplied,
// also over the barriers between two tiles.
template <class F, int K, int T, int R, int LANES> struct Rows {
    static constexpr int STEP = LANES * F::COLUMNS;
    Row<F, K> row[R];
    uint4 word[R];
    float sum[R][T];

    // Row r is `first` + r * `apart`, none beyond `last`. `first` counts through a whole stack.
    METHOD void begin(Matrix m, size_t first, int apart, size_t last, int in_row) {
        UNROLL
        for (int r = 0; r < R; r++) {
            const size_t at = first + static_cast<size_t>(r) * apart;
            row[r] = Row<F, K>::of(m, at <= last ? at : last);
        }
        begin(in_row);
    }

    // The same of two matrices: rows 0, 2, ... of one, rows 1, 3, ... the same rows of the other.
    METHOD void begin(Matrix one, Matrix other, size_t first, int apart, size_t last, int in_row) {
        UNROLL
        for (int r = 0; r < R; r++) {
            const size_t at = first + static_cast<size_t>(r / 2) * apart;
            row[r] = Row<F, K>::of(r % 2 ? other : one, at < last ? at : last);
        }
        begin(in_row);
    }

    // `row` is set: no sums yet, and the first bytes on their way.
    METHOD void begin(int in_row) {
        UNROLL
        for (int r = 0; r < R; r++) {
            UNROLL
            for (int t = 0; t < T; t++) sum[r][t] = 0.0f;
        }
        fetch(word, in_row * F::COLUMNS);
    }

    METHOD void fetch(uint4 (&into)[R], int column) const {
        UNROLL
        for (int r = 0; r < R; r++) into[r] = column < K ? row[r].load(column) : uint4{0, 0, 0, 0};
    }

    // Add what lies in the tile at `begin`.
    template <int TILE> METHOD void add(const float *shared, int begin, int in_row) {
        static_assert(TILE % STEP == 0 && TILE % 32 == 0 && F::COLUMNS <= 32, "a tile has whole steps");
        for (int at = 0; at < TILE && begin + at < K; at += STEP) {
            const int column = begin + at + in_row * F::COLUMNS;
            uint4 next[R];
            fetch(next, column + STEP);
            if (column < K) add_columns<F, K, T, TILE, R>(sum, row, word, column, shared, begin);
            UNROLL
            for (int r = 0; r < R; r++) word[r] = next[r];
        }
    }

    // The sum of row r and token t, on all of its lanes; the whole warp must take part.
    METHOD float total(int r, int t) const { return row[r].finish(lane_sum<LANES>(sum[r][t])); }
};

}  // namespace laguna
