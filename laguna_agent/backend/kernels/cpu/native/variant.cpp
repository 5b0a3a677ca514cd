// One variant: everything of it, compiled with its flags and LAGUNA_VARIANT set to its name.
#include "variant.h"

#include "attention.h"
#include "exact.h"
#include "layer.h"
#include "maths.h"
#include "products.h"
#include "routing.h"

#define NAMED(name) NAMED_(name)
#define NAMED_(name) laguna_variant_##name
#define TEXT(name) TEXT_(name)
#define TEXT_(name) #name

namespace LAGUNA_VARIANT {

static int function(int which, const float *x, float *y, int64_t n) {
    for (int64_t at = 0; at < n; at += 16) {
        float lane[16] = {0};
        const int64_t count = n - at < 16 ? n - at : 16;
        memcpy(lane, x + at, count * sizeof *lane);
        if (which == 0) store(lane, exponential(load(lane)));
        else if (which == 1) store(lane, sigmoid(load(lane)));
        else if (which == 2) store(lane, silu(load(lane)));
        else if (which == 3)
            for (float &value : lane) value = softplus(value);
        else return NO_SUCH_INDEX;
        memcpy(y + at, lane, count * sizeof *lane);
    }
    return DONE;
}

}  // namespace LAGUNA_VARIANT

extern "C" const Variant NAMED(LAGUNA_VARIANT) = {
    TEXT(LAGUNA_VARIANT),      LAGUNA_VARIANT::forward,   LAGUNA_VARIANT::product, LAGUNA_VARIANT::exact_product,
    LAGUNA_VARIANT::some_rows, LAGUNA_VARIANT::attention, LAGUNA_VARIANT::routing, LAGUNA_VARIANT::function,
};
