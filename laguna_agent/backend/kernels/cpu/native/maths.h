// The functions between the products, sixteen at a time: exponential, sigmoid, SiLU, softplus.
//
// Ours, because the compilers' libraries have no such vectors that all machines share. Where an argument is no number,
// the result is none; infinities give the limits.
#pragma once

#include <math.h>

#include "isa.h"

namespace LAGUNA_VARIANT {

// e^x with an error of at most 2 in the last place; 0 below -87.3 (so no subnormal number is ever made), infinite above
// 88.72.
INLINE F exponential(F x) {
    // x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its series to the seventh power; 2^n in two factors, for n = 128.
    const F bounded = min(splat(88.8f), max(splat(-87.3f), x));
    const I n = nearest(bounded * splat(1.44269504f));
    const F whole = to_float(n);
    F r = fma(whole, splat(-0.693145752f), bounded);
    r = fma(whole, splat(-1.42860677e-6f), r);
    F e = fma(splat(1.9875691500e-4f), r, splat(1.3981999507e-3f));
    e = fma(e, r, splat(8.3334519073e-3f));
    e = fma(e, r, splat(4.1665795894e-2f));
    e = fma(e, r, splat(1.6666665459e-1f));
    e = fma(e, r, splat(5.0000001201e-1f));
    e = fma(e * r, r, r) + splat(1.0f);
    const I half = n >> 1;
    e = e * bits_as_float((half + splat_int(127)) << 23) * bits_as_float((n - half + splat_int(127)) << 23);
    e = where_less(x, splat(-87.3f), zeros(), e);
    // Not less than infinity: infinity itself, and what is no number.
    return where_less(x, splat(INFINITY), e, x);
}

INLINE F sigmoid(F x) { return splat(1.0f) / (splat(1.0f) + exponential(splat(0.0f) - x)); }

INLINE F silu(F x) { return x / (splat(1.0f) + exponential(splat(0.0f) - x)); }

// log(1 + e^x) one at a time: a layer has a few dozen of them. As torch: beyond 20 it is x.
static inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

}  // namespace LAGUNA_VARIANT
