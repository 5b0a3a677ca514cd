// One product with activations in 8 bits: what the output head takes, and what tests hold against the exact one.
#pragma once

#include "pass.h"

namespace LAGUNA_VARIANT {

struct ProductJob {
    const LagunaProduct *given;
    Inputs in;
    Desk *desks;
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
    const Desk d = p->desks[worker];
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
    uint8_t *memory = nullptr;
    for (int round = 0; round < 2; round++) {
        Arena a = {memory, 0};
        p.desks = take_desks(&a, threads, given->n);
        p.steps = take<Step>(&a, given->n * steps);
        if (!memory && !(memory = (uint8_t *)aligned(a.used))) return NO_MEMORY;
    }
    p.in.steps = p.steps;
    p.spans = (given->matrix.rows + SPAN - 1) / SPAN;
    if (tiled) run_tasks(threads, given->n, quantise_task, &p, 1);
    run_tasks(threads, p.spans * ((given->n + TOGETHER - 1) / TOGETHER), product_task, &p, 1);
    free(memory);
    return DONE;
}

}  // namespace LAGUNA_VARIANT
