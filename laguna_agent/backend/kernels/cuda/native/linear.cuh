// Products of a few tokens with whole matrices: projections, dense layers, the head; and the embedding's rows.
//
//   block b: THREADS threads, rows of one segment        x [T, K] ──tile by tile──> shared memory
//   ┌ warp 0: R rows for each group of LANES lanes ┐        │ (× norm weight; squares added up on the way)
//   │ warp 1: the next                             │ <──────┘
//   │ ...                                          │ ──> lane_sum ──> × 1/rms, + bias ──> out [T, rows]
//   └ ROUNDS times, where all of x is one tile     ┘
#pragma once

#include "products.cuh"

namespace laguna {

// One matrix among those that share their x. A block has ROUNDS * R rows for each group of LANES lanes.
template <class F_, int ROWS_, bool BIAS_, int LANES_> struct Segment {
    using F = F_;
    static constexpr int ROWS = ROWS_, LANES = LANES_;
    static constexpr bool BIAS = BIAS_;
};

// T tokens of K columns against the rows of several matrices. WARPS a block.
template <int T, int K, int TILE, int WARPS, int R, int ROUNDS, bool NORM, bool ADD> struct Joined {
    static constexpr int STAGED = T * staged_floats(TILE);
    static constexpr bool WHOLE = TILE >= K;
    static_assert(WHOLE || ROUNDS == 1, "x is staged once");

    struct Input {
        const float *x, *norm_weight;
        float eps;
        float *normed;
    };

    template <class S> DEVICE constexpr int rows_of_round() { return WARPS * R * (WARP / S::LANES); }
    template <class S> DEVICE constexpr int blocks() { return ceil_div(S::ROWS, ROUNDS * rows_of_round<S>()); }

    // This block's part of x after the norm.
    DEVICE void keep(const Input &in, const float (&factor)[T]) {
        for (int at = blockIdx.x * blockDim.x + threadIdx.x; at < K; at += gridDim.x * blockDim.x) {
            UNROLL
            for (int t = 0; t < T; t++)
                in.normed[static_cast<size_t>(t) * K + at] = in.x[static_cast<size_t>(t) * K + at] * factor[t] *
                                                             in.norm_weight[at];
        }
    }

    template <class S> DEVICE void multiply(int block, const Input &in, Matrix m, const float *bias, float *out) {
        float *shared = reinterpret_cast<float *>(shared_pool());
        const int group = lane() / S::LANES, in_row = lane() % S::LANES;
        constexpr int APART = WARP / S::LANES;
        float squares[T] = {}, factor[T];
        UNROLL
        for (int t = 0; t < T; t++) factor[t] = 1.0f;
        for (int round = 0; round < ROUNDS; round++) {
            const int first = (block * ROUNDS + round) * rows_of_round<S>() + warp() * R * APART + group;
            Rows<typename S::F, K, T, R, S::LANES> rows;
            rows.begin(m, first, APART, S::ROWS - 1, in_row);
            for (int begin = 0; begin < K; begin += TILE) {
                if (begin) __syncthreads();
                if (!WHOLE || round == 0) {
                    stage_rows<T, K, TILE, NORM>(shared, in.x, begin, in.norm_weight, squares);
                    __syncthreads();
                }
                rows.template add<TILE>(shared, begin, in_row);
            }
            if (NORM && round == 0) inverse_rms<T, K, WARPS>(factor, squares, in.eps, shared + STAGED);
            UNROLL
            for (int r = 0; r < R; r++) {
                const int row = first + r * APART;
                UNROLL
                for (int t = 0; t < T; t++) {
                    float sum = rows.total(r, t) * factor[t];
                    if (in_row != (r * T + t) % S::LANES || row >= S::ROWS) continue;
                    if constexpr (S::BIAS) sum += bias[row];
                    float *to = out + static_cast<size_t>(t) * S::ROWS + row;
                    *to = ADD ? *to + sum : sum;
                }
            }
        }
        if (NORM && in.normed) keep(in, factor);
    }

    template <class S, class... Rest, class... P>
    DEVICE void biased(int block, const Input &in, const void *codes, const void *scales, const void *extra,
                       const float *bias, float *out, P... rest) {
        if (block < blocks<S>()) multiply<S>(block, in, {codes, scales, extra}, bias, out);
        else if constexpr (sizeof...(Rest) > 0) segment<Rest...>(block - blocks<S>(), in, rest...);
    }
    template <class S, class... Rest, class... P>
    DEVICE void plain(int block, const Input &in, const void *codes, const void *scales, const void *extra, float *out,
                      P... rest) {
        if (block < blocks<S>()) multiply<S>(block, in, {codes, scales, extra}, nullptr, out);
        else if constexpr (sizeof...(Rest) > 0) segment<Rest...>(block - blocks<S>(), in, rest...);
    }
    template <class S, class... Rest, class... P> DEVICE void segment(int block, const Input &in, P... pointers) {
        if constexpr (S::BIAS) biased<S, Rest...>(block, in, pointers...);
        else plain<S, Rest...>(block, in, pointers...);
    }

    // The entries: x as it is, x through the norm, and that also written down.
    template <class... S, class... P> DEVICE void of(const float *x, P... pointers) {
        segment<S...>(blockIdx.x, {x, nullptr, 0.0f, nullptr}, pointers...);
    }
    template <class... S, class... P>
    DEVICE void of_normed(const float *x, const float *norm_weight, float eps, P... pointers) {
        segment<S...>(blockIdx.x, {x, norm_weight, eps, nullptr}, pointers...);
    }
    template <class... S, class... P>
    DEVICE void of_kept(const float *x, const float *norm_weight, float eps, float *normed, P... pointers) {
        segment<S...>(blockIdx.x, {x, norm_weight, eps, normed}, pointers...);
    }
};

// R rows of a gate and the same rows of what it gates. Two formats go through a tile one after the other.
template <class G, class U, int K, int T, int R, int LANES> struct Pairs {
    Rows<G, K, T, R, LANES> gates;
    Rows<U, K, T, R, LANES> ups;

    METHOD void begin(Matrix gate, Matrix up, size_t first, int apart, size_t last, int in_row) {
        gates.begin(gate, first, apart, last, in_row);
        ups.begin(up, first, apart, last, in_row);
    }
    template <int TILE> METHOD void add(const float *shared, int begin, int in_row) {
        gates.template add<TILE>(shared, begin, in_row);
        // Else the compiler keeps what the first read of x for the second, far more than there are registers.
        __syncwarp();
        ups.template add<TILE>(shared, begin, in_row);
    }
    METHOD float gate(int r, int t) const { return gates.total(r, t); }
    METHOD float up(int r, int t) const { return ups.total(r, t); }
};

// One format: what is read of x meets both.
template <class F, int K, int T, int R, int LANES> struct Pairs<F, F, K, T, R, LANES> : Rows<F, K, T, 2 * R, LANES> {
    METHOD float gate(int r, int t) const { return this->total(2 * r, t); }
    METHOD float up(int r, int t) const { return this->total(2 * r + 1, t); }
};

// silu(gate x) * (up x): both rows of a number in one warp. LANES on a row of either matrix.
template <int T, int K, int TILE, int WARPS, int R, int ROUNDS, bool NORM, int ROWS, int LANES, class G, class U>
struct Gated {
    static constexpr int APART = WARP / LANES, OF_ROUND = WARPS * R * APART;
    static constexpr bool WHOLE = TILE >= K;
    static_assert(WHOLE || ROUNDS == 1, "x is staged once");

    DEVICE void multiply(const float *x, const float *norm_weight, float eps, Matrix gate, Matrix up, float *out) {
        float *shared = reinterpret_cast<float *>(shared_pool());
        const int in_row = lane() % LANES;
        float squares[T] = {}, factor[T];
        UNROLL
        for (int t = 0; t < T; t++) factor[t] = 1.0f;
        for (int round = 0; round < ROUNDS; round++) {
            const int first = (blockIdx.x * ROUNDS + round) * OF_ROUND + warp() * R * APART + lane() / LANES;
            Pairs<G, U, K, T, R, LANES> pairs;
            pairs.begin(gate, up, first, APART, ROWS - 1, in_row);
            for (int begin = 0; begin < K; begin += TILE) {
                if (begin) __syncthreads();
                if (!WHOLE || round == 0) {
                    stage_rows<T, K, TILE, NORM>(shared, x, begin, norm_weight, squares);
                    __syncthreads();
                }
                pairs.template add<TILE>(shared, begin, in_row);
            }
            if (NORM && round == 0) inverse_rms<T, K, WARPS>(factor, squares, eps, shared + T * staged_floats(TILE));
            UNROLL
            for (int r = 0; r < R; r++) {
                const int row = first + r * APART;
                UNROLL
                for (int t = 0; t < T; t++) {
                    const float g = pairs.gate(r, t) * factor[t], u = pairs.up(r, t) * factor[t];
                    if (in_row == (r * T + t) % LANES && row < ROWS)
                        out[static_cast<size_t>(t) * ROWS + row] = silu(g) * u;
                }
            }
        }
    }

    DEVICE void of(const float *x, const void *gate, const void *gate_scales, const void *gate_extra, const void *up,
                   const void *up_scales, const void *up_extra, float *out) {
        multiply(x, nullptr, 0.0f, {gate, gate_scales, gate_extra}, {up, up_scales, up_extra}, out);
    }
    DEVICE void of_normed(const float *x, const float *norm_weight, float eps, const void *gate,
                          const void *gate_scales, const void *gate_extra, const void *up, const void *up_scales,
                          const void *up_extra, float *out) {
        multiply(x, norm_weight, eps, {gate, gate_scales, gate_extra}, {up, up_scales, up_extra}, out);
    }
};

// Rows of a matrix as they are: out [T, K] for ids [T]; a thread takes 16 bytes of codes, block y token y. An id that
// the matrix has not (what sampling gives for logits that are no numbers) gives NaN.
template <int K, int ROWS, class F>
DEVICE void embed(const int *ids, const void *codes, const void *scales, const void *extra, float *out) {
    const int first = (blockIdx.x * blockDim.x + threadIdx.x) * F::COLUMNS, id = ids[blockIdx.y];
    if (first >= K) return;
    float *to = out + static_cast<size_t>(blockIdx.y) * K;
    if (id < 0 || id >= ROWS) {
        for (int i = first; i < K && i < first + F::COLUMNS; i++) to[i] = __uint_as_float(0x7fc00000u);
        return;
    }
    const Row<F, K> row = Row<F, K>::of({codes, scales, extra}, id);
    const uint4 word = row.load(first);
    UNROLL
    for (int i = 0; i < F::COLUMNS; i += 4) {
        float v[4];
        F::four(word, i, v);
        const float scale = row.scale(first + i), minimum = row.minimum(first + i);
        UNROLL
        for (int j = 0; j < 4; j++) v[j] = row.finish(v[j] * scale + minimum);
        if constexpr (K % 4 == 0) {
            if (first + i < K) store_four(to + first + i, {v[0], v[1], v[2], v[3]});
        } else {
            UNROLL
            for (int j = 0; j < 4; j++)
                if (first + i + j < K) to[first + i + j] = v[j];
        }
    }
}

}  // namespace laguna
