// The experts of a token (section 2i): sigmoid scores, the best of score plus bias, and the share of each.
//
// Where scores are equal, whom torch picks follows from the steps of its selection: partial sorting by a heap where
// few of many are wanted, else narrowing down around pivots. The same steps are taken here, so that the same experts
// are picked. torch compares by value alone, and no number counts as the largest.
#pragma once

#include <stdlib.h>

#include "maths.h"

namespace LAGUNA_VARIANT {

struct Candidate {
    float value;
    int32_t expert;
};

// Whether `a` comes before `b`: it is larger, or no number where `b` is one.
INLINE bool before(Candidate a, Candidate b) {
    return a.value > b.value || (a.value != a.value && b.value == b.value);
}

INLINE void swap_candidates(Candidate *a, Candidate *b) {
    const Candidate kept = *a;
    *a = *b;
    *b = kept;
}

// Put `placed` into the heap [0, count) whose place `hole` is free: the gap sinks to the bottom along the later
// children, then `placed` rises from there, at most back to where the gap was.
static void sink(Candidate *heap, int hole, int count, Candidate placed) {
    const int top = hole;
    for (int right = 2 * hole + 2; right <= count; right = 2 * hole + 2) {
        // The only child of a last parent is a left one.
        const int child = right == count || before(heap[right], heap[right - 1]) ? right - 1 : right;
        heap[hole] = heap[child];
        hole = child;
    }
    for (; hole > top && before(heap[(hole - 1) / 2], placed); hole = (hole - 1) / 2) heap[hole] = heap[(hole - 1) / 2];
    heap[hole] = placed;
}

// Get the first `wanted` of `all` into the places before `wanted`, in no order: they are kept in a heap with the last
// of them on top, which gives way to whoever comes before it.
static void select_by_heap(Candidate *all, int count, int wanted) {
    for (int parent = wanted / 2 - 1; parent >= 0; parent--) sink(all, parent, wanted, all[parent]);
    for (int i = wanted; i < count; i++) {
        if (!before(all[i], all[0])) continue;
        const Candidate entering = all[i];
        all[i] = all[0];
        sink(all, 0, wanted, entering);
    }
}

// Swap the middle one of three (the second, the centre, the last) to the front.
static void choose_pivot(Candidate *all, int begin, int end) {
    Candidate *a = all + begin + 1, *b = all + begin + (end - begin) / 2, *c = all + end - 1;
    if (before(*a, *b)) swap_candidates(all + begin, before(*b, *c) ? b : before(*a, *c) ? c : a);
    else swap_candidates(all + begin, before(*a, *c) ? a : before(*b, *c) ? c : b);
}

// Divide [begin + 1, end) by the pivot at `begin`; returns where the second part begins. Equals of the pivot stop both
// searches and are swapped: the pivot is the middle one of three, so that neither search runs out of the range.
static int divide(Candidate *all, int begin, int end) {
    const Candidate pivot = all[begin];
    for (int low = begin + 1, high = end;; low++) {
        while (before(all[low], pivot)) low++;
        do high--;
        while (before(pivot, all[high]));
        if (low >= high) return low;
        swap_candidates(all + low, all + high);
    }
}

static void insertion_sort(Candidate *all, int count) {
    for (int i = 1; i < count; i++) {
        const Candidate placed = all[i];
        int at = i;
        for (; at && before(placed, all[at - 1]); at--) all[at] = all[at - 1];
        all[at] = placed;
    }
}

// Get the candidate that belongs at place `wanted - 1` there, and those before it into the places before.
static void select_by_pivots(Candidate *all, int count, int wanted) {
    int begin = 0, end = count, patience = 0;
    for (int size = count; size > 1; size /= 2) patience += 2;
    while (end - begin > 3) {
        if (!patience--) {
            // Pivots that divide badly: the heap needs no luck.
            select_by_heap(all + begin, end - begin, wanted - begin);
            return;
        }
        choose_pivot(all, begin, end);
        const int cut = divide(all, begin, end);
        if (cut < wanted) begin = cut;
        else end = cut;
    }
    insertion_sort(all + begin, end - begin);
}

// Turn `logits` [experts] into scores, in place.
static void scores_of(float *logits, int experts, float softcap) {
    for (int at = 0; at < experts; at += 16) {
        float lane[16] = {0};
        const size_t bytes = (experts - at < 16 ? experts - at : 16) * sizeof *lane;
        memcpy(lane, logits + at, bytes);
        if (softcap != 0)
            for (float &value : lane) value = softcap * tanhf(value / softcap);
        store(lane, sigmoid(load(lane)));
        memcpy(logits + at, lane, bytes);
    }
}

// One token: logits [experts] become scores; picked and share [per_token], 1 <= per_token <= experts, by ascending
// expert and always distinct. `bias` may be NULL; `scratch` holds [experts].
static void route_token(float *logits, const float *bias, int experts, int per_token, int normalize, float softcap,
                        Candidate *scratch, int32_t *picked, float *share) {
    scores_of(logits, experts, softcap);
    for (int e = 0; e < experts; e++) scratch[e] = {bias ? logits[e] + bias[e] : logits[e], e};
    // Where torch draws the line between its two ways.
    if ((int64_t)per_token * 64 <= experts) select_by_heap(scratch, experts, per_token);
    else select_by_pivots(scratch, experts, per_token);
    for (int i = 0; i < per_token; i++) {
        int at = i;
        for (; at && picked[at - 1] > scratch[i].expert; at--) picked[at] = picked[at - 1];
        picked[at] = scratch[i].expert;
    }
    float total = 0;
    for (int i = 0; i < per_token; i++) total += share[i] = logits[picked[i]];
    for (int i = 0; normalize && i < per_token; i++) share[i] /= total;
}

static int routing(const LagunaRouting *given) {
    const int experts = given->experts, wanted = given->per_token;
    if (wanted < 1 || wanted > experts) return NO_SUCH_INDEX;
    Candidate *scratch = (Candidate *)malloc(experts * sizeof *scratch);
    if (!scratch) return NO_MEMORY;
    for (int64_t token = 0; token < given->tokens; token++)
        route_token(given->logits + token * experts, given->bias, experts, wanted, given->normalize, given->softcap,
                    scratch, given->picked + token * wanted, given->share + token * wanted);
    free(scratch);
    return DONE;
}

}  // namespace LAGUNA_VARIANT
