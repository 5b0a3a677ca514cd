// What every variant of the library offers; `library.cpp` chooses one of them when it is loaded.
#pragma once

#include "abi.h"

struct Variant {
    const char *name;
    int (*forward)(const LagunaForward *);
    int (*product)(const LagunaProduct *);        // with activations in 8 bits
    int (*exact_product)(const LagunaProduct *);  // in fp32
    int (*rows)(const LagunaRows *);
    int (*attention)(const LagunaAttention *);
    int (*routing)(const LagunaRouting *);
    // y[i] = f(x[i]) for the function of maths.h with that number: exponential, sigmoid, silu, softplus
    int (*function)(int which, const float *x, float *y, int64_t n);
};
