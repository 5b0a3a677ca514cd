// The door of the library: the functions that Python calls, and the choice of a variant.
//
// Compiled for the plainest processor of its kind; the variants are compiled for more (variants.py) and are entered only
// where the processor has what they need.
#include <string.h>

#include "pool.h"
#include "variant.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

// The names of the variants that were compiled, the best first (building.py): V(avx2) V(portable)
#define V(name) extern "C" const Variant laguna_variant_##name;
LAGUNA_VARIANTS
#undef V

#if defined(__x86_64__)
#include <cpuid.h>

// Asked of the processor itself: the compilers' own functions for it differ in the names that they know, and want a
// library. What the system saves of a thread's registers counts too.
static bool runs(const char *name) {
    unsigned a, b, c, d, basic, wide, most, vnni;
    if (!__get_cpuid(1, &a, &b, &basic, &d) || !(basic >> 27 & 1)) return !strcmp(name, "portable");
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    const bool saves_ymm = (a & 6) == 6, saves_zmm = (a & 0xe6) == 0xe6;
    if (!__get_cpuid_count(7, 0, &most, &wide, &vnni, &d)) wide = vnni = most = 0;
    // FMA, F16C and AVX2; then AVX-512 F, DQ, BW and VL
    const bool avx2 = saves_ymm && (basic >> 12 & 1) && (basic >> 29 & 1) && (wide >> 5 & 1);
    const bool avx512 = avx2 && saves_zmm && (wide >> 16 & 1) && (wide >> 17 & 1) && (wide >> 30 & 1) && wide >> 31;
    if (!strcmp(name, "avx512vnni")) return avx512 && (vnni >> 11 & 1);
    if (!strcmp(name, "avx2")) return avx2;
    if (strcmp(name, "avxvnni")) return true;
    return avx2 && most >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

static bool runs(const char *name) {
    const bool dotprod = getauxval(AT_HWCAP) >> 20 & 1, i8mm = getauxval(AT_HWCAP2) >> 13 & 1;
    if (!strcmp(name, "i8mm")) return dotprod && i8mm;
    return strcmp(name, "dotprod") || dotprod;
}
#else
// Of the processors without a way to ask, Apple's all have dotprod.
static bool runs(const char *name) { return strcmp(name, "i8mm"); }
#endif

#define V(name) &laguna_variant_##name,
static const Variant *const all[] = {LAGUNA_VARIANTS};
#undef V

static const Variant *best() {
    for (const Variant *v : all)
        if (runs(v->name)) return v;
    return &laguna_variant_portable;
}

static const Variant *chosen = best();

// Which sources it was made of: building.py's digest of them.
EXPORT const char *laguna_sources() { return LAGUNA_SOURCES; }

// The variant in use.
EXPORT const char *laguna_variant() { return chosen->name; }

// The variant with number `at`, the best first, whether or not it runs here; NULL behind the last.
EXPORT const char *laguna_variant_name(int at) {
    return at >= 0 && at < (int)(sizeof all / sizeof *all) ? all[at]->name : nullptr;
}

// Use that variant from now on, for the whole process; NO_SUCH_INDEX where there is none or it does not run here.
EXPORT int laguna_choose_variant(const char *name) {
    for (const Variant *v : all)
        if (!strcmp(v->name, name) && runs(v->name)) {
            chosen = v;
            return DONE;
        }
    return NO_SUCH_INDEX;
}

// Bind the threads to these processors from now on, or to none (pool.h).
EXPORT void laguna_pin(const int32_t *processors, int count) { pin_threads(processors, count); }

EXPORT int laguna_forward(const LagunaForward *given) { return chosen->forward(given); }
EXPORT int laguna_product(const LagunaProduct *given) { return chosen->product(given); }
EXPORT int laguna_exact_product(const LagunaProduct *given) { return chosen->exact_product(given); }
EXPORT int laguna_rows(const LagunaRows *given) { return chosen->rows(given); }
EXPORT int laguna_attention(const LagunaAttention *given) { return chosen->attention(given); }
EXPORT int laguna_routing(const LagunaRouting *given) { return chosen->routing(given); }
EXPORT int laguna_function(int which, const float *x, float *y, int64_t n) { return chosen->function(which, x, y, n); }
