// Decode attention: keys and values into the cache, the keys that a token sees in pieces, and the pieces joined.
//
//   q, k, v ──place──> q turned, cache   ──attend──> partial [T, heads, SPLITS, 2 + D]   ──merge──> out [T, heads, D]
//
// A row is a token; rows may belong to different sequences. Each has up to MOST_RUNS runs of keys, none if it is dead.
#pragma once

#include "kv.cuh"

namespace laguna {

DEVICE float minus_infinity() { return __uint_as_float(0xff800000u); }

// What the weights relative to the largest score of a part are multiplied by when the largest of all is `whole`.
DEVICE float rescaled(float part, float whole) { return expf(part - (whole == minus_infinity() ? 0.0f : whole)); }

// ---- place: one warp for each head of q, k and v of each row; grid (blocks of warps, T) ----

constexpr int PLACE_WARPS = 4;

// x / rms(x) * weight over a head; column lane + 32 i is x[i].
template <int D> DEVICE void normalise(float (&x)[ceil_div(D, WARP)], const float *weight, float eps) {
    float squares = 0.0f;
    UNROLL
    for (int i = 0; i < ceil_div(D, WARP); i++) squares = fmaf(x[i], x[i], squares);
    const float factor = rsqrtf(lane_sum<WARP>(squares) / D + eps);
    UNROLL
    for (int i = 0; i < ceil_div(D, WARP); i++) {
        const int column = lane() + i * WARP;
        if (column < D) x[i] = weight[column] * (x[i] * factor);
    }
}

// Turn the first ROTARY columns, column i with i + ROTARY / 2. They meet in `shared`, D floats of this warp.
template <int D, int ROTARY>
DEVICE void turn(float (&x)[ceil_div(D, WARP)], float *shared, const float *cos, const float *sin) {
    constexpr int HALF = ROTARY / 2;
    UNROLL
    for (int i = 0; i < ceil_div(D, WARP); i++)
        if (lane() + i * WARP < D) shared[lane() + i * WARP] = x[i];
    __syncwarp();
    UNROLL
    for (int i = 0; i < ceil_div(D, WARP); i++) {
        const int column = lane() + i * WARP;
        if (column < HALF) x[i] = x[i] * cos[column] - shared[column + HALF] * sin[column];
        else if (column < ROTARY) x[i] = x[i] * cos[column - HALF] + shared[column - HALF] * sin[column - HALF];
    }
}

// Encode one head of a row into its slot.
template <class KV, int D>
DEVICE void keep(const float (&x)[ceil_div(D, WARP)], unsigned char *codes, float *scales, size_t slot) {
    float divisor = 1.0f;
    if constexpr (KV::SCALED) {
        // The bits of numbers without a sign are in their order, and NaN is the largest: it must not get lost.
        int largest = 0;
        UNROLL
        for (int i = 0; i < ceil_div(D, WARP); i++)
            largest = max(largest, static_cast<int>(__float_as_uint(fabsf(x[i]))));
        UNROLL
        for (int step = WARP / 2; step; step /= 2) largest = max(largest, __shfl_xor_sync(ALL_LANES, largest, step));
        const float scale = __uint_as_float(largest) / KV::LARGEST;
        if (lane() == 0) scales[slot] = scale;
        divisor = scale < 1e-30f ? 1e-30f : scale;
    }
    unsigned char *row = codes + slot * D * KV::BYTES;
    UNROLL
    for (int i = 0; i < ceil_div(D, WARP); i++) {
        const int column = lane() + i * WARP;
        if (column < D) KV::store(row, column, KV::SCALED ? x[i] / divisor : x[i]);
    }
}

template <class KV, int HEADS, int KV_HEADS, int D, int ROTARY, bool NORMS>
DEVICE void place(float *q, const float *k, const float *v, const float *cos, const float *sin, const long long *runs,
                  const int *counts, const int *positions, const float *q_norm = nullptr,
                  const float *k_norm = nullptr, float eps = 0.0f) {
    const int t = blockIdx.y, item = blockIdx.x * PLACE_WARPS + warp();
    if (item >= HEADS + 2 * KV_HEADS || counts[t] == 0) return;
    const bool of_q = item < HEADS, of_v = item >= HEADS + KV_HEADS;
    const int head = of_q ? item : of_v ? item - HEADS - KV_HEADS : item - HEADS;
    const size_t begin = (static_cast<size_t>(t) * (of_q ? HEADS : KV_HEADS) + head) * D;
    const float *from = (of_q ? q : of_v ? v : k) + begin;
    float x[ceil_div(D, WARP)];
    UNROLL
    for (int i = 0; i < ceil_div(D, WARP); i++) x[i] = lane() + i * WARP < D ? from[lane() + i * WARP] : 0.0f;
    if (!of_v) {
        if (NORMS) normalise<D>(x, of_q ? q_norm : k_norm, eps);
        float *shared = reinterpret_cast<float *>(shared_pool()) + warp() * D;
        turn<D, ROTARY>(x, shared, cos + t * (ROTARY / 2), sin + t * (ROTARY / 2));
    }
    if (of_q) {
        UNROLL
        for (int i = 0; i < ceil_div(D, WARP); i++)
            if (lane() + i * WARP < D) q[begin + lane() + i * WARP] = x[i];
        return;
    }
    const KeyRun run = KeyRun::of(runs, t, counts[t] - 1);
    const size_t slot = head * run.slots + static_cast<size_t>(positions[t] - run.first);
    keep<KV, D>(x, of_v ? run.v : run.k, of_v ? run.v_scale : run.k_scale, slot);
}

// ---- attend: a block for each KV head, piece and row; grid (KV_HEADS, SPLITS, T) ----
//
// LANES lanes read one key, 16 bytes each, and then its value; all query heads of the KV head are worked out from
// these. HELD heads fit into a lane's registers; where there are more, SETS sets of WARPS warps take HELD each, and
// read the same keys at the same time.

constexpr int KEYS = 2, PIECE = 32;

// How a head's D numbers lie over LANES lanes, and in shared memory: of each load its first four columns side by side,
// then its next four, so that lanes that read four columns of their loads touch every bank once.
template <class KV, int D, int LANES> struct Lay {
    static constexpr int COLUMNS = KV::Loaded::COLUMNS, LOADS = D / COLUMNS, EACH = ceil_div(LOADS, LANES);
    static constexpr int OWN = EACH * COLUMNS, STAGED = LANES * OWN;
    static_assert(D % COLUMNS == 0, "rows of keys are whole loads");
    DEVICE int staged(int load, int part) { return (part * LANES * EACH + load) * 4; }
    DEVICE int staged(int column) { return staged(column / COLUMNS, column % COLUMNS / 4) + column % 4; }
    // The number of this lane's load j within a row.
    DEVICE int load(int j) { return j * LANES + lane() % LANES; }
};

// What was made of some keys for HELD heads: their largest score, and relative to it the sum of the weights and the
// values times these.
template <int HELD, int OWN> struct Seen {
    float largest[HELD], sum[HELD], value[HELD][OWN];

    METHOD void clear() {
        UNROLL
        for (int g = 0; g < HELD; g++) {
            largest[g] = minus_infinity(), sum[g] = 0.0f;
            UNROLL
            for (int c = 0; c < OWN; c++) value[g][c] = 0.0f;
        }
    }
    // Join what the lanes `step` apart have; both have it all afterwards.
    METHOD void join(int step) {
        UNROLL
        for (int g = 0; g < HELD; g++) {
            const float whole = fmaxf(largest[g], __shfl_xor_sync(ALL_LANES, largest[g], step));
            const float factor = rescaled(largest[g], whole);
            largest[g] = whole, sum[g] *= factor;
            sum[g] += __shfl_xor_sync(ALL_LANES, sum[g], step);
            UNROLL
            for (int c = 0; c < OWN; c++) {
                value[g][c] *= factor;
                value[g][c] += __shfl_xor_sync(ALL_LANES, value[g][c], step);
            }
        }
    }
};

// The KEYS keys or values that a group of lanes works on at a time, as they are stored.
template <class KV, int D, int LANES, bool SHARED> struct Words {
    using L = Lay<KV, D, LANES>;
    uint4 word[KEYS][L::EACH];
    float scale[KEYS];

    // Every GROUPS-th of `count` rows from `at` on; zeros where there are no more.
    template <int GROUPS> METHOD void read(const unsigned char *rows, const float *scales, int at, int count) {
        UNROLL
        for (int n = 0; n < KEYS; n++) {
            const int row = at + n * GROUPS;
            UNROLL
            for (int j = 0; j < L::EACH; j++) {
                word[n][j] = {0, 0, 0, 0};
                const unsigned char *from = rows + static_cast<size_t>(row) * (D * KV::BYTES) + L::load(j) * 16;
                // Bytes that another set of warps reads too stay in the first-level cache.
                if (row < count && L::load(j) < L::LOADS) word[n][j] = SHARED ? load_cached(from) : load_once(from);
            }
            scale[n] = 1.0f;
            if constexpr (KV::SCALED) scale[n] = row < count ? scales[row] : 0.0f;
        }
    }
    // Four of the lane's own numbers of key n, from its own column c on, a multiple of 4.
    METHOD void four(int n, int c, float (&v)[4]) const {
        KV::Loaded::four(word[n][c / L::COLUMNS], c % L::COLUMNS, v);
    }
};

// The products of the staged queries and KEYS keys, on each of the LANES lanes.
template <class KV, int D, int LANES, int HELD, bool SHARED>
DEVICE void multiply(float (&score)[HELD][KEYS], const Words<KV, D, LANES, SHARED> &keys, const float *queries) {
    using L = Lay<KV, D, LANES>;
    UNROLL
    for (int g = 0; g < HELD; g++) {
        UNROLL
        for (int n = 0; n < KEYS; n++) score[g][n] = 0.0f;
    }
    UNROLL
    for (int c = 0; c < L::OWN; c += 4) {
        float k[KEYS][4];
        UNROLL
        for (int n = 0; n < KEYS; n++) keys.four(n, c, k[n]);
        UNROLL
        for (int g = 0; g < HELD; g++) {
            const int at = L::staged(L::load(c / L::COLUMNS), c % L::COLUMNS / 4);
            const float4 q = load_four(queries + g * L::STAGED + at);
            UNROLL
            for (int n = 0; n < KEYS; n++) {
                score[g][n] = fmaf(q.x, k[n][0], score[g][n]), score[g][n] = fmaf(q.y, k[n][1], score[g][n]);
                score[g][n] = fmaf(q.z, k[n][2], score[g][n]), score[g][n] = fmaf(q.w, k[n][3], score[g][n]);
            }
        }
    }
    UNROLL
    for (int g = 0; g < HELD; g++) {
        UNROLL
        for (int n = 0; n < KEYS; n++) score[g][n] = lane_sum<LANES>(score[g][n]);
    }
}

// See `count` keys of one run, from `slot` of its KV head on. The groups of a set take turns.
template <class KV, int D, int LANES, int WARPS, int HELD, bool SHARED>
DEVICE void see(Seen<HELD, Lay<KV, D, LANES>::OWN> &seen, const KeyRun &run, size_t slot, int count,
                const float *queries) {
    constexpr int OWN = Lay<KV, D, LANES>::OWN, GROUPS = WARPS * (WARP / LANES);
    const unsigned char *k = run.k + slot * (D * KV::BYTES), *v = run.v + slot * (D * KV::BYTES);
    const float *k_scale = KV::SCALED ? run.k_scale + slot : nullptr;
    const float *v_scale = KV::SCALED ? run.v_scale + slot : nullptr;
    const int group = warp() % WARPS * (WARP / LANES) + lane() / LANES;
    for (int at = group; at - group < count; at += GROUPS * KEYS) {
        Words<KV, D, LANES, SHARED> keys, values;
        keys.template read<GROUPS>(k, k_scale, at, count);
        values.template read<GROUPS>(v, v_scale, at, count);
        float score[HELD][KEYS];
        multiply<KV, D, LANES, HELD, SHARED>(score, keys, queries);
        UNROLL
        for (int g = 0; g < HELD; g++) {
            float whole = seen.largest[g];
            UNROLL
            for (int n = 0; n < KEYS; n++) {
                score[g][n] = at + n * GROUPS < count ? score[g][n] * keys.scale[n] : minus_infinity();
                whole = fmaxf(whole, score[g][n]);
            }
            const float factor = rescaled(seen.largest[g], whole);
            seen.largest[g] = whole, seen.sum[g] *= factor;
            UNROLL
            for (int c = 0; c < OWN; c++) seen.value[g][c] *= factor;
            UNROLL
            for (int n = 0; n < KEYS; n++) {
                score[g][n] = rescaled(score[g][n], whole);
                seen.sum[g] += score[g][n], score[g][n] *= values.scale[n];
            }
        }
        UNROLL
        for (int n = 0; n < KEYS; n++) {
            UNROLL
            for (int c = 0; c < OWN; c += 4) {
                float number[4];
                values.four(n, c, number);
                UNROLL
                for (int g = 0; g < HELD; g++) {
                    UNROLL
                    for (int i = 0; i < 4; i++)
                        seen.value[g][c + i] = fmaf(score[g][n], number[i], seen.value[g][c + i]);
                }
            }
        }
    }
}

// Write what a warp has seen to shared memory, a head after the other, each STAGED numbers and 4 for largest and sum.
template <class KV, int D, int LANES, int HELD>
DEVICE void leave(const Seen<HELD, Lay<KV, D, LANES>::OWN> &seen, float *shared) {
    using L = Lay<KV, D, LANES>;
    if (lane() >= LANES) return;
    UNROLL
    for (int g = 0; g < HELD; g++) {
        float *to = shared + g * (L::STAGED + 4);
        if (lane() == 0) to[L::STAGED] = seen.largest[g], to[L::STAGED + 1] = seen.sum[g];
        UNROLL
        for (int c = 0; c < L::OWN; c += 4) {
            const float *v = seen.value[g] + c;
            store_four(to + L::staged(L::load(c / L::COLUMNS), c % L::COLUMNS / 4), {v[0], v[1], v[2], v[3]});
        }
    }
}

template <class KV, int HEADS, int KV_HEADS, int D, int WINDOW, int SPLITS, int SETS, int WARPS, int LANES>
DEVICE void attend(const float *q, const long long *runs, const int *counts, const int *positions, float *partial) {
    using L = Lay<KV, D, LANES>;
    constexpr int GROUP = HEADS / KV_HEADS, HELD = ceil_div(GROUP, SETS), LEFT = L::STAGED + 4;
    const int kv_head = blockIdx.x, split = blockIdx.y, t = blockIdx.z;
    float *shared = reinterpret_cast<float *>(shared_pool());
    const size_t head = static_cast<size_t>(t) * HEADS + kv_head * GROUP;
    const float scale = 1.0f / sqrtf(static_cast<float>(D));
    for (int i = threadIdx.x; i < SETS * HELD * L::STAGED; i += blockDim.x) {
        const int g = i / L::STAGED, column = i % L::STAGED;
        const bool real = g < GROUP && column < D;
        shared[g * L::STAGED + L::staged(column)] = real ? q[(head + g) * D + column] * scale : 0.0f;
    }
    __syncthreads();

    const int position = positions[t], low = WINDOW && position >= WINDOW ? position - WINDOW + 1 : 0;
    const int each = ceil_div(ceil_div(position + 1 - low, SPLITS), PIECE) * PIECE;
    const long long begin = low + static_cast<long long>(split) * each, end = min(begin + each, position + 1LL);
    const float *queries = shared + warp() / WARPS * (HELD * L::STAGED);
    Seen<HELD, L::OWN> seen;
    seen.clear();
    for (int r = 0; r < counts[t]; r++) {
        const KeyRun run = KeyRun::of(runs, t, r);
        const long long from = max(begin, run.first), to = min(end, run.first + run.count);
        const size_t slot = kv_head * run.slots + static_cast<size_t>(from - run.first);
        if (from < to)
            see<KV, D, LANES, WARPS, HELD, (SETS > 1)>(seen, run, slot, static_cast<int>(to - from), queries);
    }
    for (int step = LANES; step < WARP; step *= 2) seen.join(step);
    __syncthreads();
    leave<KV, D, LANES, HELD>(seen, shared + warp() * (HELD * LEFT));
    __syncthreads();

    for (int i = threadIdx.x; i < GROUP * D; i += blockDim.x) {
        const int g = i / D, column = i % D;
        const float *parts = shared + (g / HELD * WARPS * HELD + g % HELD) * LEFT;
        float whole = minus_infinity(), sum = 0.0f, value = 0.0f;
        UNROLL
        for (int w = 0; w < WARPS; w++) whole = fmaxf(whole, parts[w * HELD * LEFT + L::STAGED]);
        UNROLL
        for (int w = 0; w < WARPS; w++) {
            const float *part = parts + w * HELD * LEFT;
            const float factor = rescaled(part[L::STAGED], whole);
            sum = fmaf(factor, part[L::STAGED + 1], sum);
            value = fmaf(factor, part[L::staged(column)], value);
        }
        float *to = partial + ((head + g) * SPLITS + split) * (D + 2);
        if (column == 0) to[0] = whole, to[1] = sum;
        to[2 + column] = value;
    }
}

// ---- merge: a block for each head and row, a thread for each column; grid (HEADS, T) ----

// GATE rows of the gate belong to a head: 0 (no gate), 1 or D.
template <int HEADS, int D, int SPLITS, int GATE>
DEVICE void merge(const float *partial, float *out, const float *gate = nullptr) {
    const size_t head = static_cast<size_t>(blockIdx.y) * HEADS + blockIdx.x;
    const float *pieces = partial + head * SPLITS * (D + 2);
    // Of each piece its part in the whole, and behind these the whole sum.
    float *part = reinterpret_cast<float *>(shared_pool());
    if (warp() == 0) {
        float whole = minus_infinity(), sum = 0.0f;
        for (int s = lane(); s < SPLITS; s += WARP) whole = fmaxf(whole, pieces[s * (D + 2)]);
        whole = lane_max<WARP>(whole);
        for (int s = lane(); s < SPLITS; s += WARP) {
            part[s] = rescaled(pieces[s * (D + 2)], whole);
            sum = fmaf(part[s], pieces[s * (D + 2) + 1], sum);
        }
        sum = lane_sum<WARP>(sum);
        if (lane() == 0) part[SPLITS] = sum;
    }
    __syncthreads();
    const int column = threadIdx.x;
    if (column >= D) return;
    float value = 0.0f;
    for (int s = 0; s < SPLITS; s++) value = fmaf(part[s], pieces[s * (D + 2) + 2 + column], value);
    value = part[SPLITS] == 0.0f ? 0.0f : value / part[SPLITS];
    if constexpr (GATE != 0) value *= softplus(gate[head * GATE + (GATE == 1 ? 0 : column)]);
    out[head * D + column] = value;
}

}  // namespace laguna
