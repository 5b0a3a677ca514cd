// Products in fp32 with the exact values of the weights, and rows of weights as floats: what activations in 8 bits are
// held against.
//
// Up to four rows of x meet a tile as it lies: sixteen rows of weights are sixteen lanes, and each number of x is
// spread over them. More meet values that were made once: a block of sixteen rows becomes floats, column after column.
// Rows of plain numbers are multiplied along their columns.
#pragma once

#include <stdlib.h>

#include "pool.h"
#include "values.h"

namespace LAGUNA_VARIANT {

// Rows of x that a block of a tile, and rows of weights and of x that plain numbers are multiplied with at a time: as
// many sums as registers hold.
constexpr int TILE = PARTS == 1 ? 8 : 4;
constexpr int PLAIN_ROWS = 2;
constexpr int PLAIN_TILE = PARTS == 1 ? 4 : 2;
// Weights that a task reads at least: several microseconds of work, against the tenth that taking a task costs.
constexpr int64_t TASK_WEIGHTS = 49152;
// How far ahead of the products codes are asked for, in bytes. The processor's own foresight ends at every page.
constexpr int64_t EXACT_AHEAD = 4096;

struct Exact {
    const LagunaProduct *given;
    const float *x;     // [n, width], padded with zeros
    float *padded;      // where x must be copied, else NULL
    float *x_sums;      // [n, groups]: sums of x over each group of columns; NULL without minimums
    int64_t width;
    int64_t *order, *starts, *experts, groups;  // rows of x sorted by expert; where each one's begin; which it is
    int64_t blocks, task_blocks, tasks;         // of sixteen rows in a matrix; of a task; of a matrix
    float *panels;                              // [threads][width][16], for many rows of x and tiles
};

// Sums that R rows of x have for each group of columns, so that no addition waits for the one before.
template <int R> constexpr int CHAINS = R == 1 ? 4 : R == 2 || PARTS == 1 ? 2 : 1;

// Add the codes (less their middle) of 32 columns times R rows of x, from their column `at` on.
template <int KIND, int R>
INLINE void add_step(const uint8_t *codes, const float *const *x, int64_t at, F (*sums)[CHAINS<R>]) {
    for (int j = 0; j < (KIND == TILED_INT4 ? 4 : 8); j++) {
        const I words = load_int((const int32_t *)(codes + 64 * j));
        prefetch(codes + 64 * j + EXACT_AHEAD);
        for (int i = 0; i < 4; i++) {
            const int chain = i % CHAINS<R>;
            const F low = lane_codes<KIND>(words, 8 * i);
            for (int r = 0; r < R; r++) sums[r][chain] = fma(low, splat(x[r][at + 4 * j + i]), sums[r][chain]);
            if (KIND != TILED_INT4) continue;
            const F high = lane_codes<KIND>(words, 8 * i + 4);
            for (int r = 0; r < R; r++) sums[r][chain] = fma(high, splat(x[r][at + 16 + 4 * j + i]), sums[r][chain]);
        }
    }
}

// Sixteen rows of weights with R rows of x. Scales multiply the sum of a group; x_sums meet what all its codes share.
template <int KIND, int R>
INLINE void block_products(const LagunaMatrix *m, const uint8_t *w, const float *const *x, const float *const *x_sums,
                           F *totals) {
    const int64_t groups = groups_of(m), bytes = code_bytes(m), scales = scale_bytes(m);
    for (int r = 0; r < R; r++) totals[r] = zeros();
    for (int64_t at = 0, g = 0; g < groups; g++) {
        F sums[R][CHAINS<R>] = {};
        for (const int64_t next = at + m->group; at < next; at += STEP, w += bytes) add_step<KIND, R>(w, x, at, sums);
        const F scale = load_scales(m->scale_type, w);
        w += scales;
        for (int r = 0; r < R; r++) {
            F sum = sums[r][0];
            if (CHAINS<R> > 1) sum = sum + sums[r][1 % CHAINS<R>];
            if (CHAINS<R> > 2) sum = sum + (sums[r][2 % CHAINS<R>] + sums[r][3 % CHAINS<R>]);
            totals[r] = fma(sum, scale, totals[r]);
        }
        if (!m->minimums) continue;
        const F minimum = load_scales(m->scale_type, w), middle = splat(KIND == TILED_INT4 ? 8 : 0);
        w += scales;
        for (int r = 0; r < R; r++) totals[r] = fma(fma(middle, scale, minimum), splat(x_sums[r][g]), totals[r]);
    }
}

// The first `count` lanes to y, with their bias.
INLINE void put(float *y, const float *bias, int64_t count, F values) {
    if (count == 16) {
        store(y, bias ? values + load(bias) : values);
        return;
    }
    float lane[16];
    store(lane, values);
    for (int64_t i = 0; i < count; i++) y[i] = bias ? lane[i] + bias[i] : lane[i];
}

// The rows of x that `pairs` [n] names. Places that none fills repeat the last; nobody reads what comes of them.
template <int R> INLINE void rows_of_x(const Exact *e, const int64_t *pairs, int64_t n, const float **x) {
    for (int r = 0; r < R; r++) x[r] = e->x + pairs[r < n ? r : n - 1] * e->width;
}

template <int R> INLINE void put_rows(const Exact *e, const int64_t *pairs, int64_t n, int64_t row, const F *totals) {
    const LagunaMatrix *m = &e->given->matrix;
    const int64_t count = m->rows - row < 16 ? m->rows - row : 16;
    const float *bias = e->given->bias ? e->given->bias + row : nullptr;
    for (int r = 0; r < R && r < n; r++) put(e->given->y + pairs[r] * m->rows + row, bias, count, totals[r]);
}

// A block as it lies, with at most R rows of x.
template <int KIND, int R>
static void few_rows(const Exact *e, const uint8_t *block, const int64_t *pairs, int64_t n, int64_t row) {
    const LagunaMatrix *m = &e->given->matrix;
    const float *x[R], *sums[R];
    F totals[R];
    rows_of_x<R>(e, pairs, n, x);
    for (int r = 0; r < R; r++) sums[r] = e->x_sums ? e->x_sums + pairs[r < n ? r : n - 1] * groups_of(m) : nullptr;
    block_products<KIND, R>(m, block, x, sums, totals);
    put_rows<R>(e, pairs, n, row, totals);
}

// The block of weights in the panel, with at most R rows of x.
template <int R>
INLINE void panel_product(const Exact *e, const float *panel, const int64_t *pairs, int64_t n, int64_t row) {
    const float *x[R];
    F totals[R];
    rows_of_x<R>(e, pairs, n, x);
    for (int r = 0; r < R; r++) totals[r] = zeros();
    for (int64_t c = 0; c < e->given->matrix.columns; c++) {
        const F values = load(panel + 16 * c);
        for (int r = 0; r < R; r++) totals[r] = fma(values, splat(x[r][c]), totals[r]);
    }
    put_rows<R>(e, pairs, n, row, totals);
}

// Sixteen rows (or what is left) from `row` on of a tiled matrix, with the rows of x that `pairs` [n] names.
template <int KIND>
static void tiled_block(const Exact *e, const uint8_t *data, const int64_t *pairs, int64_t n, int64_t row, int worker) {
    const LagunaMatrix *m = &e->given->matrix;
    const uint8_t *block = data + row / ROWS * block_bytes(m);
    if (n == 1) return few_rows<KIND, 1>(e, block, pairs, n, row);
    if (n == 2) return few_rows<KIND, 2>(e, block, pairs, n, row);
    if (n <= 4) return few_rows<KIND, 4>(e, block, pairs, n, row);
    float *panel = e->panels + worker * e->width * 16;
    block_values<KIND>(m, block, panel);
    for (int64_t first = 0; first < n; first += TILE) {
        if (n - first <= 2) panel_product<2>(e, panel, pairs + first, n - first, row);
        else panel_product<TILE>(e, panel, pairs + first, n - first, row);
    }
}

// out[w][r]: W rows of plain weights with R rows of x, whose columns are padded with zeros.
template <int KIND, int W, int R>
INLINE void plain_products(const uint8_t *const *weights, int64_t columns, const float *const *x, float (*out)[R]) {
    F sums[W][R];
    for (int w = 0; w < W; w++)
        for (int r = 0; r < R; r++) sums[w][r] = zeros();
    const int64_t size = number_bytes(KIND);
    for (int64_t c = 0; c < columns; c += 16) {
        F values[W];
        for (int w = 0; w < W; w++) {
            const uint8_t *at = weights[w] + c * size;
            // Behind the last row of a mapped file there may be nothing to read.
            uint8_t last[64] = {0};
            if (columns - c < 16) at = (const uint8_t *)memcpy(last, at, (columns - c) * size);
            prefetch(at + EXACT_AHEAD);
            values[w] = numbers<KIND>(at);
        }
        for (int r = 0; r < R; r++) {
            const F meets = load(x[r] + c);
            for (int w = 0; w < W; w++) sums[w][r] = fma(values[w], meets, sums[w][r]);
        }
    }
    for (int w = 0; w < W; w++)
        for (int r = 0; r < R; r++) out[w][r] = sum(sums[w][r]);
}

template <int KIND, int W, int R>
INLINE void plain_panel(const Exact *e, const uint8_t *data, const int64_t *pairs, int64_t n, int64_t row,
                        int64_t end) {
    const LagunaMatrix *m = &e->given->matrix;
    const uint8_t *weights[W];
    const float *x[R];
    float out[W][R];
    for (; row < end; row += W) {
        for (int w = 0; w < W; w++)
            weights[w] = data + (row + w < end ? row + w : end - 1) * m->columns * number_bytes(KIND);
        for (int64_t first = 0; first < n; first += R) {
            for (int r = 0; r < R; r++) x[r] = e->x + pairs[first + r < n ? first + r : n - 1] * e->width;
            plain_products<KIND, W, R>(weights, m->columns, x, out);
            for (int r = 0; r < R && first + r < n; r++)
                for (int w = 0; w < W && row + w < end; w++)
                    e->given->y[pairs[first + r] * m->rows + row + w] =
                        out[w][r] + (e->given->bias ? e->given->bias[row + w] : 0);
        }
    }
}

// The same block of a matrix of plain numbers.
template <int KIND>
static void plain_block(const Exact *e, const uint8_t *data, const int64_t *pairs, int64_t n, int64_t row, int) {
    const int64_t rows = e->given->matrix.rows, end = row + 16 < rows ? row + 16 : rows;
    if (n == 1) plain_panel<KIND, 4, 1>(e, data, pairs, n, row, end);
    else plain_panel<KIND, PLAIN_ROWS, PLAIN_TILE>(e, data, pairs, n, row, end);
}

typedef void (*Block)(const Exact *, const uint8_t *, const int64_t *, int64_t, int64_t, int);

static void exact_task(void *job, int64_t task, int worker) {
    static const Block by_kind[] = {tiled_block<TILED_INT4>, tiled_block<TILED_INT8>, plain_block<PLAIN_F32>,
                                    plain_block<PLAIN_BF16>, plain_block<PLAIN_F16>};
    const Exact *e = (const Exact *)job;
    const LagunaMatrix *m = &e->given->matrix;
    const int64_t group = task / e->tasks, first = task % e->tasks * e->task_blocks;
    const int64_t bytes = is_tiled(m) ? matrix_bytes(m) : m->rows * m->columns * number_bytes(m->kind);
    const uint8_t *data = (const uint8_t *)m->data + e->experts[group] * bytes;
    const int64_t *pairs = e->order + e->starts[group], n = e->starts[group + 1] - e->starts[group];
    for (int64_t b = first; b < first + e->task_blocks && b < e->blocks; b++)
        by_kind[m->kind](e, data, pairs, n, 16 * b, worker);
}

// Sixteen rows of x: copied with their padding, summed over groups.
static void prepare_task(void *job, int64_t task, int) {
    const Exact *e = (const Exact *)job;
    const LagunaMatrix *m = &e->given->matrix;
    const int64_t columns = m->columns, groups = e->x_sums ? groups_of(m) : 0;
    for (int64_t i = task * 16; i < e->given->n && i < task * 16 + 16; i++) {
        if (e->padded) {
            memcpy(e->padded + i * e->width, e->given->x + i * columns, columns * sizeof *e->x);
            memset(e->padded + i * e->width + columns, 0, (e->width - columns) * sizeof *e->x);
        }
        for (int64_t g = 0; g < groups; g++) {
            F total = zeros();
            for (int c = 0; c < m->group; c += 16) total = total + load(e->x + i * e->width + g * m->group + c);
            e->x_sums[i * groups + g] = sum(total);
        }
    }
}

// Sort the rows of x by expert, ascending, order within one kept. `places` [count + 1] are zeros.
static int sort_by_expert(Exact *e, int64_t *places) {
    const int64_t count = e->given->matrix.count, n = e->given->n, *experts = e->given->experts;
    for (int64_t i = 0; i < n; i++) {
        const int64_t expert = experts ? experts[i] : 0;
        if (expert < 0 || expert >= count) return NO_SUCH_INDEX;
        places[expert + 1]++;
    }
    for (int64_t expert = 0; expert < count; expert++) {
        if (places[expert + 1]) {
            e->starts[e->groups] = places[expert];
            e->experts[e->groups++] = expert;
        }
        places[expert + 1] += places[expert];
    }
    e->starts[e->groups] = n;
    for (int64_t i = 0; i < n; i++) e->order[places[experts ? experts[i] : 0]++] = i;
    return DONE;
}

// Bytes as whole cache lines, so that what lies behind starts on one.
INLINE int64_t lines(int64_t bytes) { return (bytes + 63) / 64 * 64; }

static int exact_product(const LagunaProduct *given) {
    const LagunaMatrix *m = &given->matrix;
    const int64_t n = given->n, threads = given->threads < 1 ? 1 : given->threads;
    Exact e = {};
    e.given = given;
    e.width = is_tiled(m) ? padded_columns(m) : (m->columns + 15) / 16 * 16;
    e.blocks = (m->rows + 15) / 16;
    e.task_blocks = TASK_WEIGHTS / (16 * e.width + 1) + 1;
    e.tasks = (e.blocks + e.task_blocks - 1) / e.task_blocks;
    const bool copied = e.width != m->columns, summed = is_tiled(m) && m->minimums;
    const int64_t numbers = lines((3 * n + 1 + m->count + 1) * 8), x_bytes = copied ? lines(n * e.width * 4) : 0;
    const int64_t sum_bytes = summed ? lines(n * groups_of(m) * 4) : 0;
    const int64_t panel_bytes = is_tiled(m) && n > 4 ? threads * e.width * 64 : 0;
    char *scratch = (char *)aligned_alloc(64, numbers + x_bytes + sum_bytes + panel_bytes);
    if (!scratch) return NO_MEMORY;
    e.order = (int64_t *)scratch;
    e.starts = e.order + n;
    e.experts = e.starts + n + 1;
    e.padded = copied ? (float *)(scratch + numbers) : nullptr;
    e.x = copied ? e.padded : given->x;
    e.x_sums = summed ? (float *)(scratch + numbers + x_bytes) : nullptr;
    e.panels = (float *)(scratch + numbers + x_bytes + sum_bytes);
    int64_t *places = e.experts + n;
    memset(places, 0, (m->count + 1) * sizeof *places);
    const int result = sort_by_expert(&e, places);
    if (result == DONE) {
        if (copied || summed) run_tasks((int)threads, (n + 15) / 16, prepare_task, &e, 1);
        run_tasks((int)threads, e.groups * e.tasks, exact_task, &e, 1);
    }
    free(scratch);
    return result;
}

struct RowsJob {
    const LagunaRows *given;
    int64_t at_a_time;
};

// Some of the rows that are asked for; those that follow each other in one block are taken from it together.
static void rows_task(void *job, int64_t task, int) {
    const RowsJob *j = (const RowsJob *)job;
    const LagunaRows *given = j->given;
    const LagunaMatrix *m = &given->matrix;
    const int64_t end = (task + 1) * j->at_a_time < given->n ? (task + 1) * j->at_a_time : given->n;
    for (int64_t i = task * j->at_a_time, count; i < end; i += count) {
        const int64_t row = given->ids ? given->ids[i] : given->first + i, lane = row % m->rows % ROWS;
        float *out = given->out + i * m->columns;
        count = 1;
        if (!is_tiled(m)) {
            const uint8_t *from = (const uint8_t *)m->data + row * m->columns * number_bytes(m->kind);
            if (m->kind == PLAIN_F32) row_of_numbers<PLAIN_F32>(from, m->columns, out);
            else if (m->kind == PLAIN_BF16) row_of_numbers<PLAIN_BF16>(from, m->columns, out);
            else row_of_numbers<PLAIN_F16>(from, m->columns, out);
            continue;
        }
        const uint8_t *data = (const uint8_t *)m->data + row / m->rows * matrix_bytes(m);
        data += row % m->rows / ROWS * block_bytes(m);
        if (!given->ids)
            while (count < end - i && lane + count < ROWS && row % m->rows + count < m->rows) count++;
        if (m->kind == TILED_INT4) rows_of_block<TILED_INT4>(m, data, (int)lane, (int)count, out);
        else rows_of_block<TILED_INT8>(m, data, (int)lane, (int)count, out);
    }
}

static int some_rows(const LagunaRows *given) {
    const LagunaMatrix *m = &given->matrix;
    const int64_t all = m->count * m->rows, n = given->n;
    if (!given->ids && (given->first < 0 || given->first + n > all)) return NO_SUCH_INDEX;
    for (int64_t i = 0; given->ids && i < n; i++)
        if (given->ids[i] < 0 || given->ids[i] >= all) return NO_SUCH_INDEX;
    RowsJob job = {given, (TASK_WEIGHTS / m->columns + ROWS) / ROWS * ROWS};
    run_tasks(given->threads, (n + job.at_a_time - 1) / job.at_a_time, rows_task, &job, 0);
    return DONE;
}

}  // namespace LAGUNA_VARIANT
