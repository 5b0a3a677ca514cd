// A block of keys under the queries that see it: scores, the softmax so far, the sum of values so far.
//
// Queries are rows, token after token and in a token head after head of one KV head's group. Each row keeps about the
// largest score that it met (`top`), the sum of its weights (`total`) and the weighted sum of values (`sums`), both as if
// `top` were 0; where a much larger score comes, both shrink. Few rows meet the keys as they lie, for then memory is what there
// is too little of: four keys at a time become numbers and meet all rows. Many rows are worth a block of keys turned into
// columns and of values in panels, over which they go tile after tile. Knows no runs and no tasks.
#pragma once

#include <math.h>

#include "attention_direct.h"
#include "attention_keys.h"

namespace LAGUNA_VARIANT {
namespace attending {

constexpr int64_t BLOCK = 128;         // keys
constexpr int64_t FEW_ROWS = 48;       // from here on to turn the keys costs less than to add up every score's lanes
constexpr int64_t VALUES_AT_ONCE = 32;  // of few rows: with 128 dims 16 KiB, which stay in the nearest cache

// How far scores may rise above `top` before it follows: weights of up to 2^8 lose no precision, and after a row's first
// block it seldom moves, which spares the shrinking and a branch that cannot be foreseen.
constexpr float LEEWAY = 8.0f;

// What the rows ask: `tokens` from position `first` on, times the heads of a group.
struct Queries {
    int64_t tokens, group, first, window, dims;
    bool few;
    int64_t rows() const { return tokens * group; }
    int64_t width() const { return rounded(dims, 16); }
};

// Consecutive keys of one run and head, the first of them at position `first`; `ahead` more follow that will be read.
struct Block {
    const char *k, *v;
    const float *k_scale, *v_scale;
    int64_t first, count, ahead;
};

// Where a worker computes: q and sums [rows, width], scores [rows, BLOCK], top and total [rows], keys and values of a
// block (of few rows: of so many as become numbers at a time), their scales [BLOCK]. q has the factor dims^-1/2 log2 e
// already, for weights are powers of 2.
struct Desk {
    float *q, *sums, *scores, *top, *total, *keys, *values, *k_scale, *v_scale;
};

struct Range {
    int64_t low, high;
    bool empty() const { return low >= high; }
};

INLINE int64_t between(int64_t value, int64_t low, int64_t high) {
    return value < low ? low : value > high ? high : value;
}

// The keys of the block that rows `row` .. `row + rows - 1` see, any of them.
INLINE Range seen_by(const Queries &q, const Block &b, int64_t row, int64_t rows) {
    const int64_t oldest = q.first + row / q.group - b.first, newest = q.first + (row + rows - 1) / q.group - b.first;
    return {q.window ? between(oldest - q.window + 1, 0, b.count) : 0, between(newest + 1, 0, b.count)};
}

// 2^x for x <= 0, to 2e-7 of it; 0 from 2^-126 down, so that no number is ever subnormal. What is no number stays none.
INLINE F weight_of(F x) {
    const F shift = splat(12582912.0f);  // 1.5 * 2^23: what is added to it loses its fraction
    const F n = x + shift;
    const F r = x - (n - shift);
    // Coefficients of the smallest relative error on -1/2 .. 1/2 among those with 2^0 = 1.
    F e = fma(splat(1.326472731e-3f), r, splat(9.671512991e-3f));
    e = fma(e, r, splat(5.550733581e-2f));
    e = fma(e, r, splat(2.402224243e-1f));
    e = fma(e, r, splat(6.931470037e-1f));
    e = fma(e, r, splat(1.0f));
    const F power = bits_as_float((float_as_bits(n) << 23) + splat_int(127 << 23));
    return where_less(x, splat(-126.0f), zeros(), e * power);
}

// What weights are taken relative to: `top`, but nothing where all scores so far were -inf, for these must weigh 0 and
// not 2^(-inf + inf).
INLINE F base_of(float top) { return splat(top == -INFINITY ? 0.0f : top); }

// Bring the largest score of a row up to date, and with it what the row has so far. Only keys of `own` count, the others
// of `range` get scores of -inf. Scores are there for whole sixteens around `range`.
static void raise_top(const Queries &q, const Desk &desk, int64_t row, Range own, Range range, bool scaled) {
    float *scores = desk.scores + row * BLOCK, *sums = desk.sums + row * q.width();
    const int64_t from = range.low / 16 * 16, to = rounded(range.high, 16);
    F best = splat(desk.top[row]);
    if (scaled)
        for (int64_t j = from; j < to; j += 16) store(scores + j, load(scores + j) * load(desk.k_scale + j));
    for (int64_t j = from; j < to && j < own.low; j++) scores[j] = -INFINITY;
    for (int64_t j = own.high > from ? own.high : from; j < to; j++) scores[j] = -INFINITY;
    for (int64_t j = from; j < to; j += 16) best = max(load(scores + j), best);
    const float top = largest(best);
    if (!(top > desk.top[row] + LEEWAY)) return;
    const F shrink = weight_of(splat(desk.top[row]) - base_of(top));
    float lane[16];
    store(lane, shrink);
    desk.total[row] *= lane[0];
    for (int64_t d = 0; d < q.width(); d += 16) store(sums + d, load(sums + d) * shrink);
    desk.top[row] = top;
}

// Make scores of a row weights, and count them.
static void weigh(const Desk &desk, int64_t row, Range range, bool scaled) {
    float *scores = desk.scores + row * BLOCK;
    const F base = base_of(desk.top[row]);
    F total = zeros();
    for (int64_t j = range.low / 16 * 16; j < range.high; j += 16) {
        const F weight = weight_of(load(scores + j) - base);
        total = total + weight;
        store(scores + j, scaled ? weight * load(desk.v_scale + j) : weight);
    }
    desk.total[row] += sum(total);
}

// Rows `first` .. `first + rows - 1` together: one row's largest score is not waited for while others can be looked at.
static void soften(const Queries &q, const Block &b, const Desk &desk, int64_t first, int64_t rows, Range range,
                   bool scaled) {
    for (int64_t row = first; row < first + rows; row++)
        raise_top(q, desk, row, seen_by(q, b, row, 1), range, scaled);
    for (int64_t row = first; row < first + rows; row++) weigh(desk, row, range, scaled);
}

// Scales of the block, padded with zeros to whole sixteens.
INLINE void take_scales(const Block &b, const Desk &desk) {
    memset(desk.k_scale, 0, BLOCK * sizeof(float));
    memset(desk.v_scale, 0, BLOCK * sizeof(float));
    memcpy(desk.k_scale, b.k_scale, b.count * sizeof(float));
    memcpy(desk.v_scale, b.v_scale, b.count * sizeof(float));
}

// Scores of keys `key` and those after, four at a time, by way of numbers in a buffer.
static void score_few(int kind, const Queries &q, const Block &b, const Desk &desk, int64_t key) {
    const int64_t rows = q.rows(), width = q.width(), stride = q.dims * bytes_of(kind);
    const int64_t at_once = pass_of(rows, ROWS_OF_FOUR);
    for (; key < b.count; key += 4) {
        const int64_t count = b.count - key < 4 ? b.count - key : 4;
        four_keys(kind, b.k + key * stride, b.v + key * stride, count, q.dims, desk.keys);
        for (int64_t row = 0; row < rows; row += at_once)
            score((int)(rows - row < at_once ? rows - row : at_once),
                  {desk.q + row * width, desk.keys, width, desk.scores + row * BLOCK + key, BLOCK});
    }
}

// Values times weights, some at a time by way of numbers in a buffer.
static void add_few(int kind, const Queries &q, const Block &b, const Desk &desk, const char *ahead) {
    const int64_t rows = q.rows(), width = q.width(), stride = q.dims * bytes_of(kind);
    const int64_t at_once = pass_of(rows, ROWS_AT_ONCE);
    for (int64_t key = 0; key < b.count; key += VALUES_AT_ONCE) {
        const int64_t count = b.count - key < VALUES_AT_ONCE ? b.count - key : VALUES_AT_ONCE;
        value_panels(kind, b.v + key * stride, ahead + key * stride, nullptr, count, q.dims, VALUES_AT_ONCE, desk.values);
        for (int64_t d = 0; d < width; d += PANEL)
            for (int64_t row = 0; row < rows; row += at_once)
                multiply((int)(rows - row < at_once ? rows - row : at_once),
                         (int)((width - d < PANEL ? width - d : PANEL) / 16),
                         {desk.scores + row * BLOCK + key, BLOCK, desk.values + d * VALUES_AT_ONCE, PANEL * 4,
                          desk.sums + row * width + d, width, count, true, nullptr});
    }
}

#if defined(__AVX512F__)
template <int KIND> static void few_rows_directly(const Queries &q, const Block &b, const Desk &desk, const char *next) {
    const int rows = (int)q.rows();
    const int64_t scored = scores_direct<KIND>(rows, desk.q, q.dims, b.k, b.v, b.count, desk.scores, BLOCK);
    score_few(KIND, q, b, desk, scored);
    soften(q, b, desk, 0, rows, {0, b.count}, KIND == KV_INT8);
    values_direct<KIND>(rows, desk.scores, BLOCK, b.v, next, q.dims, b.count, desk.sums);
}
#endif

static void few_rows(int kind, const Queries &q, const Block &b, const Desk &desk) {
    // While keys are multiplied the values come, and with the values the next keys.
    const char *next = b.ahead ? b.k + b.count * q.dims * bytes_of(kind) : b.v;
    if (kind == KV_INT8) take_scales(b, desk);
#if defined(__AVX512F__)
    if (goes_direct(kind, q.rows(), q.dims)) {
        if (kind == KV_F16) few_rows_directly<KV_F16>(q, b, desk, next);
        else if (kind == KV_BF16) few_rows_directly<KV_BF16>(q, b, desk, next);
        else few_rows_directly<KV_INT8>(q, b, desk, next);
        return;
    }
#endif
    score_few(kind, q, b, desk, 0);
    soften(q, b, desk, 0, q.rows(), {0, b.count}, kind == KV_INT8);
    add_few(kind, q, b, desk, next);
}

static void many_rows(int kind, const Queries &q, const Block &b, const Desk &desk) {
    const int64_t rows = q.rows(), width = q.width(), at_once = pass_of(rows, ROWS_AT_ONCE);
    const bool scaled = kind == KV_INT8;
    if (scaled) take_scales(b, desk);
    key_panels(kind, b.k, scaled ? desk.k_scale : nullptr, b.count, q.dims, desk.keys);
    value_panels(kind, b.v, nullptr, scaled ? desk.v_scale : nullptr, b.count, q.dims, BLOCK, desk.values);
    for (int64_t key = 0; key < b.count; key += PANEL)
        for (int64_t row = 0; row < rows; row += at_once) {
            const int64_t count = rows - row < at_once ? rows - row : at_once;
            const Range seen = seen_by(q, b, row, count);
            if (seen.low >= key + PANEL || seen.high <= key) continue;
            const int64_t columns = rounded(seen.high - key < PANEL ? seen.high - key : PANEL, 16);
            multiply((int)count, (int)(columns / 16),
                     {desk.q + row * width, width, desk.keys + key * q.dims, PANEL * 4, desk.scores + row * BLOCK + key,
                      BLOCK, q.dims, false, nullptr});
        }
    for (int64_t first = 0; first < rows; first += at_once) {
        const int64_t count = rows - first < at_once ? rows - first : at_once;
        const Range seen = seen_by(q, b, first, count);
        if (!seen.empty()) soften(q, b, desk, first, count, seen, false);
    }
    for (int64_t d = 0; d < width; d += PANEL)
        for (int64_t row = 0; row < rows; row += at_once) {
            const int64_t count = rows - row < at_once ? rows - row : at_once;
            const Range seen = seen_by(q, b, row, count);
            if (seen.empty()) continue;
            multiply((int)count, (int)((width - d < PANEL ? width - d : PANEL) / 16),
                     {desk.scores + row * BLOCK + seen.low, BLOCK, desk.values + d * BLOCK + seen.low * PANEL,
                      PANEL * 4, desk.sums + row * width + d, width, seen.high - seen.low, true, nullptr});
        }
}

static void take_block(int kind, const Queries &q, const Block &b, const Desk &desk) {
    q.few ? few_rows(kind, q, b, desk) : many_rows(kind, q, b, desk);
}

}  // namespace attending
}  // namespace LAGUNA_VARIANT
