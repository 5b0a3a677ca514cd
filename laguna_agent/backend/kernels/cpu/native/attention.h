// Attention over the cache (section 2e): which rows meet which keys in which task, and how pieces become one.
//
// A task is one KV head, some tokens of a span and the keys that they see; where few tokens see many keys, a fixed number
// of those keys, and what comes of the pieces is merged afterwards. Nothing of this depends on the number of threads, so
// neither does the result.
#pragma once

#include <stdlib.h>

#include "attention_blocks.h"
#include "pool.h"

namespace LAGUNA_VARIANT {
namespace attending {

constexpr int64_t ROWS_OF_TASK = 384;   // with 128 dims a task's rows and a block of keys take 0.7 megabytes
constexpr int64_t KEYS_OF_TASK = 1024;  // of few rows; of more
constexpr int64_t KEYS_OF_TILE = 4096;
constexpr int64_t SPLIT_UP_TO = 64;     // tokens of a span; longer ones make tasks enough

// Consecutive tokens of a span. `pieces` tasks for each KV head, the first of them `task`; where there are several, what
// they find goes to `partial`, floats from the beginning of all partials.
struct Tile {
    int64_t begin, tokens, first, run, runs, keys, pieces, task, partial;
};

struct Plan {
    const LagunaAttention *given;
    int64_t group, width, most_rows, tile_count, tasks, partial_floats, merges;
    bool few;  // all tiles
    Tile *tiles;
    float *partials, *desks;
};

INLINE Queries queries_of(const Plan *p, const Tile &tile) {
    const LagunaAttention *a = p->given;
    return {tile.tokens, p->group, tile.first, a->window, a->head_dim, tile.tokens * p->group <= FEW_ROWS};
}

// The slots of a run that some token of the tile sees.
INLINE Range seen_in(const LagunaRun &run, const Queries &q) {
    const int64_t newest = q.first + q.tokens - 1 - run.start, oldest = q.first - run.start;
    return {q.window ? between(oldest - q.window + 1, 0, run.count) : 0, between(newest + 1, 0, run.count)};
}

// A piece's rows with what it knows of them: top, total, sums.
INLINE int64_t piece_floats(const Plan *p, int64_t rows) { return rounded(rows * (p->width + 2), 16); }

INLINE int64_t keys_of_piece(const Queries &q) { return q.few ? KEYS_OF_TASK : KEYS_OF_TILE; }

static void add_tile(Plan *p, Tile tile, int64_t tokens_of_span) {
    const Queries q = queries_of(p, tile);
    tile.keys = 0;
    for (int64_t r = 0; r < tile.runs; r++) {
        const Range seen = seen_in(p->given->runs[tile.run + r], q);
        tile.keys += seen.empty() ? 0 : seen.high - seen.low;
    }
    tile.pieces = 1;
    if (tokens_of_span <= SPLIT_UP_TO && tile.keys > keys_of_piece(q))
        tile.pieces = (tile.keys + keys_of_piece(q) - 1) / keys_of_piece(q);
    tile.task = p->tasks;
    tile.partial = p->partial_floats;
    p->tasks += tile.pieces * p->given->kv_heads;
    if (tile.pieces > 1) {
        p->partial_floats += tile.pieces * p->given->kv_heads * piece_floats(p, q.rows());
        p->merges += p->given->kv_heads;
    }
    if (q.rows() > p->most_rows) p->most_rows = q.rows();
    p->few = p->few && q.few;
    if (p->tiles) p->tiles[p->tile_count] = tile;
    p->tile_count++;
}

// Cut the work; without `tiles` it is only counted. The last tokens of a span come first: they see most.
static void cut(Plan *p, const LagunaAttention *a, Tile *tiles) {
    *p = {};
    p->given = a, p->tiles = tiles;
    p->group = a->heads / a->kv_heads;
    p->width = rounded(a->head_dim, 16);
    p->few = true;
    const int64_t most = p->group < ROWS_OF_TASK ? ROWS_OF_TASK / p->group : 1;
    int64_t run = 0;
    for (int64_t s = 0; s < a->span_count; s++) {
        const LagunaSpan &span = a->spans[s];
        for (int64_t end = span.end; end > span.begin;) {
            const int64_t begin = span.begin + (end - 1 - span.begin) / most * most;
            Tile tile = {};
            tile.begin = begin, tile.tokens = end - begin, tile.first = span.first + begin - span.begin;
            tile.run = run, tile.runs = a->run_counts[s];
            add_tile(p, tile, span.end - span.begin);
            end = begin;
        }
        run += a->run_counts[s];
    }
}

INLINE int64_t key_floats(const Plan *p) { return p->width * (p->few ? 4 : BLOCK); }
INLINE int64_t value_floats(const Plan *p) { return rounded(p->width, PANEL) * (p->few ? VALUES_AT_ONCE : BLOCK); }
INLINE int64_t desk_floats(const Plan *p) {
    const int64_t rows = p->most_rows;
    return rows * (2 * p->width + BLOCK) + 2 * rounded(rows, 16) + key_floats(p) + value_floats(p) + 2 * BLOCK;
}

INLINE Desk desk_of(const Plan *p, int worker) {
    Desk desk;
    const int64_t rows = p->most_rows;
    desk.q = p->desks + worker * desk_floats(p);
    desk.sums = desk.q + rows * p->width;
    desk.scores = desk.sums + rows * p->width;
    desk.keys = desk.scores + rows * BLOCK;
    desk.values = desk.keys + key_floats(p);
    desk.k_scale = desk.values + value_floats(p);
    desk.v_scale = desk.k_scale + BLOCK;
    desk.top = desk.v_scale + BLOCK;
    desk.total = desk.top + rounded(rows, 16);
    return desk;
}

// Row `row` of the tile's rows of one KV head, in q or in out.
INLINE int64_t place_of(const Plan *p, const Tile &tile, int64_t head, int64_t row) {
    const LagunaAttention *a = p->given;
    return ((tile.begin + row / p->group) * a->heads + head * p->group + row % p->group) * a->head_dim;
}

// All keys of a piece: numbers `from` .. `to` of those that the tile sees.
static void go_over_keys(const Plan *p, const Tile &tile, const Queries &q, int64_t head, Range piece, const Desk &desk) {
    const LagunaAttention *a = p->given;
    const int64_t stride = a->head_dim * bytes_of(a->kv_kind);
    int64_t before = 0;
    for (int64_t r = 0; r < tile.runs && before < piece.high; r++) {
        const LagunaRun &run = a->runs[tile.run + r];
        const Range seen = seen_in(run, q);
        if (seen.empty()) continue;
        const int64_t low = seen.low + between(piece.low - before, 0, seen.high - seen.low);
        const int64_t high = seen.low + between(piece.high - before, 0, seen.high - seen.low);
        for (int64_t at = low; at < high; at += BLOCK) {
            const int64_t slot = head * run.capacity + at, count = high - at < BLOCK ? high - at : BLOCK;
            const bool scaled = a->kv_kind == KV_INT8;
            take_block(a->kv_kind, q,
                       {(const char *)run.k + slot * stride, (const char *)run.v + slot * stride,
                        scaled ? run.k_scale + slot : nullptr, scaled ? run.v_scale + slot : nullptr, run.start + at, count,
                        high - at - count},
                       desk);
        }
        before += seen.high - seen.low;
    }
}

INLINE void store_row(float *out, const float *sums, F factor, int64_t dims) {
    const int64_t whole = dims / 16 * 16;
    for (int64_t d = 0; d < whole; d += 16) store(out + d, load(sums + d) * factor);
    if (whole == dims) return;
    float lane[16];
    store(lane, load(sums + whole) * factor);
    memcpy(out + whole, lane, (dims - whole) * sizeof(float));
}

INLINE const Tile &tile_of(const Plan *p, int64_t task) {
    int64_t low = 0, high = p->tile_count;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (p->tiles[middle].task <= task) low = middle;
        else high = middle;
    }
    return p->tiles[low];
}

static void attention_task(void *plan, int64_t task, int worker) {
    const Plan *p = (const Plan *)plan;
    const Tile &tile = tile_of(p, task);
    const Queries q = queries_of(p, tile);
    const int64_t rows = q.rows(), head = (task - tile.task) / tile.pieces, piece = (task - tile.task) % tile.pieces;
    Desk desk = desk_of(p, worker);
    if (tile.pieces > 1) {
        desk.sums = p->partials + tile.partial + (task - tile.task) * piece_floats(p, rows);
        desk.top = desk.sums + rows * p->width;
        desk.total = desk.top + rows;
    }
    const F factor = splat(1.44269504f / sqrtf((float)q.dims));
    for (int64_t row = 0; row < rows; row++) {
        const char *asked = (const char *)(p->given->q + place_of(p, tile, head, row));
        for (int64_t d = 0; d < q.dims; d += 16)
            store(desk.q + row * p->width + d, numbers<KV_F32>(asked, d, q.dims) * factor);
        desk.top[row] = -INFINITY, desk.total[row] = 0.0f;
    }
    memset(desk.sums, 0, rows * p->width * sizeof(float));
    const int64_t each = tile.pieces > 1 ? keys_of_piece(q) : tile.keys;
    go_over_keys(p, tile, q, head, {piece * each, (piece + 1) * each}, desk);
    for (int64_t row = 0; row < rows && tile.pieces == 1; row++)
        store_row(p->given->out + place_of(p, tile, head, row), desk.sums + row * p->width,
                  splat(1.0f) / splat(desk.total[row]), q.dims);
}

// One KV head of the tile with number `merge / kv_heads` among those in pieces.
static void merge_task(void *plan, int64_t merge, int) {
    const Plan *p = (const Plan *)plan;
    const Tile *tile = p->tiles;
    for (int64_t left = merge / p->given->kv_heads; tile->pieces == 1 || left-- > 0;) tile++;
    const int64_t head = merge % p->given->kv_heads, rows = tile->tokens * p->group, floats = piece_floats(p, rows);
    float *pieces = p->partials + tile->partial + head * tile->pieces * floats;
    for (int64_t row = 0; row < rows; row++) {
        const float *tops = pieces + rows * p->width + row;
        float top = -INFINITY, total = 0.0f, *sums = pieces + row * p->width;
        for (int64_t i = 0; i < tile->pieces; i++) top = tops[i * floats] > top ? tops[i * floats] : top;
        for (int64_t i = 0; i < tile->pieces; i++) {
            float share[16];
            const F factor = weight_of(splat(tops[i * floats]) - base_of(top));
            store(share, factor);
            total += share[0] * tops[i * floats + rows];
            for (int64_t d = 0; d < p->width; d += 16)
                store(sums + d, fma(load(sums + i * floats + d), factor, i ? load(sums + d) : zeros()));
        }
        store_row(p->given->out + place_of(p, *tile, head, row), sums, splat(1.0f) / splat(total), p->given->head_dim);
    }
}

}  // namespace attending

// All of it, for a valid `a`. `more_follow`: see run_tasks.
static int attend(const LagunaAttention *a, int more_follow) {
    using namespace attending;
    Plan plan;
    cut(&plan, a, nullptr);
    const int64_t tile_floats = rounded(plan.tile_count * (int64_t)(sizeof(Tile) / sizeof(float)), 16);
    const int64_t partial_floats = plan.partial_floats, threads = a->threads > 1 ? a->threads : 1;
    const int64_t floats = tile_floats + partial_floats + threads * desk_floats(&plan);
    void *memory = nullptr;
    if (posix_memalign(&memory, 64, (floats + 16) * sizeof(float))) return NO_MEMORY;
    cut(&plan, a, (Tile *)memory);
    plan.partials = (float *)memory + tile_floats;
    plan.desks = plan.partials + partial_floats;
    run_tasks(a->threads, plan.tasks, attention_task, &plan, more_follow || plan.merges);
    if (plan.merges) run_tasks(a->threads, plan.merges, merge_task, &plan, more_follow);
    free(memory);
    return DONE;
}

// NO_SUCH_INDEX where heads or number format make no sense.
static int attention(const LagunaAttention *a) {
    if (a->kv_heads < 1 || a->heads < a->kv_heads || a->heads % a->kv_heads || a->head_dim < 1 || a->kv_kind < KV_F32 ||
        a->kv_kind > KV_INT8)
        return NO_SUCH_INDEX;
    return attend(a, 0);
}

}  // namespace LAGUNA_VARIANT
