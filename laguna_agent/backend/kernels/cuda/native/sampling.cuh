// One token of each row of logits: temperature, top-k, top-p, min-p, and a draw (laguna/sampling.py).
//
//   logits ──maximum──> scaled = (logit - largest) / temperature, a mass of exp(scaled), an integer
//          ──descend by (scaled, lower id)──> the last that top-k keeps, the last that top-p keeps
//          ──descend by id──> the first at which the mass before it and its own exceed uniform * all
//
// `descend` finds where a running sum over sorted tokens reaches a limit, without sorting: it adds up the masses of
// those tokens that share the first bits of the key, by the next 11 bits, finds the bin in which the limit is reached,
// and goes on within it. Masses are integers, so the order in which atomics add them does not matter.
#pragma once

#include "platform.cuh"

namespace laguna {

using Mass = unsigned long long;

constexpr int SAMPLE_THREADS = 1024, DIGIT = 11, BINS = 1 << DIGIT;

// Larger for larger numbers, and largest for what is none; both zeros are the same.
DEVICE unsigned ordered(float x) {
    if (x != x) return 0xffffffffu;
    const unsigned bits = __float_as_uint(x + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE float unordered(unsigned key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

DEVICE constexpr int bits_for(int count) {
    int bits = 0;
    while (bits < 31 && (1 << bits) < count) bits++;
    return bits;
}

// What a block shares: the bins, what each warp has of something, and what was found.
struct Desk {
    Mass bin[BINS];
    Mass of_warp[WARP];
    Mass digit, above, within;
};

DEVICE Desk &desk() { return *reinterpret_cast<Desk *>(shared_pool()); }

// A row of V logits, and which of its tokens are still in: those whose key is `lowest` or more.
template <int V> struct Logits {
    static constexpr int ID_BITS = bits_for(V);
    const float *logits;
    float largest, temperature, min_p;
    Mass lowest;

    METHOD float scaled(int id) const { return (logits[id] - largest) / temperature; }
    // By number, and among equals the lower id first.
    METHOD Mass key(int id) const {
        return static_cast<Mass>(ordered(scaled(id))) << ID_BITS | static_cast<Mass>((1 << ID_BITS) - 1 - id);
    }
    // A token's share of the largest one's, in steps so small that V of the largest fit.
    METHOD Mass mass(int id) const {
        const float share = expf(scaled(id));
        return share < min_p ? 0 : static_cast<Mass>(static_cast<double>(share) * (1ull << (62 - ID_BITS)));
    }
};

// The sums of a thread's own mass and of those of all threads behind it, and of all threads; the whole block must come.
DEVICE void sums_behind(Mass own, Mass &behind, Mass &all) {
    Mass sum = own;
    for (int step = 1; step < WARP; step *= 2) {
        const Mass other = __shfl_down_sync(ALL_LANES, sum, step);
        if (lane() + step < WARP) sum += other;
    }
    if (lane() == 0) desk().of_warp[warp()] = sum;
    __syncthreads();
    all = 0, behind = sum;
    for (int w = 0; w < SAMPLE_THREADS / WARP; w++) {
        all += desk().of_warp[w];
        if (w > warp()) behind += desk().of_warp[w];
    }
}

// What a descent does with each token.
struct ByCount {
    static constexpr bool BY_ID = false;
    Mass most;
    template <int V> METHOD Mass mass(const Logits<V> &, int) const { return 1; }
    METHOD Mass limit(Mass) const { return most; }
};

struct ByMass {
    static constexpr bool BY_ID = false;
    float top_p;
    template <int V> METHOD Mass mass(const Logits<V> &row, int id) const { return row.mass(id); }
    // Those stay before whom there is less than top_p of it all.
    METHOD Mass limit(Mass all) const {
        const double part = static_cast<double>(top_p) * static_cast<double>(all);
        const Mass whole = static_cast<Mass>(part);
        return whole + (static_cast<double>(whole) < part);
    }
};

struct Draw {
    static constexpr bool BY_ID = true;
    float uniform;
    template <int V> METHOD Mass mass(const Logits<V> &row, int id) const { return row.mass(id); }
    // A uniform number that was rounded to 1 draws the last token that has a mass.
    METHOD Mass limit(Mass all) const {
        return static_cast<Mass>(static_cast<double>(uniform) * static_cast<double>(all)) + 1;
    }
};

// Of the tokens that are in, by falling key (of a draw: by rising id): the key of the one at which the sum of masses
// reaches the limit. `limit` makes that of the sum of all, it is at least 1, and at most all.
template <int V, class By> DEVICE Mass descend(const Logits<V> &row, const By &by) {
    constexpr int ID_BITS = Logits<V>::ID_BITS, BITS = By::BY_ID ? ID_BITS : 32 + ID_BITS;
    Mass prefix = 0, above = 0, limit = 0;
    for (int left = BITS; left > 0;) {
        const int width = min(left, DIGIT), rest = left - width;
        for (int i = threadIdx.x; i < BINS; i += blockDim.x) desk().bin[i] = 0;
        __syncthreads();
        for (int id = threadIdx.x; id < V; id += blockDim.x) {
            const Mass key = row.key(id), by_id = static_cast<Mass>((1 << ID_BITS) - 1 - id);
            const Mass sorted = By::BY_ID ? by_id : key;
            if (key >= row.lowest && sorted >> left == prefix)
                atomicAdd(&desk().bin[sorted >> rest & ((1 << width) - 1)], by.mass(row, id));
        }
        __syncthreads();
        const Mass low = desk().bin[2 * threadIdx.x], high = desk().bin[2 * threadIdx.x + 1];
        Mass behind, all;
        sums_behind(low + high, behind, all);
        if (left == BITS) {
            limit = by.limit(all);
            limit = limit < 1 ? 1 : limit > all ? all : limit;
        }
        // The sums with and before these two bins, of all that is larger: one thread has the bin that reaches it.
        const Mass with_low = above + behind, with_high = with_low - low, before = with_high - high;
        if (before < limit && limit <= with_high)
            desk().digit = 2 * threadIdx.x + 1, desk().above = before, desk().within = high;
        if (with_high < limit && limit <= with_low)
            desk().digit = 2 * threadIdx.x, desk().above = with_high, desk().within = low;
        __syncthreads();
        prefix = prefix << width | desk().digit, left = rest, above = desk().above;
        // All of the bin is in: what else is decided by its other bits?
        if (!By::BY_ID && above + desk().within == limit) return prefix << left;
    }
    return prefix;
}

// The largest logit and the first id that has it, as one number: 0 ids behind it.
template <int V> DEVICE Mass first_largest(const float *logits) {
    Mass best = 0;
    for (int id = threadIdx.x; id < V; id += blockDim.x) {
        const Mass mine = static_cast<Mass>(ordered(logits[id])) << 32 | (0x7fffffff - id);
        best = mine > best ? mine : best;
    }
    for (int step = WARP / 2; step; step /= 2) {
        const Mass other = __shfl_xor_sync(ALL_LANES, best, step);
        best = other > best ? other : best;
    }
    if (lane() == 0) desk().of_warp[warp()] = best;
    __syncthreads();
    for (int w = 0; w < SAMPLE_THREADS / WARP; w++) best = desk().of_warp[w] > best ? desk().of_warp[w] : best;
    return best;
}

// settings [T, 4]: temperature (0: the first largest), top_p, min_p, and a uniform number of [0, 1]; top_k [T], 0: all.
// A block of SAMPLE_THREADS for each row. out [T]: the id, or -1 where the largest logit is no finite number.
template <int V> DEVICE void sample(const float *logits, const float *settings, const int *top_k, int *out) {
    const int t = blockIdx.x;
    const float *setting = settings + 4 * t;
    logits += static_cast<size_t>(t) * V;
    const Mass first = first_largest<V>(logits);
    Logits<V> row = {logits, unordered(static_cast<unsigned>(first >> 32)), setting[0], setting[2], 0};
    int chosen = 0x7fffffff - static_cast<int>(first & 0x7fffffff);
    if (!(fabsf(row.largest) <= 3.402823466e38f)) {
        chosen = -1;
    } else if (row.temperature != 0.0f) {
        const float min_p = row.min_p;
        row.min_p = 0.0f;
        if (top_k[t] > 0 && top_k[t] < V) row.lowest = descend(row, ByCount{static_cast<Mass>(top_k[t])});
        if (setting[1] < 1.0f) row.lowest = descend(row, ByMass{setting[1]});
        row.min_p = min_p;
        chosen = (1 << Logits<V>::ID_BITS) - 1 - static_cast<int>(descend(row, Draw{setting[3]}));
    }
    if (threadIdx.x == 0) out[t] = chosen;
}

}  // namespace laguna
