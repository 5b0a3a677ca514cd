// The workers: they look out for a new job for a moment, then sleep until they are woken; they never end.
//
// A job is announced by one word, the gate: its round, how many workers may enter, how many have, and whether it is
// closed. A worker enters by counting itself in; the caller closes the gate when no task is left and waits only for
// those who entered, so a worker that wakes up late costs nothing and never sees a job that is over.
//
// A forked child has no workers: it forgets the pool (its memory stays behind) and makes one of its own when needed.
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define MOST_WORKERS 63
// How long a worker looks out for the next job before it sleeps, and a caller for its last worker. Between two products
// of a model that is driven from Python lie up to some tenths of a millisecond; to sleep there and be woken again costs
// more processor time than to look out (measured: 245 against 195 ms a token, and 143 against 98 on the clock).
#define LOOKOUT_MICROSECONDS 2000

#define CLOSED 0x80000000ull
#define ENTERED(gate) ((gate) & 0xff)
#define WANTED(gate) ((gate) >> 8 & 0xff)
#define ROUND(gate) ((gate) >> 32)

typedef struct {
    pthread_mutex_t busy;  // held by the thread whose job it is
    pthread_mutex_t lock;  // for `wake` and `finished`
    pthread_cond_t wake, finished;
    _Atomic uint64_t gate;
    _Atomic int sleeping, left, awaited, lookout;
    _Atomic int64_t next;
    int workers;
    int64_t tasks;
    Work work;
    void *job;
} Pool;

static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(Pool *) the_pool;

static inline void pause_a_little(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static double microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

static void do_tasks(Pool *pool, int worker) {
    for (int64_t task; (task = atomic_fetch_add(&pool->next, 1)) < pool->tasks;) pool->work(pool->job, task, worker);
}

static uint64_t wait_for_round(Pool *pool, uint64_t seen) {
    uint64_t gate;
    const double until = microseconds() + atomic_load(&pool->lookout);
    do {
        for (int i = 0; i < 64; i++) {
            if (ROUND(gate = atomic_load(&pool->gate)) != seen) return gate;
            pause_a_little();
        }
    } while (microseconds() < until);
    pthread_mutex_lock(&pool->lock);
    // Counted before the gate is read again; the caller writes the gate before it reads the count. One of us sees.
    atomic_fetch_add(&pool->sleeping, 1);
    while (ROUND(gate = atomic_load(&pool->gate)) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
    atomic_fetch_sub(&pool->sleeping, 1);
    pthread_mutex_unlock(&pool->lock);
    return gate;
}

static void *worker_life(void *argument) {
    Pool *pool = argument;
    uint64_t seen = 0;
    for (;;) {
        uint64_t gate = wait_for_round(pool, seen);
        seen = ROUND(gate);
        while (ROUND(gate) == seen && !(gate & CLOSED) && ENTERED(gate) < WANTED(gate)) {
            if (!atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1)) continue;
            do_tasks(pool, (int)ENTERED(gate) + 1);
            atomic_fetch_add(&pool->left, 1);
            if (atomic_load(&pool->awaited)) {
                pthread_mutex_lock(&pool->lock);
                pthread_cond_signal(&pool->finished);
                pthread_mutex_unlock(&pool->lock);
            }
            break;
        }
    }
    return NULL;
}

static void forget_pool(void) {
    atomic_store(&the_pool, NULL);
    making = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

static Pool *pool_of_process(void) {
    static _Atomic int watched;
    Pool *pool = atomic_load(&the_pool);
    if (pool) return pool;
    pthread_mutex_lock(&making);
    pool = atomic_load(&the_pool);
    if (!pool && (pool = calloc(1, sizeof *pool))) {
        pthread_mutex_init(&pool->busy, NULL);
        pthread_mutex_init(&pool->lock, NULL);
        pthread_cond_init(&pool->wake, NULL);
        pthread_cond_init(&pool->finished, NULL);
        if (!atomic_exchange(&watched, 1)) pthread_atfork(NULL, NULL, forget_pool);
        atomic_store(&the_pool, pool);
    }
    pthread_mutex_unlock(&making);
    return pool;
}

// Start workers until there are `wanted`; fewer where the system gives no more. `busy` is held.
static void hire(Pool *pool, int wanted) {
    sigset_t all, before;
    if (pool->workers >= wanted) return;
    // Signals belong to the program's own threads.
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->workers < wanted) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker_life, pool)) break;
        pthread_detach(thread);
        pool->workers++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void wait_for_workers(Pool *pool, int entered) {
    if (atomic_load(&pool->left) == entered) return;
    const double until = microseconds() + LOOKOUT_MICROSECONDS;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load(&pool->left) == entered) return;
            pause_a_little();
        }
    } while (microseconds() < until);
    // A worker that lost its core to another process may need ours.
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->awaited, 1);
    while (atomic_load(&pool->left) < entered) pthread_cond_wait(&pool->finished, &pool->lock);
    atomic_store(&pool->awaited, 0);
    pthread_mutex_unlock(&pool->lock);
}

void run_tasks(int threads, int64_t tasks, Work work, void *job, int more_follow) {
    int wanted = threads - 1 < MOST_WORKERS ? threads - 1 : MOST_WORKERS;
    if (wanted > tasks - 1) wanted = (int)(tasks - 1);
    Pool *pool = wanted > 0 ? pool_of_process() : NULL;
    if (!pool || pthread_mutex_trylock(&pool->busy)) {
        for (int64_t task = 0; task < tasks; task++) work(job, task, 0);
        return;
    }
    hire(pool, wanted);
    atomic_store(&pool->lookout, more_follow ? LOOKOUT_MICROSECONDS : 0);
    pool->work = work, pool->job = job, pool->tasks = tasks;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->left, 0);
    const uint64_t round = ROUND(atomic_load(&pool->gate)) + 1;
    atomic_store(&pool->gate, round << 32 | (uint64_t)wanted << 8);
    if (atomic_load(&pool->sleeping)) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    do_tasks(pool, 0);
    wait_for_workers(pool, (int)ENTERED(atomic_fetch_or(&pool->gate, CLOSED)));
    pthread_mutex_unlock(&pool->busy);
}
