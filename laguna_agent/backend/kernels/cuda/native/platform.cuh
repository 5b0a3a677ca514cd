// What a GPU offers and a CPU does not. The shim of tests/cuda has a twin of everything here and of nothing else, so
// whatever is written in another way than through these few functions is verified as it stands.
#pragma once

#ifndef LAGUNA_SHIM
#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define UNROLL _Pragma("unroll")

namespace laguna {

// 16 bytes that are read once: they pass by the first-level cache. `from` is aligned to 16 bytes.
DEVICE uint4 load_once(const void *from) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

// 16 bytes of memory that this very kernel does not write, cached. `from` is aligned to 16 bytes.
DEVICE uint4 load_cached(const void *from) { return __ldg(static_cast<const uint4 *>(from)); }

// Four neighbours in shared or global memory that may be written by this kernel; aligned to 16 bytes.
DEVICE float4 load_four(const float *from) { return *reinterpret_cast<const float4 *>(from); }

// Their counterpart: four neighbours at once, for a lane that writes them one by one meets its neighbours' banks.
DEVICE void store_four(float *to, float4 v) { *reinterpret_cast<float4 *>(to) = v; }

// Two f16 numbers of a word, the lower half first.
DEVICE float2 halves(unsigned pair) {
    float2 v;
    asm("{.reg .f16 a,b; mov.b32 {a,b}, %2; cvt.f32.f16 %0,a; cvt.f32.f16 %1,b;}" : "=f"(v.x), "=f"(v.y) : "r"(pair));
    return v;
}

// The nearest f16 (ties to even), as bits.
DEVICE unsigned short half_of(float x) {
    unsigned short v;
    asm("{.reg .f16 a; cvt.rn.f16.f32 a, %1; mov.b16 %0, a;}" : "=h"(v) : "f"(x));
    return v;
}

// The block's dynamic shared memory, aligned to 16 bytes.
DEVICE unsigned char *shared_pool() {
    extern __shared__ __align__(16) unsigned char laguna_shared_pool[];
    return laguna_shared_pool;
}

}  // namespace laguna
#endif

namespace laguna {

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int WARP = 32;

DEVICE int lane() { return threadIdx.x & (WARP - 1); }
DEVICE int warp() { return threadIdx.x / WARP; }

// The sum over groups of LANES neighbouring lanes (a power of two), on each of them; the whole warp must take part.
template <int LANES> DEVICE float lane_sum(float x) {
    UNROLL
    for (int step = LANES / 2; step; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

template <int LANES> DEVICE float lane_max(float x) {
    UNROLL
    for (int step = LANES / 2; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
    return x;
}

DEVICE float bf16_value(unsigned bits) { return __uint_as_float(bits << 16); }

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }

// ln(1 + e^x), as torch has it: beyond 20 it is x itself.
DEVICE float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

DEVICE constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace laguna
