// A stored matrix, and one row of it as floats: multiplied with a vector on the way, or kept.
//
// The formats are those of formats.py: rows of codes, with a scale (and an offset) for each `group` columns.
#pragma once

#include "vectors.h"

enum Kind { INT4 = 0, INT8 = 1, BF16 = 2, F16 = 3 };
enum ScaleType { SCALE_F32 = 0, SCALE_F16 = 1, SCALE_BF16 = 2 };

// A stack of `count` matrices [rows, columns], one behind the other without gaps; `cpu/products.py` has the same struct.
typedef struct {
    int32_t kind, scale_type;
    int64_t count, rows, columns, group;
    const void *codes, *scales, *minimums;  // scales of a plain matrix, and minimums where there are none: NULL
} Matrix;

// Columns are taken CHUNK at a time. Within a chunk of INT4 the even columns come first, then the odd ones, because so
// the nibbles of one load lie; everything that meets a row here is in this order, and padded with zeros to a chunk.
#define CHUNK (2 * LANES)

// How far ahead of the products codes are asked for, in bytes. The processor's own foresight ends at every page.
#define AHEAD 4096

INLINE int64_t padded(int64_t columns) { return (columns + CHUNK - 1) / CHUNK * CHUNK; }

INLINE int64_t groups_of(const Matrix *m) {
    return m->kind == INT4 || m->kind == INT8 ? (m->columns + m->group - 1) / m->group : 0;
}

INLINE int64_t code_bytes(int kind, int64_t columns) {
    return kind == INT4 ? (columns + 1) / 2 : kind == INT8 ? columns : 2 * columns;
}

// Floats of scratch memory that a row needs; whole cache lines, so that what lies behind starts on one.
INLINE int64_t row_scratch(const Matrix *m) { return (2 * (groups_of(m) + LANES) + 15) / 16 * 16; }

// `from` [columns] in the order of a chunk, the padding zero.
INLINE void to_chunks(int kind, const float *from, int64_t columns, float *to) {
    const int64_t whole = columns / CHUNK * CHUNK;
    if (kind != INT4) {
        memcpy(to, from, columns * sizeof *to);
        memset(to + columns, 0, (padded(columns) - columns) * sizeof *to);
        return;
    }
    for (int64_t c = 0; c < whole; c += CHUNK)
        for (int i = 0; i < LANES; i++) to[c + i] = from[c + 2 * i], to[c + LANES + i] = from[c + 2 * i + 1];
    if (whole == columns) return;
    memset(to + whole, 0, CHUNK * sizeof *to);
    for (int64_t i = 0; whole + i < columns; i++) to[whole + i % 2 * LANES + i / 2] = from[whole + i];
}

// The way back: `from` in chunks, `to` [columns].
INLINE void from_chunks(int kind, const float *from, int64_t columns, float *to) {
    const int64_t whole = columns / CHUNK * CHUNK;
    if (kind != INT4) {
        memcpy(to, from, columns * sizeof *to);
        return;
    }
    for (int64_t c = 0; c < whole; c += CHUNK)
        for (int i = 0; i < LANES; i++) to[c + 2 * i] = from[c + i], to[c + 2 * i + 1] = from[c + LANES + i];
    for (int64_t i = 0; whole + i < columns; i++) to[whole + i] = from[whole + i % 2 * LANES + i / 2];
}

// `n` stored scales as floats; up to LANES floats behind them are overwritten.
INLINE void widen(const void *stored, int type, int64_t n, float *to) {
    if (type == SCALE_F32) {
        memcpy(to, stored, n * sizeof *to);
        return;
    }
    const uint16_t *halves = stored;
    uint16_t last[LANES] = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        const uint16_t *at = halves + i;
        if (n - i < LANES) at = memcpy(last, at, (n - i) * sizeof *at);
        store(to + i, type == SCALE_F16 ? f16_values(at) : bf16_values(at));
    }
}

INLINE void chunk_values(int kind, const uint8_t *codes, Grid grid, F32 *first, F32 *second) {
    if (kind == INT4) {
        nibble_values(codes, grid, first, second);
    } else if (kind == INT8) {
        *first = byte_values((const int8_t *)codes, grid);
        *second = byte_values((const int8_t *)codes + LANES, grid);
    } else {
        const uint16_t *halves = (const uint16_t *)codes;
        *first = kind == BF16 ? bf16_values(halves) : f16_values(halves);
        *second = kind == BF16 ? bf16_values(halves + LANES) : f16_values(halves + LANES);
    }
}

// One chunk of a row: to `out` where there is one, else multiplied with x and added to two sums.
INLINE void take_chunk(int kind, const uint8_t *codes, Grid grid, const float *x, float *out, F32 *sums) {
    F32 first, second;
    chunk_values(kind, codes, grid, &first, &second);
    if (out) {
        store(out, first);
        store(out + LANES, second);
    } else {
        sums[0] += first * load(x);
        sums[1] += second * load(x + LANES);
    }
}

// One row whose groups are `per_group` whole chunks (plain rows: 1, and no scales). Always inlined with constants for
// `kind`, `per_group` where it is 1, and one of x and out NULL; returns the product with x.
INLINE float chunked_row(int kind, int64_t per_group, const uint8_t *codes, const float *scales, const float *offsets,
                         int64_t columns, const float *x, float *out) {
    const int64_t chunks = columns / CHUNK, rest = columns % CHUNK, bytes = code_bytes(kind, CHUNK);
    const int scaled = kind == INT4 || kind == INT8;
    F32 sums[4] = {{0}, {0}, {0}, {0}};
    int64_t g = 0;
#define GRID(g) (scaled ? grid(scales[g], offsets[g]) : grid(0, 0))
#define AT(p, c) ((p) ? (p) + (c) * CHUNK : NULL)
    // Two groups at a time, each with sums of its own, so that no addition waits for the one before.
    for (; (g + 2) * per_group <= chunks; g += 2) {
        const Grid one = GRID(g), two = GRID(g + 1);
        for (int64_t i = 0; i < per_group; i++) {
            const int64_t c = g * per_group + i, d = c + per_group;
            __builtin_prefetch(codes + c * bytes + AHEAD);
            if (per_group * bytes >= 64) __builtin_prefetch(codes + d * bytes + AHEAD);
            take_chunk(kind, codes + c * bytes, one, AT(x, c), AT(out, c), sums);
            take_chunk(kind, codes + d * bytes, two, AT(x, d), AT(out, d), sums + 2);
        }
    }
    for (int64_t c = g * per_group; c < chunks; c++)
        take_chunk(kind, codes + c * bytes, GRID(c / per_group), AT(x, c), AT(out, c), sums);
    if (rest) {
        // Behind the last row of a mapped file there may be nothing to read.
        uint8_t last[2 * CHUNK] = {0};
        memcpy(last, codes + chunks * bytes, code_bytes(kind, rest));
        take_chunk(kind, last, GRID(chunks / per_group), AT(x, chunks), AT(out, chunks), sums);
    }
#undef GRID
#undef AT
    return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// A row of any other group size, value by value.
static void odd_row(int kind, const uint8_t *codes, const float *scales, const float *offsets, int64_t columns,
                    int64_t group, float *out) {
    memset(out, 0, padded(columns) * sizeof *out);
    for (int64_t c = 0; c < columns; c++) {
        const int64_t i = c % CHUNK, place = kind == INT4 ? c - i + i % 2 * LANES + i / 2 : c;
        const int code = kind == INT4 ? codes[c / 2] >> c % 2 * 4 & 15 : ((const int8_t *)codes)[c];
        out[place] = (float)code * scales[c / group] + offsets[c / group];
    }
}

// The two functions below; `spare` [padded] is written to where there is no `out`.
INLINE float row_taken(const Matrix *m, int64_t row, float *scratch, const float *x, float *out, float *spare) {
    const int64_t groups = groups_of(m), columns = m->columns, per_group = m->group / CHUNK;
    const uint8_t *codes = (const uint8_t *)m->codes + row * code_bytes(m->kind, columns);
    if (m->kind == BF16) return chunked_row(BF16, 1, codes, NULL, NULL, columns, x, out);
    if (m->kind == F16) return chunked_row(F16, 1, codes, NULL, NULL, columns, x, out);
    float *scales = scratch, *offsets = scratch + groups + LANES;
    const int64_t size = m->scale_type == SCALE_F32 ? 4 : 2, at = row * groups * size;
    widen((const char *)m->scales + at, m->scale_type, groups, scales);
    if (m->minimums)
        widen((const char *)m->minimums + at, m->scale_type, groups, offsets);
    else  // the zero of int4 is 8
        for (int64_t g = 0; g < groups; g++) offsets[g] = m->kind == INT4 ? -8 * scales[g] : 0;
    if (m->group % CHUNK) {
        float *values = out ? out : spare;
        odd_row(m->kind, codes, scales, offsets, columns, m->group, values);
        if (out) return 0;
        F32 total = {0};
        for (int64_t c = 0; c < padded(columns); c += LANES) total += load(values + c) * load(x + c);
        return sum(total);
    }
    if (m->kind == INT4)
        return per_group == 1 ? chunked_row(INT4, 1, codes, scales, offsets, columns, x, out)
                              : chunked_row(INT4, per_group, codes, scales, offsets, columns, x, out);
    return chunked_row(INT8, per_group, codes, scales, offsets, columns, x, out);
}

// The values of row `row` of the whole stack, in chunks [padded].
static void row_values(const Matrix *m, int64_t row, float *scratch, float *out) {
    row_taken(m, row, scratch, NULL, out, NULL);
}

// The product of that row with x, which is in chunks.
static float row_product(const Matrix *m, int64_t row, float *scratch, const float *x, float *spare) {
    return row_taken(m, row, scratch, x, NULL, spare);
}
