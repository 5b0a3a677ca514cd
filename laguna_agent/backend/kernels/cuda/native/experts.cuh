// The experts of a token, each a few rows at a time: many small blocks, every weight read once for each token.
//
//   gate_up, block (b, pair):            x [K] ──stage──> shared
//     a group of lanes: PAIRS times  gate row i ─┐                         of the pair's expert, both rows meet the
//                                    up row I + i┴─16 bytes a lane──> · x   same x ──lane_sum──> silu(g) * u ──> act
//
//   down, block (b, token):   act [COUNT, I] ──stage, as many experts as fit──> shared, tile after tile
//     a group of lanes: row h of expert 0 ─┐
//                       row h of expert 1 ─┤ · act, times the expert's share ──> one sum ──lane_sum──> out += scale *
//                       ...               ─┘
//
// `picked` has experts of the stack: kernels that pick write no other, and nothing checks it here.
#pragma once

#include "products.cuh"

namespace laguna {

// R rows of each of COUNT matrices of a stack, matrix after matrix, with COUNT vectors of K columns: what they share is
// the place of these rows in their matrix of ROWS. LANES neighbouring lanes take a row's columns in STEPS steps; a few
// steps' weights are on their way while those before are multiplied, and while the vectors are staged.
template <class F, int K, int ROWS, int R, int LANES, int COUNT, int TOGETHER> struct Bundle {
    static constexpr int STEPS = ceil_div(ceil_div(K, F::COLUMNS), LANES), AHEAD = R < 4 ? 4 / R : 1;
    static constexpr int TILE = ceil_div(K, 32) * 32;
    static_assert(COUNT <= WARP, "a lane knows one of the matrices");

    Matrix stack;
    int row[R];
    // Lane v knows matrix v, and what its product is multiplied with.
    int matrix;
    float factor;

    DEVICE int column_of(int item) { return (item % STEPS * LANES + lane() % LANES) * F::COLUMNS; }

    METHOD int matrix_of(int vector) const { return COUNT == 1 ? matrix : __shfl_sync(ALL_LANES, matrix, vector); }
    METHOD float factor_of(int vector) const { return COUNT == 1 ? factor : __shfl_sync(ALL_LANES, factor, vector); }
    METHOD Row<F, K> row_of(int of, int r) const {
        return Row<F, K>::of(stack, static_cast<size_t>(of) * ROWS + row[r]);
    }

    // The weights of AHEAD items, vector by vector and step by step.
    METHOD void load(uint4 (&word)[AHEAD][R], int item, int end) const {
        UNROLL
        for (int a = 0; a < AHEAD; a++) {
            const int of = matrix_of((item + a) / STEPS);
            if (item + a >= end || column_of(item + a) >= K) continue;
            UNROLL
            for (int r = 0; r < R; r++) word[a][r] = row_of(of, r).load(column_of(item + a));
        }
    }

    // Add what they give; `staged` has the vectors from `begin` on.
    METHOD void add(float (&sum)[R], const uint4 (&word)[AHEAD][R], int item, int end, const float *staged,
                    int begin) const {
        UNROLL
        for (int a = 0; a < AHEAD; a++) {
            const int vector = (item + a) / STEPS;
            const int of = matrix_of(vector);
            const float times = factor_of(vector);
            if (item + a >= end || column_of(item + a) >= K) continue;
            Row<F, K> rows[R];
            UNROLL
            for (int r = 0; r < R; r++) rows[r] = row_of(of, r);
            float part[R][1] = {};
            const float *x = staged + (vector - begin) * staged_floats(TILE);
            add_columns<F, K, 1, TILE, R>(part, rows, word[a], column_of(item + a), x, 0);
            UNROLL
            for (int r = 0; r < R; r++) sum[r] = fmaf(times, rows[r].finish(part[r][0]), sum[r]);
        }
    }

    // The lane's part of all products; x [COUNT, K]. TOGETHER vectors fit the pool. FIRST: nobody uses the pool yet.
    template <bool FIRST> METHOD void multiply(float (&sum)[R], const float *x) const {
        float *staged = reinterpret_cast<float *>(shared_pool());
        for (int begin = 0; begin < COUNT; begin += TOGETHER) {
            const int after = min(begin + TOGETHER, COUNT), end = after * STEPS;
            uint4 word[AHEAD][R], next[AHEAD][R];
            load(word, begin * STEPS, end);
            if (!FIRST || begin) __syncthreads();
            for (int v = begin; v < after; v++)
                stage<1, K, TILE>(staged + (v - begin) * staged_floats(TILE), x + static_cast<size_t>(v) * K, 0);
            __syncthreads();
            for (int item = begin * STEPS; item < end; item += AHEAD) {
                load(next, item + AHEAD, end);
                add(sum, word, item, end, staged, begin);
                UNROLL
                for (int a = 0; a < AHEAD; a++)
                    UNROLL
                    for (int r = 0; r < R; r++) word[a][r] = next[a][r];
            }
        }
    }
};

// x [T, K], picked [T, COUNT], stack [E, 2 * I, K] with the gate's rows first -> out [T, COUNT, I]. Blocks (of rows,
// T * COUNT). PAIRS of rows to a group of LANES lanes.
template <class F, int K, int I, int COUNT, int PAIRS, int LANES>
DEVICE void expert_gate_up(const float *x, const int *picked, const void *codes, const void *scales, const void *extra,
                           float *out) {
    const int pair = blockIdx.y, first = (blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES) * PAIRS;
    Bundle<F, K, 2 * I, 2 * PAIRS, LANES, 1, 1> bundle = {{codes, scales, extra}, {}, picked[pair], 1.0f};
    UNROLL
    for (int p = 0; p < PAIRS; p++) {
        // Rows behind the last are the last once more, and are not written.
        bundle.row[2 * p] = min(first + p, I - 1);
        bundle.row[2 * p + 1] = bundle.row[2 * p] + I;
    }
    float sum[2 * PAIRS] = {};
    bundle.template multiply<true>(sum, x + static_cast<size_t>(pair / COUNT) * K);
    UNROLL
    for (int p = 0; p < PAIRS; p++) {
        const float gate = lane_sum<LANES>(sum[2 * p]), up = lane_sum<LANES>(sum[2 * p + 1]);
        if (lane() % LANES == 0 && first + p < I) out[static_cast<size_t>(pair) * I + first + p] = silu(gate) * up;
    }
}

// No shared expert.
struct Nothing {
    static constexpr int COLUMNS = 1;
};

// act [T, COUNT, I], picked and share [T, COUNT], stack [E, H, I], the shared expert's act [T, IS] and matrix [H, IS]:
// out [T, H] += scale * sum of share * product + the shared one's. Blocks (of rows, T). R rows to a group of LANES
// lanes; TOGETHER experts' act fits the pool.
template <class F, int I, int H, int COUNT, int R, int LANES, int TOGETHER, class FS, int IS>
DEVICE void add_experts(const float *act, const int *picked, const float *share, float scale, Matrix stack,
                        const float *shared_act, Matrix shared, float *out) {
    const int token = blockIdx.y, first = (blockIdx.x * (blockDim.x / LANES) + threadIdx.x / LANES) * R;
    const int mine = token * COUNT + min(lane(), COUNT - 1);
    Bundle<F, I, H, R, LANES, COUNT, TOGETHER> bundle = {stack, {}, picked[mine], scale * share[mine]};
    UNROLL
    for (int r = 0; r < R; r++) bundle.row[r] = min(first + r, H - 1);
    float sum[R] = {};
    bundle.template multiply<true>(sum, act + static_cast<size_t>(token) * COUNT * I);
    if constexpr (IS > 0) {
        Bundle<FS, IS, H, R, LANES, 1, 1> other = {shared, {}, 0, 1.0f};
        UNROLL
        for (int r = 0; r < R; r++) other.row[r] = bundle.row[r];
        other.template multiply<false>(sum, shared_act + static_cast<size_t>(token) * IS);
    }
    UNROLL
    for (int r = 0; r < R; r++) {
        const float all = lane_sum<LANES>(sum[r]);
        if (lane() % LANES == 0 && first + r < H) out[static_cast<size_t>(token) * H + first + r] += all;
    }
}

template <class F, int I, int H, int COUNT, int R, int LANES, int TOGETHER>
DEVICE void expert_down(const float *act, const int *picked, const float *share, float scale, const void *codes,
                        const void *scales, const void *extra, float *out) {
    add_experts<F, I, H, COUNT, R, LANES, TOGETHER, Nothing, 0>(act, picked, share, scale, {codes, scales, extra},
                                                               nullptr, {}, out);
}

template <class F, int I, int H, int COUNT, int R, int LANES, int TOGETHER, class FS, int IS>
DEVICE void expert_down_shared(const float *act, const int *picked, const float *share, float scale, const void *codes,
                               const void *scales, const void *extra, const float *shared_act,
                               const void *shared_codes, const void *shared_scales, const void *shared_extra,
                               float *out) {
    add_experts<F, I, H, COUNT, R, LANES, TOGETHER, FS, IS>(act, picked, share, scale, {codes, scales, extra},
                                                           shared_act, {shared_codes, shared_scales, shared_extra},
                                                           out);
}

}  // namespace laguna
