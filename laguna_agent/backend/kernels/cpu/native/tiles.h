// Tiles: how a packed matrix lies in the file, and how much of it a load gets.
//
// Sixteen rows make a block, and a block is one stream: group after group of `group` columns (a multiple of 32). A group
// is its codes, 32 columns at a time, then sixteen scales (one for each row), then sixteen minimums where the format has
// them. Of 32 columns int4 takes 256 bytes: four loads of 64, of which byte 4 r + i of load j holds column 4 j + i of
// row r in its low four bits and column 16 + 4 j + i in its high ones. int8 takes 512 bytes: eight loads, of which byte
// 4 r + i of load j holds column 4 j + i of row r, with 128 added. So one load meets one word of four activations.
//
//   int4: value = (code - 8) * scale, or code * scale + minimum; int8: value = (code - 128) * scale [+ minimum]
//
// Rows that do not fill a block, and columns that do not fill a group, are padded with codes of value 0.
#pragma once

#include "abi.h"
#include "isa.h"

namespace LAGUNA_VARIANT {

constexpr int ROWS = 16;  // of a block
constexpr int STEP = 32;  // columns that share an activation scale

INLINE bool is_tiled(const LagunaMatrix *m) { return m->kind == TILED_INT4 || m->kind == TILED_INT8; }
INLINE int64_t code_bytes(const LagunaMatrix *m) { return m->kind == TILED_INT4 ? 8 * STEP : 16 * STEP; }
INLINE int64_t scale_bytes(const LagunaMatrix *m) { return ROWS * (m->scale_type == SCALE_F32 ? 4 : 2); }
INLINE int64_t groups_of(const LagunaMatrix *m) { return (m->columns + m->group - 1) / m->group; }
INLINE int64_t group_bytes(const LagunaMatrix *m) {
    return m->group / STEP * code_bytes(m) + scale_bytes(m) * (m->minimums ? 2 : 1);
}
INLINE int64_t blocks_of(const LagunaMatrix *m) { return (m->rows + ROWS - 1) / ROWS; }
INLINE int64_t block_bytes(const LagunaMatrix *m) { return groups_of(m) * group_bytes(m); }
INLINE int64_t matrix_bytes(const LagunaMatrix *m) { return blocks_of(m) * block_bytes(m); }
// Columns of a matrix with the padding of its last group.
INLINE int64_t padded_columns(const LagunaMatrix *m) { return groups_of(m) * m->group; }

INLINE F load_scales(int type, const void *from) {
    if (type == SCALE_F16) return load_f16((const uint16_t *)from);
    if (type == SCALE_BF16) return load_bf16((const uint16_t *)from);
    return load((const float *)from);
}

}  // namespace LAGUNA_VARIANT
