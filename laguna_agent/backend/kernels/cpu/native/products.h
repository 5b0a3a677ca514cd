// One product with activations in 8 bits: what the output head takes, and what tests hold against the exact one.
#pragma once

#include <stdlib.h>

#include "block_products.h"
#include "pool.h"

namespace LAGUNA_VARIANT {

// Memory that starts on a cache line.
INLINE void *aligned(int64_t bytes) { return aligned_alloc(64, (size_t)(bytes + 127) / 64 * 64); }

// Memory of one thread: a span of rows for all tokens, their addresses, and what is unpacked.
struct Desk {
    float *out;
    const void **pointers;
    void *scratch;
};
INLINE int64_t desk_bytes(int64_t tokens) {
    return (tokens * (SPAN * 4 + (int64_t)sizeof(void *)) + 63) / 64 * 64 + THREAD_SCRATCH + 64;
}
INLINE Desk desk_of(uint8_t *memory, int64_t tokens, int worker) {
    Desk d;
    uint8_t *at = memory + worker * desk_bytes(tokens);
    d.scratch = at;
    d.out = (float *)(at + THREAD_SCRATCH);
    d.pointers = (const void **)(d.out + tokens * SPAN);
    return d;
}

// Tokens that one task takes: so that their activations stay in a core's own cache while spans of rows pass.
constexpr int64_t TOGETHER = 512;

struct ProductJob {
    const LagunaProduct *given;
    Inputs in;
    uint8_t *desks;
    Step *steps;
    int64_t spans;
};

static void quantise_task(void *job, int64_t task, int) {
    const ProductJob *p = (const ProductJob *)job;
    const int64_t columns = p->given->matrix.columns;
    quantise_row(p->given->x + task * columns, columns, p->in.steps_per_row, p->steps + task * p->in.steps_per_row);
}

static void product_task(void *job, int64_t task, int worker) {
    const ProductJob *p = (const ProductJob *)job;
    const LagunaProduct *g = p->given;
    const LagunaMatrix *m = &g->matrix;
    const int64_t first = task % p->spans * SPAN, from = task / p->spans * TOGETHER;
    const int64_t n = g->n - from < TOGETHER ? g->n - from : TOGETHER;
    const int64_t rows = m->rows - first < SPAN ? m->rows - first : SPAN;
    const Desk d = desk_of(p->desks, TOGETHER, worker);
    const Inputs in = {p->in.values + from * m->columns, p->in.steps + from * p->in.steps_per_row, m->columns,
                       p->in.steps_per_row};
    span_of_rows(m, 0, first, &in, nullptr, n, d.out, d.pointers, d.scratch);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < rows; r++)
            g->y[(from + i) * m->rows + first + r] = d.out[i * SPAN + r] + (g->bias ? g->bias[first + r] : 0);
}

// Stacks are not served: experts are a layer's business.
static int product(const LagunaProduct *given) {
    if (given->matrix.count != 1 || given->experts) return NO_SUCH_INDEX;
    const int threads = given->threads < 1 ? 1 : given->threads;
    const bool tiled = is_tiled(&given->matrix);
    const int64_t steps = tiled ? padded_columns(&given->matrix) / STEP : 0;
    ProductJob p = {given, {given->x, nullptr, given->matrix.columns, steps}, nullptr, nullptr, 0};
    p.desks = (uint8_t *)aligned(threads * desk_bytes(TOGETHER));
    p.steps = (Step *)aligned(given->n * steps * (int64_t)sizeof(Step));
    p.in.steps = p.steps;
    p.spans = (given->matrix.rows + SPAN - 1) / SPAN;
    const bool enough = p.desks && p.steps;
    if (enough) {
        if (tiled) run_tasks(threads, given->n, quantise_task, &p, 1);
        run_tasks(threads, p.spans * ((given->n + TOGETHER - 1) / TOGETHER), product_task, &p, 1);
    }
    free(p.desks);
    free(p.steps);
    return enough ? DONE : NO_MEMORY;
}

}  // namespace LAGUNA_VARIANT
