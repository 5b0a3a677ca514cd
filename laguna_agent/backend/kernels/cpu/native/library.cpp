// The door of the library: the functions that Python calls, and the choice of a variant.
//
// Compiled for the plainest processor of its kind; the variants are compiled for more (variants.py) and are entered only
// where the processor has what they need.
#include <string.h>

#include "pool.h"
#include "variant.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

extern "C" {
#if defined(__x86_64__)
extern const Variant laguna_variant_avx512vnni, laguna_variant_avxvnni, laguna_variant_avx2;
#elif defined(__aarch64__)
extern const Variant laguna_variant_i8mm, laguna_variant_dotprod;
#endif
extern const Variant laguna_variant_portable;
}

#if defined(__x86_64__)
#include <cpuid.h>

// AVX-VNNI has no name in older compilers' __builtin_cpu_supports.
static bool has_avxvnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

static bool runs(const Variant *v) {
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (v == &laguna_variant_avx512vnni)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vnni");
    if (v == &laguna_variant_avxvnni) return avx2 && has_avxvnni();
    return v == &laguna_variant_avx2 ? avx2 : true;
}

static const Variant *const all[] = {&laguna_variant_avx512vnni, &laguna_variant_avxvnni, &laguna_variant_avx2,
                                     &laguna_variant_portable};
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

static bool runs(const Variant *v) {
#if defined(__linux__)
    if (v == &laguna_variant_dotprod) return getauxval(AT_HWCAP) >> 20 & 1;
    if (v == &laguna_variant_i8mm) return (getauxval(AT_HWCAP) >> 20 & 1) && (getauxval(AT_HWCAP2) >> 13 & 1);
#else
    if (v != &laguna_variant_portable) return v == &laguna_variant_dotprod;  // every Apple processor has it
#endif
    return true;
}

static const Variant *const all[] = {&laguna_variant_i8mm, &laguna_variant_dotprod, &laguna_variant_portable};
#else
static bool runs(const Variant *) { return true; }
static const Variant *const all[] = {&laguna_variant_portable};
#endif

static const Variant *best() {
    for (const Variant *v : all)
        if (runs(v)) return v;
    return &laguna_variant_portable;
}

static const Variant *chosen = best();

// The variant in use.
EXPORT const char *laguna_variant() { return chosen->name; }

// The variant with number `at`, the best first, whether or not it runs here; NULL behind the last.
EXPORT const char *laguna_variant_name(int at) {
    return at >= 0 && at < (int)(sizeof all / sizeof *all) ? all[at]->name : nullptr;
}

// Use that variant from now on, for the whole process; NO_SUCH_INDEX where there is none or it does not run here.
EXPORT int laguna_choose_variant(const char *name) {
    for (const Variant *v : all)
        if (!strcmp(v->name, name) && runs(v)) {
            chosen = v;
            return DONE;
        }
    return NO_SUCH_INDEX;
}

// Bind the workers to processors of their own (1) or let the system place them (0); counts for workers hired later.
EXPORT void laguna_pin(int on) { pin_workers(on); }

EXPORT int laguna_forward(const LagunaForward *given) { return chosen->forward(given); }
EXPORT int laguna_product(const LagunaProduct *given) { return chosen->product(given); }
EXPORT int laguna_exact_product(const LagunaProduct *given) { return chosen->exact_product(given); }
EXPORT int laguna_rows(const LagunaRows *given) { return chosen->rows(given); }
EXPORT int laguna_attention(const LagunaAttention *given) { return chosen->attention(given); }
EXPORT int laguna_routing(const LagunaRouting *given) { return chosen->routing(given); }
EXPORT int laguna_function(int which, const float *x, float *y, int64_t n) { return chosen->function(which, x, y, n); }
