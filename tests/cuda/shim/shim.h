// A GPU's block on a CPU: every thread is a fibre, fibres run one at a time in random order, and change only where the
// threads of a block wait for one another. What a GPU does by luck fails here: shared memory is poisoned when a block
// begins and ends where protected memory begins; a shuffle or barrier that not all of its threads reach, with the same
// mask and at the same place in the program, ends the process, as do misaligned loads.
//
// The twins of platform.cuh are at the end. Nothing else of CUDA is offered.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define LAGUNA_SHIM 1
#define DEVICE static inline
#define METHOD inline
#define UNROLL
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

constexpr int STACK = 128 << 10, MOST_THREADS = 1024, WARP = 32;
constexpr size_t PAGE = 4096, GUARD = 256, MOST_SHARED = 228 << 10;

[[noreturn]] static void fail(const char *what) {
    fprintf(stderr, "shim: %s (block %u,%u,%u thread %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x);
    fflush(stderr);
    abort();
}

enum class Waits { NO, BARRIER, WARP, DONE };

// What a thread brings to a collective of its warp: where it is in the program, who shall take part, and a value.
struct Offer {
    const void *place;
    unsigned mask;
    uint64_t value;
};

#if defined(__x86_64__)
// swapcontext asks the kernel for the signal mask each time, which is most of what it costs.
using Context = void *;
#else
using Context = ucontext_t;
#endif

struct Fibre {
    Context context;
    unsigned char *stack = nullptr;
    Waits waits = Waits::NO;
    Offer offer;
    uint64_t received[WARP];
    const void *barrier = nullptr;
};

static Fibre fibres[MOST_THREADS];
static Context scheduler;
static int running, threads;
static std::mt19937 chance;
static void (*body)(void **);
static void **arguments;
static unsigned char *pool_end, *pool;
static size_t pool_bytes;

static void enter();

// AddressSanitizer must be told on which stack the program goes on.
#if defined(SHIM_SANITIZED)
extern "C" void __sanitizer_start_switch_fiber(void **kept, const void *bottom, size_t bytes);
extern "C" void __sanitizer_finish_switch_fiber(void *kept, const void **bottom, size_t *bytes);
static const void *scheduler_bottom;
static size_t scheduler_bytes;
static void leaving(void **kept, const void *bottom, size_t bytes) {
    __sanitizer_start_switch_fiber(kept, bottom, bytes);
}
static void arrived(void *kept, const void **bottom, size_t *bytes) {
    __sanitizer_finish_switch_fiber(kept, bottom, bytes);
}
#else
static const void *scheduler_bottom;
static size_t scheduler_bytes;
static void leaving(void **, const void *, size_t) {}
static void arrived(void *, const void **, size_t *) {}
#endif

#if defined(__x86_64__)
extern "C" void shim_switch(void **from, void *to);
asm(R"(
.text
.type shim_switch, @function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size shim_switch, .-shim_switch
)");

static void change(Context &from, Context &to) { shim_switch(&from, to); }

static void begin(Fibre &fibre) {
    // What `shim_switch` takes off: six registers, then where to go; a function begins 8 bytes off a multiple of 16.
    void **top = reinterpret_cast<void **>(fibre.stack + STACK);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(enter);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fibre.context = top;
}
#else
static void change(Context &from, Context &to) { swapcontext(&from, &to); }

static void begin(Fibre &fibre) {
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack, fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, enter, 0);
}
#endif

static void enter() {
    arrived(nullptr, &scheduler_bottom, &scheduler_bytes);
    body(arguments);
    fibres[running].waits = Waits::DONE;
    leaving(nullptr, scheduler_bottom, scheduler_bytes);
    change(fibres[running].context, scheduler);
}

static void give_way(Waits waits) {
    const int me = running;
    fibres[me].waits = waits;
    void *kept = nullptr;
    leaving(&kept, scheduler_bottom, scheduler_bytes);
    change(fibres[me].context, scheduler);
    arrived(kept, &scheduler_bottom, &scheduler_bytes);
}

static void resume(int which) {
    running = which, threadIdx.x = which;
    void *kept = nullptr;
    leaving(&kept, fibres[which].stack, STACK);
    change(scheduler, fibres[which].context);
    arrived(kept, nullptr, nullptr);
}

// Memory of which the last byte is followed by a page that nobody may touch.
static unsigned char *fenced(size_t bytes) {
    const size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
    auto *all = static_cast<unsigned char *>(
        mmap(nullptr, room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (all == MAP_FAILED || mprotect(all + PAGE, room, PROT_READ | PROT_WRITE)) fail("no memory");
    return all + PAGE + room;
}

// Whether all lanes of a waiting lane's mask have come; they must be at the same place with the same mask.
static bool complete(int first, const Offer &mine) {
    for (int other = 0; other < WARP; other++) {
        if (!(mine.mask >> other & 1)) continue;
        if (first + other >= threads || fibres[first + other].waits == Waits::DONE) fail("a lane of the mask is gone");
        if (fibres[first + other].waits != Waits::WARP) return false;
        const Offer &theirs = fibres[first + other].offer;
        if (theirs.mask != mine.mask || theirs.place != mine.place) fail("lanes of one mask are not together");
    }
    return true;
}

static bool release_warps() {
    bool released = false;
    for (int at = 0; at < threads; at++) {
        if (fibres[at].waits != Waits::WARP) continue;
        const int first = at / WARP * WARP;
        const unsigned mask = fibres[at].offer.mask;
        if (!complete(first, fibres[at].offer)) continue;
        for (int to = 0; to < WARP; to++) {
            if (!(mask >> to & 1)) continue;
            fibres[first + to].waits = Waits::NO;
            for (int from = 0; from < WARP; from++)
                if (mask >> from & 1) fibres[first + to].received[from] = fibres[first + from].offer.value;
        }
        released = true;
    }
    return released;
}

static bool release_block() {
    for (int at = 0; at < threads; at++) {
        if (fibres[at].waits != Waits::BARRIER) return false;
        if (fibres[at].barrier != fibres[0].barrier) fail("threads wait at different barriers");
    }
    for (int at = 0; at < threads; at++) fibres[at].waits = Waits::NO;
    return true;
}

// What lies before the shared memory that a block asked for is poisoned too, and must be so afterwards.
static void check_before_pool() {
    for (const unsigned char *at = pool - GUARD; at < pool; at++)
        if (*at != 0xff) fail("something was written before the block's shared memory");
}

static void run_block() {
    memset(pool - GUARD, 0xff, GUARD + pool_bytes);
    for (int at = 0; at < threads; at++) {
        Fibre &fibre = fibres[at];
        if (!fibre.stack) fibre.stack = fenced(STACK) - STACK;
        fibre.waits = Waits::NO;
        begin(fibre);
    }
    int order[MOST_THREADS];
    for (int at = 0; at < threads; at++) order[at] = at;
    // Warps that stand still until the others can go no further: from barrier to barrier some are far ahead, others
    // far behind, as no barrier keeps them from being.
    unsigned behind = chance();
    for (;;) {
        for (int at = threads - 1; at > 0; at--) std::swap(order[at], order[chance() % (at + 1)]);
        bool ran = false, live = false;
        for (int at = 0; at < threads; at++) {
            Fibre &fibre = fibres[order[at]];
            if (fibre.waits == Waits::NO && !(behind >> order[at] / WARP & 1)) resume(order[at]), ran = true;
            live |= fibre.waits != Waits::DONE;
        }
        if (!live) return check_before_pool();
        if (release_warps() || ran) continue;
        if (behind) behind = 0;
        else if (release_block()) behind = chance();
        else fail("threads wait for others that do not come");
    }
}

// Take part in a collective of the warp; afterwards `received` has what every lane of the mask brought.
static void meet(const void *place, unsigned mask, uint64_t value) {
    Fibre &fibre = fibres[running];
    if (!(mask >> (running % WARP) & 1)) fail("a lane takes part whom the mask does not name");
    fibre.offer = {place, mask, value};
    give_way(Waits::WARP);
}

static uint64_t received(int lane, unsigned mask) {
    if (!(mask >> lane & 1)) fail("a value is taken from a lane that takes no part");
    return fibres[running].received[lane];
}

template <class T> static uint64_t bits_of(T value) {
    uint64_t bits = 0;
    static_assert(sizeof(T) <= 8, "shuffles move up to eight bytes");
    memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class T> static T value_of(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

template <class... A, size_t... I>
static void call_with(void (*kernel)(A...), void **given, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A> *>(given[I])...);
}

template <class... A> static void call(void (*kernel)(A...), void **given) {
    call_with(kernel, given, std::index_sequence_for<A...>());
}

struct Entry {
    const char *name;
    void (*call)(void **);
};

// Run a kernel's whole grid, blocks in random order.
static void launch(void (*kernel)(void **), const unsigned *grid, int block, size_t shared, void **given,
                   unsigned seed) {
    if (block < 1 || block > MOST_THREADS) fail("a block has 1 to 1024 threads");
    chance.seed(seed);
    gridDim = {grid[0], grid[1], grid[2]}, blockDim = {static_cast<unsigned>(block), 1, 1};
    body = kernel, arguments = given, threads = block, pool_bytes = (shared + 15) / 16 * 16;
    if (pool_bytes > MOST_SHARED) fail("a block has at most 228 KiB of shared memory");
    if (!pool_end) pool_end = fenced(MOST_SHARED + GUARD);
    pool = pool_end - pool_bytes;
    const size_t blocks = static_cast<size_t>(grid[0]) * grid[1] * grid[2];
    std::vector<uint32_t> order(blocks);
    for (size_t at = 0; at < blocks; at++) order[at] = at;
    for (size_t at = blocks; at > 1; at--) std::swap(order[at - 1], order[chance() % at]);
    for (const uint32_t at : order) {
        blockIdx = {at % grid[0], at / grid[0] % grid[1], at / grid[0] / grid[1]};
        run_block();
    }
}

}  // namespace shim

// Where a collective stands in the program: two that stand apart have different places.
#define SHIM_PLACE static const char shim_place = 0

#define __syncthreads()                                      \
    do {                                                     \
        SHIM_PLACE;                                          \
        shim::fibres[shim::running].barrier = &shim_place;   \
        shim::give_way(shim::Waits::BARRIER);                \
    } while (0)

#define __syncwarp(...)                                            \
    do {                                                           \
        SHIM_PLACE;                                                \
        shim::meet(&shim_place, shim::mask_or_all(__VA_ARGS__), 0); \
    } while (0)

namespace shim {
static inline unsigned mask_or_all(unsigned mask = 0xffffffffu) { return mask; }

template <class T> static T exchange(const void *place, unsigned mask, T value, int from) {
    meet(place, mask, bits_of(value));
    return value_of<T>(received(from & 31, mask));
}
template <class T> static unsigned ballot(const void *place, unsigned mask, T predicate) {
    meet(place, mask, predicate != 0);
    unsigned found = 0;
    for (int lane = 0; lane < 32; lane++)
        if (mask >> lane & 1) found |= static_cast<unsigned>(received(lane, mask)) << lane;
    return found;
}
}  // namespace shim

// A place of its own for every shuffle in the text.
#define SHIM_HERE ([]() -> const void * { SHIM_PLACE; return &shim_place; }())
#define __shfl_xor_sync(mask, value, step) \
    shim::exchange(SHIM_HERE, mask, value, (threadIdx.x & 31) ^ (step))
#define __shfl_sync(mask, value, from) shim::exchange(SHIM_HERE, mask, value, from)
#define __shfl_down_sync(mask, value, step) \
    shim::exchange(SHIM_HERE, mask, value, (threadIdx.x & 31) + (step) < 32 ? (threadIdx.x & 31) + (step) : (threadIdx.x & 31))
#define __shfl_up_sync(mask, value, step) \
    shim::exchange(SHIM_HERE, mask, value, (threadIdx.x & 31) >= (step) ? (threadIdx.x & 31) - (step) : (threadIdx.x & 31))
#define __ballot_sync(mask, predicate) shim::ballot(SHIM_HERE, mask, predicate)
#define __any_sync(mask, predicate) (shim::ballot(SHIM_HERE, mask, predicate) != 0)
#define __all_sync(mask, predicate) (shim::ballot(SHIM_HERE, mask, predicate) == (mask))

static inline float __uint_as_float(unsigned bits) { return shim::value_of<float>(bits); }
static inline unsigned __float_as_uint(float value) { return shim::bits_of(value); }
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
static inline int __ffs(int bits) { return __builtin_ffs(bits); }
static inline int __clz(int bits) { return bits ? __builtin_clz(bits) : 32; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline long long min(long long a, long long b) { return a < b ? a : b; }
static inline long long max(long long a, long long b) { return a > b ? a : b; }
template <class T> static inline T atomicAdd(T *at, T value) {
    const T old = *at;
    *at = old + value;
    return old;
}

namespace laguna {

static inline void aligned(const void *at) {
    if (reinterpret_cast<uintptr_t>(at) & 15) shim::fail("16 bytes are read or written at a place that is not a multiple of 16");
}
static inline uint4 load_once(const void *from) {
    aligned(from);
    return *static_cast<const uint4 *>(from);
}
static inline uint4 load_cached(const void *from) { return load_once(from); }
static inline float4 load_four(const float *from) {
    aligned(from);
    return *reinterpret_cast<const float4 *>(from);
}
static inline void store_four(float *to, float4 v) {
    aligned(to);
    *reinterpret_cast<float4 *>(to) = v;
}
static inline float half_value(unsigned short bits) { return static_cast<float>(shim::value_of<_Float16>(bits)); }
static inline float2 halves(unsigned pair) {
    return {half_value(static_cast<unsigned short>(pair)), half_value(static_cast<unsigned short>(pair >> 16))};
}
static inline unsigned short half_of(float x) { return shim::bits_of(static_cast<_Float16>(x)); }
static inline unsigned char *shared_pool() { return shim::pool; }

}  // namespace laguna
