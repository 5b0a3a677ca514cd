// The memory of one pass through the layers, and what its phases share.
#pragma once

#include <stdlib.h>

#include "block_products.h"
#include "pool.h"

namespace LAGUNA_VARIANT {

// Memory that starts on a cache line.
INLINE void *aligned(int64_t bytes) { return aligned_alloc(64, (size_t)(bytes + 127) / 64 * 64); }

// Tokens that one task takes: so that their activations stay in a core's own cache while rows of weights pass.
constexpr int64_t TOGETHER = 512;

// Memory of one thread: a span of rows for some tokens, the addresses of their activations, what is unpacked.
struct Desk {
    float *out, *second;
    const void **pointers;
    void *scratch;
};

// Pieces of one allocation; without memory it only counts.
struct Arena {
    uint8_t *memory;
    int64_t used;
};
template <class T> INLINE T *take(Arena *a, int64_t count) {
    T *found = a->memory ? (T *)(a->memory + a->used) : nullptr;
    a->used += (count * (int64_t)sizeof(T) + 63) / 64 * 64;
    return found;
}

INLINE Desk take_desk(Arena *a, int64_t tokens) {
    Desk d;
    d.out = take<float>(a, tokens * SPAN);
    d.second = take<float>(a, tokens * SPAN);
    d.pointers = take<const void *>(a, tokens);
    d.scratch = take<uint8_t>(a, THREAD_SCRATCH);
    return d;
}

// A desk for each thread, with room for as many tokens as are done together.
INLINE Desk *take_desks(Arena *a, int threads, int64_t tokens) {
    Desk *desks = take<Desk>(a, threads);
    for (int i = 0; i < threads; i++) {
        const Desk d = take_desk(a, tokens < TOGETHER ? tokens : TOGETHER);
        if (a->memory) desks[i] = d;
    }
    return desks;
}

// The tokens of one expert (or of the shared one, or of a dense layer's MLP): slots `begin` to `end` of the pass.
struct Group {
    const LagunaMatrix *gate, *up, *down;
    int64_t which, up_row, inner, begin, end, first_task;
};

struct Pass {
    const LagunaForward *given;
    const LagunaLayer *layer;
    int64_t layer_index, tokens, hidden;
    const LagunaRun *runs;      // of this layer
    const int32_t *run_counts;  // [spans] of this layer
    int threads;
    Desk *desks;  // [threads]

    float *normed;  // [tokens, hidden]
    Step *steps;    // [tokens, steps of hidden]
    float *q, *k, *v, *gate, *seen;
    Step *seen_steps;
    int64_t hidden_steps, seen_per_row;

    float *logits, *share;
    int32_t *picked;
    int64_t *places;  // [experts + 1]
    Group *groups;
    int64_t group_count, task_count;
    int32_t *slot_token;
    float *slot_weight;
    int64_t inner_wide;  // columns of a slot: of the widest MLP, in whole steps and groups
    float *inner;        // [slots, inner_wide]
    Step *inner_steps;   // [slots, inner_wide / STEP]
};

// What the largest layer needs.
struct Sizes {
    int64_t hidden_columns, q, kv, gate, seen_columns, experts, per_token, inner_wide;
};

INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Columns of the activations that a matrix meets: of a tiled one with the padding of its groups.
INLINE int64_t met_columns(const LagunaMatrix *m) {
    const int64_t columns = is_tiled(m) ? padded_columns(m) : m->columns;
    return steps_of(columns) * STEP;
}

static Sizes sizes_of(const LagunaForward *f) {
    Sizes s = {};
    for (int64_t i = 0; i < f->layer_count; i++) {
        const LagunaLayer *l = f->layers + i;
        const LagunaMatrix *from_hidden[] = {&l->q, &l->k, &l->v, &l->gate, &l->gate_up, &l->shared_gate, &l->shared_up};
        for (const LagunaMatrix *m : from_hidden)
            if (m->data) s.hidden_columns = larger(s.hidden_columns, met_columns(m));
        s.q = larger(s.q, (int64_t)l->heads * l->head_dim);
        s.kv = larger(s.kv, (int64_t)l->kv_heads * l->head_dim);
        s.gate = larger(s.gate, l->gate.data ? l->gate.rows : 0);
        s.seen_columns = larger(s.seen_columns, met_columns(&l->o));
        s.experts = larger(s.experts, l->experts);
        s.per_token = larger(s.per_token, l->per_token);
        if (l->experts) s.inner_wide = larger(s.inner_wide, met_columns(&l->down));
        if (l->shared_inner) s.inner_wide = larger(s.inner_wide, met_columns(&l->shared_down));
    }
    return s;
}

static void lay_out(Pass *p, Arena *a, const Sizes *s) {
    const int64_t n = p->tokens, slots = n * (s->per_token + 1);
    p->desks = take_desks(a, p->threads, n);
    p->hidden_steps = s->hidden_columns / STEP;
    p->seen_per_row = s->seen_columns / STEP;
    p->inner_wide = s->inner_wide;
    p->normed = take<float>(a, n * p->hidden);
    p->steps = take<Step>(a, n * p->hidden_steps);
    p->q = take<float>(a, n * s->q);
    p->k = take<float>(a, n * s->kv);
    p->v = take<float>(a, n * s->kv);
    p->gate = take<float>(a, n * s->gate);
    p->seen = take<float>(a, n * s->q);
    p->seen_steps = take<Step>(a, n * p->seen_per_row);
    p->logits = take<float>(a, n * s->experts);
    p->share = take<float>(a, n * s->per_token);
    p->picked = take<int32_t>(a, n * s->per_token);
    p->places = take<int64_t>(a, s->experts + 1);
    p->groups = take<Group>(a, s->experts + 1);
    p->slot_token = take<int32_t>(a, slots);
    p->slot_weight = take<float>(a, slots);
    p->inner = take<float>(a, slots * s->inner_wide);
    p->inner_steps = take<Step>(a, slots * s->inner_wide / STEP);
}

// RMSNorm of a row, `normed` [size] = x / rms(x) * weight; rms in fp32.
static void normalise(const float *x, const float *weight, int64_t size, float eps, float *normed) {
    F squares = zeros();
    int64_t i = 0;
    for (; i + 16 <= size; i += 16) squares = fma(load(x + i), load(x + i), squares);
    float total = sum(squares);
    for (; i < size; i++) total += x[i] * x[i];
    const float factor = 1.0f / sqrtf(total / (float)size + eps);
    for (i = 0; i + 16 <= size; i += 16) store(normed + i, load(weight + i) * (load(x + i) * splat(factor)));
    for (; i < size; i++) normed[i] = weight[i] * (x[i] * factor);
}

}  // namespace LAGUNA_VARIANT
