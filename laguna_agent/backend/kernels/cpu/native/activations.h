// Activations in 8 bits: 32 columns share a scale, as in llama.cpp's Q8_0, whatever the group of the weights is.
//
// value = code * scale, with scale = largest magnitude / 127 and codes rounded to nearest. A step that holds an infinity
// or no number gets a scale that is no number, and so does every product with it; one whose values are all below 1e-30
// is taken for zeros.
#pragma once

#include "tiles.h"

namespace LAGUNA_VARIANT {

// 32 columns of one row. `total` is scale * (sum of the codes), which meets the minimums of weights; `offset` is -8 *
// (sum of the codes), which takes off what is added to the codes of weights.
struct Step {
    int8_t codes[STEP];
    float scale, total;
    int32_t offset;
};

INLINE int64_t steps_of(int64_t columns) { return (columns + STEP - 1) / STEP; }

INLINE void quantise_step(const float *x, Step *to) {
    const F low = load(x), high = load(x + 16);
    // 0 for numbers, else no number.
    const float wrong = sum(low * zeros() + high * zeros());
    const float most = largest(max(absolute(low), absolute(high)));
    const bool small = most < 1e-30f;
    const F inverse = splat(small ? 0.0f : 127.0f / most);
    const I a = nearest(low * inverse), b = nearest(high * inverse);
    store_int8(to->codes, a);
    store_int8(to->codes + 16, b);
    // Of the codes as they are stored: what is no number has made anything of them, but nothing that overflows here.
    int32_t count = 0;
    for (int i = 0; i < STEP; i++) count += to->codes[i];
    to->scale = (small ? 0.0f : most / 127.0f) + wrong;
    to->total = to->scale * (float)count;
    to->offset = -8 * count;
}

// One row of `columns` values; columns behind the last are taken for zeros, up to `steps` steps.
static void quantise_row(const float *x, int64_t columns, int64_t steps, Step *to) {
    const int64_t whole = columns / STEP;
    for (int64_t s = 0; s < whole; s++) quantise_step(x + s * STEP, to + s);
    for (int64_t s = whole; s < steps; s++) {
        float last[STEP] = {0};
        if (s * STEP < columns) memcpy(last, x + s * STEP, (columns - s * STEP) * sizeof *last);
        quantise_step(last, to + s);
    }
}

}  // namespace LAGUNA_VARIANT
