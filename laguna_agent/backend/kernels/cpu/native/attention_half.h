// The first half of a decoder layer (specification sections 2a to 2g): norm, projections, rope, cache, attention, gate,
// output projection, added to the stream.
#pragma once

#include "attention.h"
#include "maths.h"
#include "pass.h"

namespace LAGUNA_VARIANT {

// Values of a head at most (`HEAD_MOST` of cpu/layers.py): a head is worked on in memory of this size.
constexpr int64_t HEAD_MOST = 1024;

// A token of the stream, normed: as floats and in 8 bits.
static void norm_token(const Pass *p, int64_t token, const float *weight) {
    float *normed = p->normed + token * p->hidden;
    normalise(p->given->h + token * p->hidden, weight, p->hidden, p->layer->eps, normed);
    quantise_row(normed, p->hidden, p->hidden_steps, p->steps + token * p->hidden_steps);
}

static void input_norm_task(void *job, int64_t token, int) {
    const Pass *p = (const Pass *)job;
    norm_token(p, token, p->layer->input_norm);
}

INLINE int64_t spans_of(const LagunaMatrix *m) { return m->data ? (m->rows + SPAN - 1) / SPAN : 0; }

// Rows of a product for all tokens: to[token, row] = product + bias.
static void spread_rows(const Pass *p, int worker, const LagunaMatrix *m, int64_t span, const Inputs *in, const float *bias,
                        float *to, bool add) {
    const Desk *d = p->desks + worker;
    const int64_t first = span * SPAN, rows = m->rows - first < SPAN ? m->rows - first : SPAN;
    for (int64_t from = 0; from < p->tokens; from += TOGETHER) {
        const int64_t n = p->tokens - from < TOGETHER ? p->tokens - from : TOGETHER;
        const Inputs part = {in->values + from * in->columns, in->steps + from * in->steps_per_row, in->columns,
                             in->steps_per_row};
        span_of_rows(m, 0, first, &part, nullptr, n, d->out, d->pointers, d->scratch);
        for (int64_t i = 0; i < n; i++) {
            float *row = to + (from + i) * m->rows + first;
            const float *found = d->out + i * SPAN;
            int64_t r = 0;
            for (; r + 16 <= rows; r += 16) {
                const F value = bias ? load(found + r) + load(bias + first + r) : load(found + r);
                store(row + r, add ? load(row + r) + value : value);
            }
            for (; r < rows; r++) row[r] = (add ? row[r] : 0.0f) + (found[r] + (bias ? bias[first + r] : 0.0f));
        }
    }
}

static void projection_task(void *job, int64_t task, int worker) {
    const Pass *p = (const Pass *)job;
    const LagunaLayer *l = p->layer;
    const LagunaMatrix *matrices[] = {&l->q, &l->k, &l->v, &l->gate};
    const float *biases[] = {l->q_bias, l->k_bias, l->v_bias, nullptr};
    float *to[] = {p->q, p->k, p->v, p->gate};
    const Inputs in = {p->normed, p->steps, p->hidden, p->hidden_steps};
    for (int i = 0; i < 4; task -= spans_of(matrices[i++]))
        if (task < spans_of(matrices[i])) {
            spread_rows(p, worker, matrices[i], task, &in, biases[i], to[i], false);
            return;
        }
}

// Rotate the first `rotary` values of a head: pairs (i, rotary / 2 + i).
INLINE void rotate(float *x, const float *cos, const float *sin, int64_t half) {
    int64_t i = 0;
    for (; i + 16 <= half; i += 16) {
        const F a = load(x + i), b = load(x + half + i), c = load(cos + i), s = load(sin + i);
        store(x + i, a * c - b * s);
        store(x + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
        const float a = x[i], b = x[half + i];
        x[i] = a * cos[i] - b * sin[i];
        x[half + i] = b * cos[i] + a * sin[i];
    }
}

// Keep a head's key or value [dim] in the cache, in the cache's numbers; as `KVFormat.encode` does it.
static void keep(const float *x, int64_t dim, int kind, void *codes, float *scale) {
    const int64_t size = attending::bytes_of(kind);
    uint8_t encoded[HEAD_MOST * 4];
    float padded[HEAD_MOST] = {0};
    if (kind == KV_F32) {
        memcpy(codes, x, dim * 4);
        return;
    }
    memcpy(padded, x, dim * 4);
    float factor = 1.0f;
    if (kind == KV_INT8) {
        F most = zeros(), wrong = zeros();
        for (int64_t i = 0; i < dim; i += 16) {
            most = max(most, absolute(load(padded + i)));
            wrong = wrong + load(padded + i) * zeros();
        }
        *scale = largest(most) / 127.0f + sum(wrong);
        factor = *scale < 1e-30f ? 1e-30f : *scale;
    }
    for (int64_t i = 0; i < dim; i += 16) {
        const F value = load(padded + i);
        if (kind == KV_F16)
            store_f16((uint16_t *)encoded + i, min(splat(65504.0f), max(splat(-65504.0f), value)));
        else if (kind == KV_INT8)
            store_int8((int8_t *)encoded + i, nearest(value / splat(factor)));
        else
            for (int64_t j = i; j < i + 16; j++) ((uint16_t *)encoded)[j] = bf16_of(padded[j]);
    }
    memcpy(codes, encoded, dim * size);
}

static const LagunaRun *last_run(const Pass *p, int64_t span) {
    int64_t at = -1;
    for (int64_t i = 0; i <= span; i++) at += p->run_counts[i];
    return p->runs + at;
}

// Norm and rope of a token's queries and keys; its keys and values go into the cache.
static void turn_task(void *job, int64_t token, int) {
    const Pass *p = (const Pass *)job;
    const LagunaLayer *l = p->layer;
    const int64_t dim = l->head_dim, half = l->rotary / 2;
    const LagunaTurn *turn = p->given->turns + p->layer_index;
    const float *cos = turn->cos + token * half, *sin = turn->sin + token * half;
    float *q = p->q + token * l->heads * dim, *k = p->k + token * l->kv_heads * dim;
    for (int64_t head = 0; head < l->heads; head++, q += dim) {
        if (l->q_norm) normalise(q, l->q_norm, dim, l->eps, q);
        rotate(q, cos, sin, half);
    }
    int64_t span = 0;
    while (token >= p->given->spans[span].end) span++;
    const LagunaSpan *at = p->given->spans + span;
    const LagunaRun *run = last_run(p, span);
    const int64_t slot = run->count - (at->end - at->begin) + token - at->begin, kind = p->given->kv_kind;
    const int64_t size = attending::bytes_of(kind);
    for (int64_t head = 0; head < l->kv_heads; head++, k += dim) {
        if (l->k_norm) normalise(k, l->k_norm, dim, l->eps, k);
        rotate(k, cos, sin, half);
        const int64_t place = head * run->capacity + slot;
        const float *v = p->v + (token * l->kv_heads + head) * dim;
        keep(k, dim, kind, (uint8_t *)run->k + place * dim * size, run->k_scale ? run->k_scale + place : nullptr);
        keep(v, dim, kind, (uint8_t *)run->v + place * dim * size, run->v_scale ? run->v_scale + place : nullptr);
    }
}

static void gate_task(void *job, int64_t token, int) {
    const Pass *p = (const Pass *)job;
    const LagunaLayer *l = p->layer;
    const int64_t dim = l->head_dim, columns = l->heads * dim;
    float *seen = p->seen + token * columns;
    const float *gate = p->gate + token * (l->gate_kind == GATE_PER_HEAD ? l->heads : columns);
    if (l->gate_kind == GATE_PER_ELEMENT)
        for (int64_t i = 0; i < columns; i++) seen[i] *= softplus(gate[i]);
    if (l->gate_kind == GATE_PER_HEAD)
        for (int64_t head = 0; head < l->heads; head++) {
            const float factor = softplus(gate[head]);
            float *values = seen + head * dim;
            int64_t i = 0;
            for (; i + 16 <= dim; i += 16) store(values + i, load(values + i) * splat(factor));
            for (; i < dim; i++) values[i] *= factor;
        }
    quantise_row(seen, columns, p->seen_per_row, p->seen_steps + token * p->seen_per_row);
}

static void output_task(void *job, int64_t task, int worker) {
    const Pass *p = (const Pass *)job;
    const LagunaLayer *l = p->layer;
    const Inputs in = {p->seen, p->seen_steps, (int64_t)l->heads * l->head_dim, p->seen_per_row};
    spread_rows(p, worker, &l->o, task, &in, l->o_bias, p->given->h, true);
}

static int attention_half(Pass *p) {
    const LagunaLayer *l = p->layer;
    const LagunaForward *f = p->given;
    run_tasks(p->threads, p->tokens, input_norm_task, p, 1);
    const int64_t spans = spans_of(&l->q) + spans_of(&l->k) + spans_of(&l->v) + spans_of(&l->gate);
    run_tasks(p->threads, spans, projection_task, p, 1);
    run_tasks(p->threads, p->tokens, turn_task, p, 1);
    const LagunaAttention a = {p->q,      p->seen,     f->spans,    p->run_counts, p->runs,   p->tokens, f->span_count,
                               l->heads, l->kv_heads, l->head_dim, l->window,     f->kv_kind, p->threads};
    const int found = attend(&a, 1);
    if (found != DONE) return found;
    run_tasks(p->threads, p->tokens, gate_task, p, 1);
    run_tasks(p->threads, spans_of(&l->o), output_task, p, 1);
    return DONE;
}

}  // namespace LAGUNA_VARIANT
