// Some rows of any matrix times some rows of activations, on one thread: what all phases of a layer are made of.
#pragma once

#include "tile_products.h"
#include "values.h"

namespace LAGUNA_VARIANT {

// Rows of activations: in fp32 for plain matrices, in 8 bits for tiles.
struct Inputs {
    const float *values;  // [n, columns]
    const Step *steps;    // [n, steps]
    int64_t columns, steps_per_row;
};

// Rows that are done together: of two blocks.
constexpr int64_t SPAN = 2 * ROWS;
// From so many tokens on a block is unpacked first.
constexpr int64_t MANY = 2 * TILE_TOKENS;

// Bytes of scratch memory that one thread needs for tokens that it does not unpack for, or does.
constexpr int64_t THREAD_SCRATCH = UNPACKED_BYTES;

template <class C, int TOKENS>
static void packed_tokens(const LagunaMatrix *m, const uint8_t *w, const Step *const *x, float *out) {
    F found[TOKENS];
    packed_block<C, TOKENS>(m, w, x, found);
    for (int t = 0; t < TOKENS; t++) store(out + t * SPAN, found[t]);
}

template <class C>
static void few_tokens(const LagunaMatrix *m, const uint8_t *w, int blocks, const Step *const *x, int64_t n, float *out) {
    for (int b = 0; b < blocks; b++) {
        const uint8_t *block = w + b * block_bytes(m);
        float *to = out + b * ROWS;
        int64_t t = 0;
        for (; n - t >= 4; t += 4) packed_tokens<C, 4>(m, block, x + t, to + t * SPAN);
        if (n - t == 3) packed_tokens<C, 3>(m, block, x + t, to + t * SPAN);
        else if (n - t == 2) packed_tokens<C, 2>(m, block, x + t, to + t * SPAN);
        else if (n - t == 1) packed_tokens<C, 1>(m, block, x + t, to + t * SPAN);
    }
}

template <class C, int BLOCKS>
static void unpacked_tokens(Unpacked u, int64_t steps, int64_t first, const Step *const *x, int64_t n, float *out) {
    int64_t t = 0;
    for (; n - t >= TILE_TOKENS; t += TILE_TOKENS)
        unpacked_tile<C, BLOCKS, TILE_TOKENS>(u, steps, first, x + t, out + t * SPAN, SPAN);
    for (; n - t >= 3; t += 3) unpacked_tile<C, BLOCKS, 3>(u, steps, first, x + t, out + t * SPAN, SPAN);
    if (n - t == 2) unpacked_tile<C, BLOCKS, 2>(u, steps, first, x + t, out + t * SPAN, SPAN);
    else if (n - t == 1) unpacked_tile<C, BLOCKS, 1>(u, steps, first, x + t, out + t * SPAN, SPAN);
}

template <class C>
static void many_tokens(const LagunaMatrix *m, const uint8_t *w, int blocks, const Step *const *x, int64_t n, float *out,
                        void *scratch) {
    const Unpacked u = unpacked_in(scratch);
    const int64_t steps = groups_of(m) * (m->group / STEP);
    for (int b = 0; b < blocks; b += TILE_BLOCKS) {
        const int together = blocks - b < TILE_BLOCKS ? blocks - b : TILE_BLOCKS;
        for (int64_t first = 0; first < steps; first += UNPACKED_STEPS) {
            const int64_t last = first + UNPACKED_STEPS < steps ? first + UNPACKED_STEPS : steps;
            unpack<C>(m, w + b * block_bytes(m), together, first, last, u);
            if (together == TILE_BLOCKS) unpacked_tokens<C, TILE_BLOCKS>(u, last - first, first, x, n, out + b * ROWS);
            else unpacked_tokens<C, 1>(u, last - first, first, x, n, out + b * ROWS);
        }
    }
}

template <class C>
static void tiled_rows(const LagunaMatrix *m, const uint8_t *w, int blocks, const Step *const *x, int64_t n, float *out,
                       void *scratch) {
    if (n < MANY) few_tokens<C>(m, w, blocks, x, n, out);
    else many_tokens<C>(m, w, blocks, x, n, out, scratch);
}

// out[w][t] for 4 rows of a plain matrix and `TOKENS` rows of x.
template <int KIND, int TOKENS>
static void plain_tile(const uint8_t *const *rows, const float *const *x, int64_t columns, float (*out)[4]) {
    F sums[4][TOKENS];
    for (int r = 0; r < 4; r++)
        for (int t = 0; t < TOKENS; t++) sums[r][t] = zeros();
    const int64_t size = number_bytes(KIND);
    int64_t c = 0;
    for (; c + 16 <= columns; c += 16) {
        F value[TOKENS];
        for (int t = 0; t < TOKENS; t++) value[t] = load(x[t] + c);
        for (int r = 0; r < 4; r++) {
            const F weight = numbers<KIND>(rows[r] + c * size);
            for (int t = 0; t < TOKENS; t++) sums[r][t] = fma(weight, value[t], sums[r][t]);
        }
    }
    const int64_t rest = columns - c;
    for (int r = 0; r < 4; r++)
        for (int t = 0; t < TOKENS; t++) {
            if (rest) {  // behind the last row of a mapped file there may be nothing to read
                uint8_t weight[64] = {0};
                float value[16] = {0};
                memcpy(weight, rows[r] + c * size, rest * size);
                memcpy(value, x[t] + c, rest * 4);
                sums[r][t] = fma(numbers<KIND>(weight), load(value), sums[r][t]);
            }
            out[r][t] = sum(sums[r][t]);
        }
}

template <int KIND>
static void plain_rows(const LagunaMatrix *m, const uint8_t *w, int64_t rows, const float *const *x, int64_t n, float *out) {
    const int64_t row_bytes = m->columns * number_bytes(KIND);
    for (int64_t r = 0; r < rows; r += 4)
        for (int64_t t = 0; t < n; t += 4) {
            const uint8_t *row[4];
            const float *value[4];
            float found[4][4];
            // Places that no row fills repeat the last one; nobody reads what comes of them.
            for (int i = 0; i < 4; i++) row[i] = w + (r + i < rows ? r + i : rows - 1) * row_bytes;
            for (int i = 0; i < 4; i++) value[i] = x[t + i < n ? t + i : n - 1];
            if (n - t == 1) plain_tile<KIND, 1>(row, value, m->columns, found);
            else plain_tile<KIND, 4>(row, value, m->columns, found);
            for (int i = 0; i < 4 && r + i < rows; i++)
                for (int j = 0; j < 4 && t + j < n; j++) out[(t + j) * SPAN + r + i] = found[i][j];
        }
}

// out[i * SPAN + r] = row first + r of matrix `which` of the stack times row index[i] of the inputs (NULL: row i), for i <
// n and at most SPAN rows; `first` is a multiple of ROWS. `pointers` has room for n.
static void span_of_rows(const LagunaMatrix *m, int64_t which, int64_t first, const Inputs *in, const int32_t *index,
                         int64_t n, float *out, const void **pointers, void *scratch) {
    const int64_t left = m->rows - first, rows = left < SPAN ? left : SPAN;
    const bool tiled = is_tiled(m);
    for (int64_t i = 0; i < n; i++) {
        const int64_t row = index ? index[i] : i;
        if (tiled) pointers[i] = in->steps + row * in->steps_per_row;
        else pointers[i] = in->values + row * in->columns;
    }
    if (!tiled) {
        const uint8_t *w = (const uint8_t *)m->data + (which * m->rows + first) * m->columns * number_bytes(m->kind);
        const float *const *x = (const float *const *)pointers;
        if (m->kind == PLAIN_F32) plain_rows<PLAIN_F32>(m, w, rows, x, n, out);
        else if (m->kind == PLAIN_BF16) plain_rows<PLAIN_BF16>(m, w, rows, x, n, out);
        else plain_rows<PLAIN_F16>(m, w, rows, x, n, out);
        return;
    }
    const uint8_t *w = (const uint8_t *)m->data + which * matrix_bytes(m) + first / ROWS * block_bytes(m);
    const int blocks = (int)((rows + ROWS - 1) / ROWS);
    const Step *const *x = (const Step *const *)pointers;
    if (m->kind == TILED_INT4) {
        if (m->minimums) tiled_rows<Coded<true, true>>(m, w, blocks, x, n, out, scratch);
        else tiled_rows<Coded<true, false>>(m, w, blocks, x, n, out, scratch);
    } else {
        if (m->minimums) tiled_rows<Coded<false, true>>(m, w, blocks, x, n, out, scratch);
        else tiled_rows<Coded<false, false>>(m, w, blocks, x, n, out, scratch);
    }
}

}  // namespace LAGUNA_VARIANT
