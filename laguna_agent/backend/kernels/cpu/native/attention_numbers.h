// Numbers of the cache sixteen at a time, whatever they are kept as.
#pragma once

#include "abi.h"
#include "isa.h"

namespace LAGUNA_VARIANT {
namespace attending {

constexpr int64_t bytes_of(int kind) { return kind == KV_F32 ? 4 : kind == KV_INT8 ? 1 : 2; }
INLINE int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <int KIND> INLINE F sixteen_of(const void *from) {
    if constexpr (KIND == KV_F16) return load_f16((const uint16_t *)from);
    if constexpr (KIND == KV_BF16) return load_bf16((const uint16_t *)from);
    if constexpr (KIND == KV_INT8) return load_int8((const int8_t *)from);
    return load((const float *)from);
}

// Numbers at .. at + 15 of a row of `dims`; 0 beyond its end.
template <int KIND> INLINE F numbers(const char *row, int64_t at, int64_t dims) {
    const int64_t size = bytes_of(KIND);
    if (at + 16 <= dims) return sixteen_of<KIND>(row + at * size);
    char end[64] = {0};
    memcpy(end, row + at * size, (dims - at) * size);
    return sixteen_of<KIND>(end);
}

// work(0), .. work(N - 1), written out: an array whose every index is a constant lies in registers from its first to its
// last use, one that a loop goes through takes a turn through memory before and after.
template <int N, class Do> INLINE void each(const Do &work) {
    if constexpr (N > 1) each<N - 1>(work);
    work(N - 1);
}
#define WRITTEN_OUT __attribute__((always_inline))

}  // namespace attending
}  // namespace LAGUNA_VARIANT
