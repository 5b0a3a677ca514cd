// A block of keys under the queries that see it: scores, the softmax so far, the sum of values so far.
//
// Queries are rows, token after token and in a token head after head of one KV head's group. Each row keeps the largest
// score that it met (`top`), the sum of its weights (`total`) and the weighted sum of values (`sums`), both as if that
// score were 0; where a larger one comes, both shrink. Few rows meet the keys as they lie, for then memory is what there
// is too little of: four keys at a time become numbers and meet all rows. Many rows are worth a block of keys turned into
// columns and of values in panels, over which they go tile after tile. Knows no runs and no tasks.
#pragma once

#include "attention_keys.h"
#include "maths.h"

namespace LAGUNA_VARIANT {
namespace attending {

constexpr int64_t BLOCK = 128;         // keys
constexpr int64_t FEW_ROWS = 48;       // from here on to turn the keys costs less than to add up every score's lanes
constexpr int64_t VALUES_AT_ONCE = 32;  // of few rows: with 128 dims 16 KiB, which stay in the nearest cache

// What the rows ask: `tokens` from position `first` on, times the heads of a group.
struct Queries {
    int64_t tokens, group, first, window, dims;
    float scale;
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
// block, their scales [BLOCK].
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

// Make scores of one row weights, and take them into account: only keys of `own` count, the others of `range` get the
// weight 0. Scores are there for whole sixteens around `range`.
static void soften(const Queries &q, const Desk &desk, int64_t row, Range own, Range range, bool scaled) {
    float *scores = desk.scores + row * BLOCK, *sums = desk.sums + row * q.width();
    const int64_t from = range.low / 16 * 16, to = rounded(range.high, 16);
    for (int64_t j = from; j < to; j += 16) {
        const F value = load(scores + j) * splat(q.scale);
        store(scores + j, scaled ? value * load(desk.k_scale + j) : value);
    }
    for (int64_t j = from; j < to && j < own.low; j++) scores[j] = -INFINITY;
    for (int64_t j = own.high > from ? own.high : from; j < to; j++) scores[j] = -INFINITY;
    F best = splat(desk.top[row]);
    for (int64_t j = from; j < to; j += 16) best = max(load(scores + j), best);
    const float top = largest(best);
    // Nothing but -inf so far: weights of 0, not of exp(-inf + inf).
    const F base = splat(top == -INFINITY ? 0.0f : top);
    if (top != desk.top[row]) {
        const F shrink = exponential(splat(desk.top[row]) - base);
        float lane[16];
        store(lane, shrink);
        desk.total[row] *= lane[0];
        for (int64_t d = 0; d < q.width(); d += 16) store(sums + d, load(sums + d) * shrink);
        desk.top[row] = top;
    }
    F total = zeros();
    for (int64_t j = from; j < to; j += 16) {
        const F weight = exponential(load(scores + j) - base);
        total = total + weight;
        store(scores + j, scaled ? weight * load(desk.v_scale + j) : weight);
    }
    desk.total[row] += sum(total);
}

// Read the lines of `bytes` bytes soon; they are not needed at once.
INLINE void fetch(const char *from, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
}

// Scales of the block, padded with zeros to whole sixteens.
INLINE void take_scales(const Block &b, const Desk &desk) {
    memset(desk.k_scale, 0, BLOCK * sizeof(float));
    memset(desk.v_scale, 0, BLOCK * sizeof(float));
    memcpy(desk.k_scale, b.k_scale, b.count * sizeof(float));
    memcpy(desk.v_scale, b.v_scale, b.count * sizeof(float));
}

template <int KIND> static void few_rows(const Queries &q, const Block &b, const Desk &desk) {
    const int64_t rows = q.rows(), width = q.width(), stride = q.dims * bytes_of(KIND), last = b.count;
    const int64_t of_four = pass_of(rows, ROWS_OF_FOUR), of_panel = pass_of(rows, ROWS_AT_ONCE);
    if (KIND == KV_INT8) take_scales(b, desk);
    // While keys are multiplied the values come, and then the next keys.
    for (int64_t key = 0; key < last; key += 4) {
        const int64_t count = last - key < 4 ? last - key : 4;
        fetch(b.v + key * stride, count * stride);
        four_keys<KIND>(b.k + key * stride, count, q.dims, desk.keys);
        for (int64_t row = 0; row < rows; row += of_four)
            score((int)(rows - row < of_four ? rows - row : of_four),
                  {desk.q + row * width, desk.keys, width, desk.scores + row * BLOCK + key, BLOCK});
    }
    for (int64_t row = 0; row < rows; row++) soften(q, desk, row, seen_by(q, b, row, 1), {0, last}, KIND == KV_INT8);
    for (int64_t key = 0; key < last; key += VALUES_AT_ONCE) {
        const int64_t count = last - key < VALUES_AT_ONCE ? last - key : VALUES_AT_ONCE;
        const int64_t next = between(b.ahead - key, 0, count);
        fetch(b.k + (last + key) * stride, next * stride);
        value_panels<KIND>(b.v + key * stride, nullptr, count, q.dims, VALUES_AT_ONCE, desk.values);
        for (int64_t d = 0; d < width; d += PANEL)
            for (int64_t row = 0; row < rows; row += of_panel)
                multiply((int)(rows - row < of_panel ? rows - row : of_panel),
                         (int)((width - d < PANEL ? width - d : PANEL) / 16),
                         {desk.scores + row * BLOCK + key, BLOCK, desk.values + d * VALUES_AT_ONCE,
                          desk.sums + row * width + d, width, count, true});
    }
}

template <int KIND> static void many_rows(const Queries &q, const Block &b, const Desk &desk) {
    const int64_t rows = q.rows(), width = q.width(), at_once = pass_of(rows, ROWS_AT_ONCE);
    const bool scaled = KIND == KV_INT8;
    if (scaled) take_scales(b, desk);
    key_panels<KIND>(b.k, scaled ? desk.k_scale : nullptr, b.count, q.dims, desk.keys);
    value_panels<KIND>(b.v, scaled ? desk.v_scale : nullptr, b.count, q.dims, BLOCK, desk.values);
    for (int64_t key = 0; key < b.count; key += PANEL)
        for (int64_t row = 0; row < rows; row += at_once) {
            const int64_t count = rows - row < at_once ? rows - row : at_once;
            const Range seen = seen_by(q, b, row, count);
            if (seen.low >= key + PANEL || seen.high <= key) continue;
            const int64_t columns = rounded(seen.high - key < PANEL ? seen.high - key : PANEL, 16);
            multiply((int)count, (int)(columns / 16),
                     {desk.q + row * width, width, desk.keys + key * q.dims, desk.scores + row * BLOCK + key, BLOCK, q.dims,
                      false});
        }
    for (int64_t first = 0; first < rows; first += at_once) {
        const int64_t count = rows - first < at_once ? rows - first : at_once;
        const Range seen = seen_by(q, b, first, count);
        for (int64_t row = first; row < first + count && !seen.empty(); row++)
            soften(q, desk, row, seen_by(q, b, row, 1), seen, false);
    }
    for (int64_t d = 0; d < width; d += PANEL)
        for (int64_t row = 0; row < rows; row += at_once) {
            const int64_t count = rows - row < at_once ? rows - row : at_once;
            const Range seen = seen_by(q, b, row, count);
            if (seen.empty()) continue;
            multiply((int)count, (int)((width - d < PANEL ? width - d : PANEL) / 16),
                     {desk.scores + row * BLOCK + seen.low, BLOCK, desk.values + d * BLOCK + seen.low * PANEL,
                      desk.sums + row * width + d, width, seen.high - seen.low, true});
        }
}

static void take_block(int kind, const Queries &q, const Block &b, const Desk &desk) {
    if (kind == KV_F16) q.few ? few_rows<KV_F16>(q, b, desk) : many_rows<KV_F16>(q, b, desk);
    else if (kind == KV_BF16) q.few ? few_rows<KV_BF16>(q, b, desk) : many_rows<KV_BF16>(q, b, desk);
    else if (kind == KV_INT8) q.few ? few_rows<KV_INT8>(q, b, desk) : many_rows<KV_INT8>(q, b, desk);
    else q.few ? few_rows<KV_F32>(q, b, desk) : many_rows<KV_F32>(q, b, desk);
}

}  // namespace attending
}  // namespace LAGUNA_VARIANT
