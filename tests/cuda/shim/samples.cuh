// Kernels of a few lines, right ones and wrong ones: what the shim must let pass and what it must notice. Each writes
// one number per thread of its block to `out`.
#pragma once

#include "platform.cuh"

namespace samples {

using namespace laguna;

DEVICE float *pool() { return reinterpret_cast<float *>(shared_pool()); }

// out[i] = x[last - i], through shared memory.
template <bool BARRIER> DEVICE void reversed(const float *x, float *out) {
    pool()[threadIdx.x] = x[threadIdx.x];
    if (BARRIER) __syncthreads();
    out[threadIdx.x] = pool()[blockDim.x - 1 - threadIdx.x];
}

// The sum of three reversals, one after the other through the same memory: a loop needs a second barrier.
template <bool SECOND> DEVICE void thrice(const float *x, float *out) {
    float sum = 0.0f;
    for (int round = 1; round <= 3; round++) {
        pool()[threadIdx.x] = x[threadIdx.x] * round;
        __syncthreads();
        sum += pool()[blockDim.x - 1 - threadIdx.x];
        if (SECOND) __syncthreads();
    }
    out[threadIdx.x] = sum;
}

// Neighbours of one warp exchange through shared memory.
template <bool SYNC> DEVICE void neighbours(const float *x, float *out) {
    pool()[threadIdx.x] = x[threadIdx.x];
    if (SYNC) __syncwarp();
    out[threadIdx.x] = pool()[threadIdx.x ^ 1];
}

DEVICE void warp_sums(const float *x, float *out) { out[threadIdx.x] = lane_sum<WARP>(x[threadIdx.x]); }

// The halves of each warp apart, at different places in the program.
DEVICE void halves_apart(const float *x, float *out) {
    const float mine = x[threadIdx.x];
    if (lane() < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, mine, 3);
    else out[threadIdx.x] = __shfl_sync(0xffff0000u, mine, 20);
}

DEVICE void votes(const float *x, float *out) {
    const unsigned large = __ballot_sync(ALL_LANES, x[threadIdx.x] > 7.0f);
    const bool any = __any_sync(ALL_LANES, x[threadIdx.x] < 0.0f), all = __all_sync(ALL_LANES, x[threadIdx.x] >= 0.0f);
    out[threadIdx.x] = __popc(large) + 100 * any + 1000 * all;
}

// One warp at one barrier, the other at another.
DEVICE void two_barriers(const float *x, float *out) {
    if (warp() == 0) __syncthreads();
    else __syncthreads();
    out[threadIdx.x] = x[threadIdx.x];
}

// A barrier that half of the threads pass by.
DEVICE void half_a_barrier(const float *x, float *out) {
    if (lane() < 16) __syncthreads();
    out[threadIdx.x] = x[threadIdx.x];
}

// Lanes that the mask does not name take part.
DEVICE void narrow_mask(const float *x, float *out) { out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 1); }

// The mask names lanes that take no part.
DEVICE void wide_mask(const float *x, float *out) {
    out[threadIdx.x] = x[threadIdx.x];
    if (lane() < 16) out[threadIdx.x] = __shfl_xor_sync(ALL_LANES, x[threadIdx.x], 1);
}

// A value is taken from a lane that brings none.
DEVICE void absent_lane(const float *x, float *out) {
    out[threadIdx.x] = x[threadIdx.x];
    if (lane() < 16) out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, x[threadIdx.x], 16);
}

// One warp's lanes at two shuffles.
DEVICE void two_shuffles(const float *x, float *out) {
    if (lane() < 16) out[threadIdx.x] = __shfl_sync(ALL_LANES, x[threadIdx.x], 3);
    else out[threadIdx.x] = __shfl_sync(ALL_LANES, x[threadIdx.x], 20);
}

template <int AWAY> DEVICE void shared_overrun(const float *x, float *out) {
    pool()[static_cast<int>(threadIdx.x) + AWAY] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = x[threadIdx.x];
}

template <int AWAY> DEVICE void global_overrun(const float *x, float *out) {
    out[threadIdx.x] = x[static_cast<int>(threadIdx.x) + AWAY];
}

template <int AWAY> DEVICE void misaligned(const float *x, float *out) {
    const uint4 word = load_once(x + AWAY);
    out[threadIdx.x] = __uint_as_float(word.x);
}

// A thread's own array is too short by one.
template <int COUNT> DEVICE void local_overrun(const float *x, float *out) {
    float mine[8];
    for (int i = 0; i < COUNT; i++) mine[i] = x[(threadIdx.x + i) % 8];
    __syncwarp();
    float sum = 0.0f;
    for (int i = 0; i < COUNT; i++) sum += mine[i];
    out[threadIdx.x] = sum;
}

// A word moved by more bits than it has.
template <int BITS> DEVICE void moved(const float *x, float *out) {
    out[threadIdx.x] = 1 << (static_cast<int>(x[threadIdx.x]) % 2 * BITS);
}

// In which order threads come first: order[t] counts those that came before.
DEVICE void arrivals(int *counter, float *out) { out[threadIdx.x] = atomicAdd(counter, 1); }

// In which order blocks come.
DEVICE void block_arrivals(int *counter, float *out) {
    if (threadIdx.x == 0) out[blockIdx.x + 4 * blockIdx.y] = atomicAdd(counter, 1);
}

}  // namespace samples
