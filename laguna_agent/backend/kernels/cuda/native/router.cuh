// Which experts a token goes to (section 2i): sigmoid scores, the best of score plus bias, and the share of each.
//
//   block t: one warp      logits [E] ──every 32nd to a lane──> score + bias as an integer that sorts alike, registers
//     K times:  best of a lane ──five shuffles──> best of all (equals: the lowest expert) ──> lane `place` keeps it,
//               its owner strikes it out
//   lanes 0..K-1: score of theirs ──lane_sum──> / sum ──> share [K]
#pragma once

#include "platform.cuh"

namespace laguna {

// An integer that is larger where `x` is; no number is the largest. Never 0. (The sum of a score and a bias is never
// -0, which would come before 0 here.)
DEVICE unsigned order_of(float x) {
    const unsigned bits = __float_as_uint(x);
    if (x != x) return 0xffffffffu;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE float score_of(float logit, float softcap) {
    const float capped = softcap != 0.0f ? softcap * tanhf(logit / softcap) : logit;
    return 1.0f / (1.0f + expf(-capped));
}

// The largest over the warp, on each lane.
DEVICE unsigned long long warp_most(unsigned long long x) {
    UNROLL
    for (int step = WARP / 2; step; step /= 2) {
        const unsigned long long other = __shfl_xor_sync(ALL_LANES, x, step);
        x = other > x ? other : x;
    }
    return x;
}

// logits [T, E], bias [E] -> picked, share [T, K]; a block of one warp is a token. Best first. The bias counts in the
// choice only.
template <int E, int K, bool NORMALIZE>
DEVICE void pick(const float *logits, const float *bias, float softcap, int *picked, float *share) {
    static_assert(K <= E && K <= WARP, "a lane keeps one of the experts that were picked");
    constexpr int EACH = ceil_div(E, WARP);
    const float *mine = logits + static_cast<size_t>(blockIdx.x) * E;
    unsigned order[EACH];
    UNROLL
    for (int i = 0; i < EACH; i++) {
        const int expert = i * WARP + lane();
        order[i] = expert < E ? order_of(score_of(mine[expert], softcap) + bias[expert]) : 0;
    }
    int chosen = 0;
    for (int place = 0; place < K; place++) {
        unsigned best = 0;
        int at = 0;
        UNROLL
        for (int i = 0; i < EACH; i++)
            if (order[i] > best) best = order[i], at = i;
        // Among equals the lowest expert has the largest complement.
        const unsigned expert = at * WARP + lane();
        const unsigned long long most = warp_most(static_cast<unsigned long long>(best) << 32 | (0xffffffffu - expert));
        const int winner = static_cast<int>(0xffffffffu - static_cast<unsigned>(most));
        if (lane() == place) chosen = winner;
        UNROLL
        for (int i = 0; i < EACH; i++)
            if (i * WARP + lane() == winner) order[i] = 0;
    }
    float score = lane() < K ? score_of(mine[chosen], softcap) : 0.0f;
    if (NORMALIZE) score /= lane_sum<WARP>(score);
    if (lane() < K) {
        picked[blockIdx.x * K + lane()] = chosen;
        share[blockIdx.x * K + lane()] = score;
    }
}

}  // namespace laguna
