// What the shim cannot see: whether a GPU's own instructions do what their twins on a CPU do. Each kernel lays a few of
// platform.cuh's functions, or the codes of a format, out as numbers; a GPU is right where they are those of torch.
#pragma once

#include "formats.cuh"

namespace laguna {

DEVICE int thread_of_all() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Every f16 number as fp32, two of a word at a time: out[65536].
DEVICE void probe_halves(float *out) {
    const unsigned first = 2 * thread_of_all();
    const float2 both = halves(first | (first + 1) << 16);
    out[first] = both.x, out[first + 1] = both.y;
}

// The nearest f16 of N numbers, as bits; 0x7e00 for what is no number, of which there are many.
template <int N> DEVICE void probe_half_of(const float *x, int *out) {
    const int i = thread_of_all();
    if (i >= N) return;
    const unsigned short bits = half_of(x[i]);
    out[i] = (bits & 0x7fff) > 0x7c00 ? 0x7e00 : bits;
}

// The numbers that N loads of 16 bytes hold: out[N * COLUMNS]. Denormals must not become zeros on the way.
template <class F, int N> DEVICE void probe_codes(const unsigned char *codes, float *out) {
    const int i = thread_of_all();
    if (i >= N) return;
    const uint4 word = load_once(codes + i * 16);
    UNROLL
    for (int c = 0; c < F::COLUMNS; c += 4) {
        float v[4];
        F::four(word, c, v);
        UNROLL
        for (int j = 0; j < 4; j++) out[i * F::COLUMNS + c + j] = v[j];
    }
}

// Sums over 2, 4, 8, 16 and 32 neighbouring lanes, and the largest of 4 and of 32: out[7 * N] of x[N], whole warps.
template <int N> DEVICE void probe_lanes(const float *x, float *out) {
    const int i = thread_of_all();
    const float value = x[i];
    const float found[7] = {lane_sum<2>(value),  lane_sum<4>(value), lane_sum<8>(value), lane_sum<16>(value),
                            lane_sum<32>(value), lane_max<4>(value), lane_max<32>(value)};
    UNROLL
    for (int at = 0; at < 7; at++) out[at * N + i] = found[at];
}

// Silu, softplus and 1 / sqrt(|x|) of N numbers: out[3 * N].
template <int N> DEVICE void probe_functions(const float *x, float *out) {
    const int i = thread_of_all();
    if (i >= N) return;
    const float value = x[i];
    out[i] = silu(value), out[N + i] = softplus(value), out[2 * N + i] = rsqrtf(fabsf(value));
}

// Blocks of 4 * THREADS numbers backwards, in fours through shared memory: out[N] of x[N].
template <int N, int THREADS> DEVICE void probe_mirror(const float *x, float *out) {
    float *shared = reinterpret_cast<float *>(shared_pool());
    const size_t begin = static_cast<size_t>(blockIdx.x) * 4 * THREADS;
    const uint4 word = load_cached(x + begin + 4 * threadIdx.x);
    const unsigned bits[4] = {word.x, word.y, word.z, word.w};
    UNROLL
    for (int i = 0; i < 4; i++) shared[4 * (THREADS - 1 - threadIdx.x) + 3 - i] = __uint_as_float(bits[i]);
    __syncthreads();
    const float4 four = load_four(shared + 4 * threadIdx.x);
    float *to = out + begin + 4 * threadIdx.x;
    to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
}

}  // namespace laguna
