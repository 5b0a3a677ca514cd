// All decoder layers of a pass, one after the other, on the pool's threads.
#pragma once

#include "mlp_half.h"

namespace LAGUNA_VARIANT {

static int layers(Pass *p) {
    const LagunaForward *f = p->given;
    p->runs = f->runs;
    p->run_counts = f->run_counts;
    for (int64_t i = 0; i < f->layer_count; i++) {
        if (f->cancel && *f->cancel) return CANCELLED;
        p->layer = f->layers + i;
        p->layer_index = i;
        const int found = attention_half(p);
        if (found != DONE) return found;
        mlp_half(p);
        for (int64_t s = 0; s < f->span_count; s++) p->runs += *p->run_counts++;
    }
    return DONE;
}

static int forward(const LagunaForward *given) {
    if (!given->tokens) return DONE;
    Pass p = {};
    p.given = given;
    p.tokens = given->tokens;
    p.hidden = given->hidden;
    p.threads = given->threads < 1 ? 1 : given->threads;
    const Sizes sizes = sizes_of(given);
    Arena arena = {nullptr, 0};
    lay_out(&p, &arena, &sizes);
    uint8_t *memory = (uint8_t *)aligned(arena.used);
    if (!memory) return NO_MEMORY;
    arena = {memory, 0};
    lay_out(&p, &arena, &sizes);
    const int found = layers(&p);
    free(memory);
    return found;
}

}  // namespace LAGUNA_VARIANT
