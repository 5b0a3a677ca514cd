// The second half of a decoder layer (specification sections 2h and 2i): norm, router, experts, added to the stream.
//
// Every MLP is a list of groups: the experts that some token picked, ascending, then the shared one; in a dense layer one
// group has all tokens. A group's weights are read once for all of its tokens. Sums are made in the order of groups, by
// whoever owns the rows, so they depend neither on the batch nor on the threads.
#pragma once

#include "attention_half.h"
#include "routing.h"

namespace LAGUNA_VARIANT {

static void post_norm_task(void *job, int64_t token, int) {
    const Pass *p = (const Pass *)job;
    norm_token(p, token, p->layer->post_norm);
}

static void router_task(void *job, int64_t task, int worker) {
    const Pass *p = (const Pass *)job;
    const Inputs in = {p->normed, p->steps, p->hidden, p->hidden_steps};
    spread_rows(p, worker, &p->layer->router, task, &in, nullptr, p->logits, false);
}

constexpr int64_t ROUTED_TOGETHER = 16;

static void routing_task(void *job, int64_t task, int) {
    const Pass *p = (const Pass *)job;
    const LagunaLayer *l = p->layer;
    const int64_t first = task * ROUTED_TOGETHER, left = p->tokens - first;
    const LagunaRouting r = {p->logits + first * l->experts,
                             l->router_bias,
                             p->picked + first * l->per_token,
                             p->share + first * l->per_token,
                             left < ROUTED_TOGETHER ? left : ROUTED_TOGETHER,
                             l->experts,
                             l->per_token,
                             l->normalize,
                             l->softcap};
    routing(&r);
}

static void add_group(Pass *p, Group g) {
    g.first_task = p->task_count;
    p->task_count += (g.inner + SPAN - 1) / SPAN;
    p->groups[p->group_count++] = g;
}

// Sort the pairs of tokens and experts by expert, tokens ascending within one.
static int64_t group_experts(Pass *p) {
    const LagunaLayer *l = p->layer;
    const int64_t pairs = p->tokens * l->per_token, padded = (l->inner + ROWS - 1) / ROWS * ROWS;
    memset(p->places, 0, (l->experts + 1) * sizeof *p->places);
    for (int64_t i = 0; i < pairs; i++) p->places[p->picked[i] + 1]++;
    for (int64_t e = 0; e < l->experts; e++) {
        const int64_t begin = p->places[e], count = p->places[e + 1];
        p->places[e + 1] += begin;
        if (count) add_group(p, {&l->gate_up, &l->gate_up, &l->down, e, padded, l->inner, begin, begin + count, 0});
    }
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t slot = p->places[p->picked[i]]++;
        p->slot_token[slot] = (int32_t)(i / l->per_token);
        p->slot_weight[slot] = p->share[i] * l->routed_scale;
    }
    return pairs;
}

static void make_groups(Pass *p) {
    const LagunaLayer *l = p->layer;
    p->group_count = p->task_count = 0;
    const int64_t pairs = l->experts ? group_experts(p) : 0;
    if (!l->shared_inner) return;
    for (int64_t t = 0; t < p->tokens; t++) {
        p->slot_token[pairs + t] = (int32_t)t;
        p->slot_weight[pairs + t] = 1.0f;
    }
    add_group(p, {&l->shared_gate, &l->shared_up, &l->shared_down, 0, 0, l->shared_inner, pairs, pairs + p->tokens, 0});
}

// silu(gate) * up of 32 inner rows for one slot, as floats and in 8 bits.
INLINE void activate(const float *gate, const float *up, int64_t rows, float *values, Step *step) {
    float product[SPAN];
    store(product, silu(load(gate)) * load(up));
    store(product + 16, silu(load(gate + 16)) * load(up + 16));
    for (int64_t r = rows; r < SPAN; r++) product[r] = 0;
    memcpy(values, product, sizeof product);
    quantise_step(product, step);
}

static void up_task(void *job, int64_t task, int worker) {
    const Pass *p = (const Pass *)job;
    const Desk *d = p->desks + worker;
    int64_t low = 0, high = p->group_count - 1;
    while (low < high) {
        const int64_t middle = (low + high + 1) / 2;
        if (p->groups[middle].first_task <= task) low = middle;
        else high = middle - 1;
    }
    const Group *g = p->groups + low;
    const int64_t first = (task - g->first_task) * SPAN, rows = g->inner - first < SPAN ? g->inner - first : SPAN;
    const Inputs in = {p->normed, p->steps, p->hidden, p->hidden_steps};
    for (int64_t from = g->begin; from < g->end; from += TOGETHER) {
        const int64_t n = g->end - from < TOGETHER ? g->end - from : TOGETHER;
        const int32_t *index = p->slot_token + from;
        span_of_rows(g->gate, g->which, first, &in, index, n, d->out, d->pointers, d->scratch);
        span_of_rows(g->up, g->which, g->up_row + first, &in, index, n, d->second, d->pointers, d->scratch);
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = (from + i) * p->inner_wide + first;
            activate(d->out + i * SPAN, d->second + i * SPAN, rows, p->inner + at, p->inner_steps + at / STEP);
        }
    }
}

// Where weights are padded behind the last inner row, the activations must be zeros.
static void clear_behind(const Pass *p) {
    for (int64_t i = 0; i < p->group_count; i++) {
        const Group *g = p->groups + i;
        const int64_t begin = steps_of(g->inner), end = met_columns(g->down) / STEP;
        for (int64_t slot = g->begin; slot < g->end && begin < end; slot++)
            memset(p->inner_steps + slot * p->inner_wide / STEP + begin, 0, (end - begin) * sizeof(Step));
    }
}

static void down_span(const Pass *p, const Desk *d, const Group *g, int64_t first, int64_t rows) {
    // Plain matrices take exactly their columns, which lie inner_wide apart.
    for (int64_t from = g->begin; from < g->end; from += TOGETHER) {
        const int64_t n = g->end - from < TOGETHER ? g->end - from : TOGETHER;
        const Inputs in = {p->inner + from * p->inner_wide, p->inner_steps + from * p->inner_wide / STEP, p->inner_wide,
                           p->inner_wide / STEP};
        span_of_rows(g->down, g->which, first, &in, nullptr, n, d->out, d->pointers, d->scratch);
        for (int64_t i = 0; i < n; i++) {
            float *h = p->given->h + p->slot_token[from + i] * p->hidden + first;
            const float weight = p->slot_weight[from + i], *found = d->out + i * SPAN;
            int64_t r = 0;
            for (; r + 16 <= rows; r += 16) store(h + r, fma(splat(weight), load(found + r), load(h + r)));
            for (; r < rows; r++) h[r] += weight * found[r];
        }
    }
}

static void down_range(void *job, int64_t begin, int64_t end, int worker) {
    const Pass *p = (const Pass *)job;
    for (int64_t i = 0; i < p->group_count; i++)
        for (int64_t span = begin; span < end; span++) {
            const int64_t first = span * SPAN, left = p->hidden - first;
            down_span(p, p->desks + worker, p->groups + i, first, left < SPAN ? left : SPAN);
        }
}

static void mlp_half(Pass *p) {
    const LagunaLayer *l = p->layer;
    run_tasks(p->threads, p->tokens, post_norm_task, p, 1);
    if (l->experts) {
        run_tasks(p->threads, spans_of(&l->router), router_task, p, 1);
        run_tasks(p->threads, (p->tokens + ROUTED_TOGETHER - 1) / ROUTED_TOGETHER, routing_task, p, 1);
    }
    make_groups(p);
    clear_behind(p);
    run_tasks(p->threads, p->task_count, up_task, p, 1);
    run_ranges(p->threads, (p->hidden + SPAN - 1) / SPAN, down_range, p, 1);
}

}  // namespace LAGUNA_VARIANT
