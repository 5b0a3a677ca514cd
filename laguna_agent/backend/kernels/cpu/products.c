// Products with stored matrices: weights are read once, from where they lie, and become floats on the way.
#include "matrix.h"
#include "pool.h"

#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

// Floats that start on a cache line.
static float *floats(int64_t n) { return aligned_alloc(64, (size_t)(n * 4 + 64) / 64 * 64); }

enum Result { DONE = 0, NO_MEMORY = 1, NO_SUCH_INDEX = 2 };

// Rows of the matrix, and rows of x, that are multiplied together: as many sums as registers hold.
#if LANES == 8
#define PANEL 2
#else
#define PANEL 4
#endif
#define TILE 4
// Weights that a task reads at least: several microseconds of work, against the tenth that taking a task costs.
#define TASK_WEIGHTS 49152

typedef struct {
    const Matrix *matrix;
    const float *x, *bias;  // x [n, columns], bias [rows] or NULL
    float *chunked;         // x in chunks [n, padded]
    float *y;               // [n, rows]
    int64_t n, groups, block, blocks;
    int64_t *order, *starts, *experts;  // rows of x sorted by expert; where each expert's begin; which expert it is
    float *scratch;
    int64_t scratch_size;  // floats of one worker
} Product;

// out[w][r] for PANEL rows of weights and `wide` rows of x, all [columns] with columns a multiple of CHUNK.
INLINE void tile(int wide, const float *weights, int64_t columns, const float *const *x, float (*out)[TILE]) {
    F32 sums[PANEL][TILE];
    for (int w = 0; w < PANEL; w++)
        for (int r = 0; r < wide; r++) sums[w][r] = (F32){0};
    for (int64_t c = 0; c < columns; c += LANES) {
        F32 weight[PANEL];
        for (int w = 0; w < PANEL; w++) weight[w] = load(weights + w * columns + c);
        for (int r = 0; r < wide; r++) {
            const F32 value = load(x[r] + c);
            for (int w = 0; w < PANEL; w++) sums[w][r] += weight[w] * value;
        }
    }
    for (int w = 0; w < PANEL; w++)
        for (int r = 0; r < wide; r++) out[w][r] = sum(sums[w][r]);
}

static void one_row_of_x(const Product *p, int64_t pair, int64_t base, int64_t row, int64_t end, float *scratch) {
    const int64_t wide = padded(p->matrix->columns);
    float *spare = scratch + row_scratch(p->matrix), *y = p->y + pair * p->matrix->rows;
    for (; row < end; row++) {
        const float value = row_product(p->matrix, base + row, scratch, p->chunked + pair * wide, spare);
        y[row] = p->bias ? value + p->bias[row] : value;
    }
}

static void some_rows_of_x(const Product *p, const int64_t *pairs, int64_t n, int64_t base, int64_t row, int64_t end,
                           float *scratch) {
    const int64_t wide = padded(p->matrix->columns), rows = p->matrix->rows;
    float *panel = scratch + row_scratch(p->matrix), out[PANEL][TILE];
    for (; row < end; row += PANEL) {
        const int real = end - row < PANEL ? (int)(end - row) : PANEL;
        // Places of a panel that no row fills repeat the last one; nobody reads what comes of them.
        for (int w = 0; w < PANEL; w++)
            row_values(p->matrix, base + row + (w < real ? w : real - 1), scratch, panel + w * wide);
        for (int64_t first = 0; first < n; first += TILE) {
            const int64_t count = n - first < TILE ? n - first : TILE;
            const float *x[TILE];
            for (int r = 0; r < TILE; r++) x[r] = p->chunked + pairs[first + (r < count ? r : count - 1)] * wide;
            if (count <= 2) tile(2, panel, wide, x, out);
            else tile(TILE, panel, wide, x, out);
            for (int r = 0; r < count; r++)
                for (int w = 0; w < real; w++)
                    p->y[pairs[first + r] * rows + row + w] = out[w][r] + (p->bias ? p->bias[row + w] : 0);
        }
    }
}

static void product_task(void *job, int64_t task, int worker) {
    const Product *p = job;
    const int64_t group = task / p->blocks, row = task % p->blocks * p->block, rows = p->matrix->rows;
    const int64_t end = row + p->block < rows ? row + p->block : rows, base = p->experts[group] * rows;
    const int64_t *pairs = p->order + p->starts[group], n = p->starts[group + 1] - p->starts[group];
    float *scratch = p->scratch + worker * p->scratch_size;
    if (n == 1) one_row_of_x(p, pairs[0], base, row, end, scratch);
    else some_rows_of_x(p, pairs, n, base, row, end, scratch);
}

static void chunk_task(void *job, int64_t task, int worker) {
    const Product *p = job;
    const int64_t columns = p->matrix->columns;
    (void)worker;
    for (int64_t i = task * 16; i < p->n && i < task * 16 + 16; i++)
        to_chunks(p->matrix->kind, p->x + i * columns, columns, p->chunked + i * padded(columns));
}

// Sort the rows of x by expert, ascending, order within one kept. `experts` NULL: all belong to matrix 0.
static int sort_by_expert(Product *p, const int64_t *experts) {
    const int64_t count = p->matrix->count;
    int64_t *places = calloc(count + 1, sizeof *places);
    if (!places) return NO_MEMORY;
    for (int64_t i = 0; i < p->n; i++) {
        const int64_t expert = experts ? experts[i] : 0;
        if (expert < 0 || expert >= count) {
            free(places);
            return NO_SUCH_INDEX;
        }
        places[expert + 1]++;
    }
    for (int64_t expert = 0; expert < count; expert++) {
        if (places[expert + 1]) {
            p->starts[p->groups] = places[expert];
            p->experts[p->groups++] = expert;
        }
        places[expert + 1] += places[expert];
    }
    p->starts[p->groups] = p->n;
    for (int64_t i = 0; i < p->n; i++) p->order[places[experts ? experts[i] : 0]++] = i;
    free(places);
    return DONE;
}

static int multiply(Product *p, const int64_t *experts, int threads) {
    const Matrix *m = p->matrix;
    const int found = sort_by_expert(p, experts);
    if (found != DONE) return found;
    p->block = TASK_WEIGHTS / m->columns / PANEL * PANEL;
    if (p->block < PANEL) p->block = PANEL;
    p->blocks = (m->rows + p->block - 1) / p->block;
    run_tasks(threads, (p->n + 15) / 16, chunk_task, p, 1);
    run_tasks(threads, p->groups * p->blocks, product_task, p, 1);
    return DONE;
}

// y [n, rows] = x [n, columns] times the matrix transposed, plus bias [rows] unless it is NULL. With `experts` [n], row
// i of x meets matrix experts[i] of the stack. x and y without gaps. NO_SUCH_INDEX: an expert that there is not.
EXPORT int laguna_product(const Matrix *matrix, const float *x, float *y, const float *bias, int64_t n,
                          const int64_t *experts, int threads) {
    Product p = {.matrix = matrix, .x = x, .y = y, .bias = bias, .n = n};
    if (threads < 1) threads = 1;
    p.scratch_size = row_scratch(matrix) + (PANEL * padded(matrix->columns) + 15) / 16 * 16;
    p.order = malloc((3 * n + 1) * sizeof *p.order);
    p.chunked = floats(n * padded(matrix->columns));
    p.scratch = floats(threads * p.scratch_size);
    int result = NO_MEMORY;
    if (p.order && p.chunked && p.scratch) {
        p.starts = p.order + n;
        p.experts = p.starts + n + 1;
        result = multiply(&p, experts, threads);
    }
    free(p.order);
    free(p.chunked);
    free(p.scratch);
    return result;
}

typedef struct {
    const Matrix *matrix;
    const int64_t *rows;  // NULL: rows first, first + 1, ...
    int64_t first, n, block;
    float *out, *scratch;
    int64_t scratch_size;
} Dequantise;

static void dequantise_task(void *job, int64_t task, int worker) {
    const Dequantise *d = job;
    const int64_t columns = d->matrix->columns;
    float *scratch = d->scratch + worker * d->scratch_size, *values = scratch + row_scratch(d->matrix);
    for (int64_t i = task * d->block; i < d->n && i < (task + 1) * d->block; i++) {
        const int64_t row = d->rows ? d->rows[i] : d->first + i;
        row_values(d->matrix, row, scratch, values);
        from_chunks(d->matrix->kind, values, columns, d->out + i * columns);
    }
}

// out [n, columns] = rows of the stack seen as one matrix: rows[0 .. n), or where that is NULL, `first` and those after.
EXPORT int laguna_rows(const Matrix *matrix, const int64_t *rows, int64_t first, int64_t n, float *out, int threads) {
    Dequantise d = {.matrix = matrix, .rows = rows, .first = first, .n = n, .out = out};
    const int64_t all = matrix->count * matrix->rows;
    if (first < 0 || (!rows && first + n > all)) return NO_SUCH_INDEX;
    for (int64_t i = 0; rows && i < n; i++)
        if (rows[i] < 0 || rows[i] >= all) return NO_SUCH_INDEX;
    if (threads < 1) threads = 1;
    d.block = TASK_WEIGHTS / matrix->columns + 1;
    d.scratch_size = row_scratch(matrix) + (padded(matrix->columns) + 15) / 16 * 16;
    d.scratch = floats(threads * d.scratch_size);
    if (!d.scratch) return NO_MEMORY;
    run_tasks(threads, (n + d.block - 1) / d.block, dequantise_task, &d, 0);
    free(d.scratch);
    return DONE;
}

// The vector instructions that this library was compiled for.
EXPORT const char *laguna_vectors(void) { return VECTORS; }
