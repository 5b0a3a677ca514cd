// What crosses the border between Python and the library: plain C structs, the same ones in `cpu/abi.py`.
#pragma once

#include <stdint.h>

// How the values of a matrix are stored. TILED_*: tiles of 16 rows (tiles.h). PLAIN_*: rows of numbers.
enum Kind { TILED_INT4 = 0, TILED_INT8 = 1, PLAIN_F32 = 2, PLAIN_BF16 = 3, PLAIN_F16 = 4 };
enum ScaleType { SCALE_F32 = 0, SCALE_F16 = 1, SCALE_BF16 = 2 };
// In what keys and values are kept; INT8 has a fp32 scale for every token and head.
enum KVKind { KV_F32 = 0, KV_F16 = 1, KV_BF16 = 2, KV_INT8 = 3 };
enum Gate { GATE_NONE = 0, GATE_PER_HEAD = 1, GATE_PER_ELEMENT = 2 };
enum Result { DONE = 0, NO_MEMORY = 1, NO_SUCH_INDEX = 2, CANCELLED = 3 };

// A stack of `count` matrices [rows, columns] without gaps. `group`, `scale_type` and `minimums` (0 or 1) count for
// tiles only; tiles of odd sizes are padded to whole tiles and whole groups, which `rows` and `columns` do not count.
typedef struct {
    int32_t kind, scale_type, minimums, group;
    int64_t count, rows, columns;
    const void *data;
} LagunaMatrix;

// One decoder layer. Vectors are fp32; NULL where the model has none. A dense layer has `experts` 0 and its MLP in
// `shared_*`; a sparse one without a shared expert has shared_inner 0.
typedef struct {
    int32_t heads, kv_heads, head_dim, rotary, window, gate_kind;
    float eps;
    const float *input_norm, *post_norm, *q_norm, *k_norm, *q_bias, *k_bias, *v_bias, *o_bias;
    LagunaMatrix q, k, v, o, gate;
    int32_t experts, per_token, inner, shared_inner, normalize, reserved;
    float routed_scale, softcap;
    LagunaMatrix router;
    const float *router_bias;
    LagunaMatrix gate_up, down, shared_gate, shared_up, shared_down;
} LagunaLayer;

// Consecutive positions of one layer's cache, from `start` on: codes [kv_heads, capacity, head_dim] of which `count`
// are read, scales [kv_heads, capacity] or NULL. `capacity` is counted in tokens.
typedef struct {
    void *k, *v;
    float *k_scale, *v_scale;
    int64_t capacity, start, count;
} LagunaRun;

// One sequence of a batch: rows `begin` to `end`, the first of them at position `first`. In a layer its keys lie in some
// runs, in order of position; the last `end - begin` slots of the last run are its own.
typedef struct {
    int64_t begin, end, first;
} LagunaSpan;

// cos and sin of each token's position, [tokens, rotary / 2], the attention factor included.
typedef struct {
    const float *cos, *sin;
} LagunaTurn;

// All layers of a pass: h [tokens, hidden] is changed in place. `run_counts` [layers, spans]; `runs` has them all, layer
// after layer, and within a layer span after span; own keys are written into them. `turns` [layers]. `cancel` (or NULL)
// is looked at before every layer; where it is not 0 the pass ends with CANCELLED and h is worth nothing.
typedef struct {
    const LagunaLayer *layers;
    int64_t layer_count, hidden, tokens, span_count;
    float *h;
    const LagunaSpan *spans;
    const int32_t *run_counts;
    const LagunaRun *runs;
    const LagunaTurn *turns;
    const volatile int32_t *cancel;
    int32_t kv_kind, threads;
} LagunaForward;

// y [n, rows] = x [n, columns] times the matrix transposed, plus bias [rows] unless it is NULL. With `experts` [n], row i
// of x meets matrix experts[i] of the stack. x and y without gaps.
typedef struct {
    LagunaMatrix matrix;
    const float *x, *bias;
    float *y;
    const int64_t *experts;
    int64_t n;
    int32_t threads, reserved;
} LagunaProduct;

// out [n, columns] = rows of the stack seen as one matrix: ids[0 .. n), or where that is NULL, `first` and those after.
typedef struct {
    LagunaMatrix matrix;
    const int64_t *ids;
    float *out;
    int64_t first, n;
    int32_t threads, reserved;
} LagunaRows;

// out [tokens, heads, head_dim]: what queries q of the same shape see in the runs of their span, their own keys included
// (which lie there already). `runs` span after span, `run_counts` [spans]. Section 2e of the specification.
typedef struct {
    const float *q;
    float *out;
    const LagunaSpan *spans;
    const int32_t *run_counts;
    const LagunaRun *runs;
    int64_t tokens, span_count;
    int32_t heads, kv_heads, head_dim, window, kv_kind, threads;
} LagunaAttention;

// The experts of each token: logits [tokens, experts] (changed), bias [experts]; picked [tokens, per_token] ascending,
// share [tokens, per_token]. Section 2i.
typedef struct {
    float *logits;
    const float *bias;
    int32_t *picked;
    float *share;
    int64_t tokens;
    int32_t experts, per_token, normalize;
    float softcap;
} LagunaRouting;
