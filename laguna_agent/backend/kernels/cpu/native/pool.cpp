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
#include <stdlib.h>
#include <time.h>
#if defined(__linux__)
#include <sched.h>
#include <unistd.h>
#define MOST_PROCESSORS CPU_SETSIZE
#else
#define MOST_PROCESSORS 1024
#endif

#include <atomic>

#define MOST_WORKERS 63
// How long a worker looks out for the next job before it sleeps, and a caller for its last worker. Between two products
// of a model that is driven from Python lie up to some tenths of a millisecond; to sleep there and be woken again costs
// more processor time than to look out (measured: 245 against 195 ms a token, and 143 against 98 on the clock).
#define LOOKOUT_MICROSECONDS 2000

#define CLOSED 0x80000000ull
#define ENTERED(gate) ((gate) & 0xff)
#define WANTED(gate) ((gate) >> 8 & 0xff)
#define ROUND(gate) ((gate) >> 32)

struct Pool {
    pthread_mutex_t busy;  // held by the thread whose job it is
    pthread_mutex_t lock;  // for `wake` and `finished`
    pthread_cond_t wake, finished;
    std::atomic<uint64_t> gate;
    std::atomic<int> sleeping, left, awaited, lookout;
    std::atomic<int64_t> next;
    int workers, wanted;
    pthread_t thread[MOST_WORKERS];
    int64_t tasks;
    RangeWork work;
    void *job;
};

static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;
static std::atomic<Pool *> the_pool;
// The processors that threads are bound to, the caller's first; none where the system places them. For whoever has `busy`.
static int32_t processors[MOST_WORKERS + 1];
static int processor_count;

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

// Tasks that are taken together: a part of those that are left, so that nobody waits long for the last one. Memory is
// read fastest in long pieces.
static int64_t together(int64_t left, int threads) {
    const int64_t share = left / (3 * threads);
    return share < 1 ? 1 : share;
}

static void do_tasks(Pool *pool, int worker) {
    int64_t begin = pool->next.load();
    while (begin < pool->tasks) {
        const int64_t end = begin + together(pool->tasks - begin, pool->wanted + 1);
        if (!pool->next.compare_exchange_weak(begin, end)) continue;
        pool->work(pool->job, begin, end, worker);
        begin = pool->next.load();
    }
}

static uint64_t wait_for_round(Pool *pool, uint64_t seen) {
    uint64_t gate;
    const double until = microseconds() + pool->lookout.load();
    do {
        for (int i = 0; i < 64; i++) {
            if (ROUND(gate = pool->gate.load()) != seen) return gate;
            pause_a_little();
        }
    } while (microseconds() < until);
    pthread_mutex_lock(&pool->lock);
    // Counted before the gate is read again; the caller writes the gate before it reads the count. One of us sees.
    pool->sleeping.fetch_add(1);
    while (ROUND(gate = pool->gate.load()) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
    pool->sleeping.fetch_sub(1);
    pthread_mutex_unlock(&pool->lock);
    return gate;
}

static void *worker_life(void *argument) {
    Pool *pool = static_cast<Pool *>(argument);
    uint64_t seen = 0;
    for (;;) {
        uint64_t gate = wait_for_round(pool, seen);
        seen = ROUND(gate);
        while (ROUND(gate) == seen && !(gate & CLOSED) && ENTERED(gate) < WANTED(gate)) {
            if (!pool->gate.compare_exchange_weak(gate, gate + 1)) continue;
            do_tasks(pool, (int)ENTERED(gate) + 1);
            pool->left.fetch_add(1);
            if (pool->awaited.load()) {
                pthread_mutex_lock(&pool->lock);
                pthread_cond_signal(&pool->finished);
                pthread_mutex_unlock(&pool->lock);
            }
            break;
        }
    }
    return nullptr;
}

static void forget_pool(void) {
    the_pool.store(nullptr);
    const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    making = fresh;
}

static Pool *pool_of_process(void) {
    static std::atomic<int> watched;
    Pool *pool = the_pool.load();
    if (pool) return pool;
    pthread_mutex_lock(&making);
    pool = the_pool.load();
    if (!pool && (pool = static_cast<Pool *>(calloc(1, sizeof *pool)))) {
        pthread_mutex_init(&pool->busy, nullptr);
        pthread_mutex_init(&pool->lock, nullptr);
        pthread_cond_init(&pool->wake, nullptr);
        pthread_cond_init(&pool->finished, nullptr);
        if (!watched.exchange(1)) pthread_atfork(nullptr, nullptr, forget_pool);
        the_pool.store(pool);
    }
    pthread_mutex_unlock(&making);
    return pool;
}

// Bind a thread to the n-th of the processors; where there are not so many, to all that the process may use. A pool is
// made of threads that were bound to nothing, so what the main thread may use, the process may.
static void place(pthread_t thread, int n) {
#if defined(__linux__)
    cpu_set_t set;
    if (n < processor_count) {
        CPU_ZERO(&set);
        CPU_SET(processors[n], &set);
    } else if (sched_getaffinity(getpid(), sizeof set, &set)) return;
    pthread_setaffinity_np(thread, sizeof set, &set);
#else
    (void)thread, (void)n;
#endif
}

// Do the tasks on the caller's own processor. It is bound only meanwhile: threads that it starts later inherit it.
static void do_tasks_as_caller(Pool *pool) {
#if defined(__linux__)
    cpu_set_t before;
    if (processor_count && !pthread_getaffinity_np(pthread_self(), sizeof before, &before)) {
        place(pthread_self(), 0);
        do_tasks(pool, 0);
        pthread_setaffinity_np(pthread_self(), sizeof before, &before);
        return;
    }
#endif
    do_tasks(pool, 0);
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
        if (pthread_create(&thread, nullptr, worker_life, pool)) break;
        pthread_detach(thread);
        pool->thread[pool->workers++] = thread;
        if (processor_count) place(thread, pool->workers);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

static void wait_for_workers(Pool *pool, int entered) {
    if (pool->left.load() == entered) return;
    const double until = microseconds() + LOOKOUT_MICROSECONDS;
    do {
        for (int i = 0; i < 64; i++) {
            if (pool->left.load() == entered) return;
            pause_a_little();
        }
    } while (microseconds() < until);
    // A worker that lost its core to another process may need ours.
    pthread_mutex_lock(&pool->lock);
    pool->awaited.store(1);
    while (pool->left.load() < entered) pthread_cond_wait(&pool->finished, &pool->lock);
    pool->awaited.store(0);
    pthread_mutex_unlock(&pool->lock);
}

void pin_threads(const int32_t *given, int count) {
    Pool *pool = pool_of_process();
    if (!pool) return;
    pthread_mutex_lock(&pool->busy);
    processor_count = 0;
    for (int i = 0; i < count && i <= MOST_WORKERS; i++)
        if (given[i] >= 0 && given[i] < MOST_PROCESSORS) processors[processor_count++] = given[i];
    for (int i = 0; i < pool->workers; i++) place(pool->thread[i], i + 1);
    pthread_mutex_unlock(&pool->busy);
}

struct SingleTasks {
    Work work;
    void *job;
};

static void one_by_one(void *job, int64_t begin, int64_t end, int worker) {
    const SingleTasks *single = static_cast<SingleTasks *>(job);
    for (int64_t task = begin; task < end; task++) single->work(single->job, task, worker);
}

void run_tasks(int threads, int64_t tasks, Work work, void *job, int more_follow) {
    SingleTasks single = {work, job};
    run_ranges(threads, tasks, one_by_one, &single, more_follow);
}

void run_ranges(int threads, int64_t tasks, RangeWork work, void *job, int more_follow) {
    int wanted = threads - 1 < MOST_WORKERS ? threads - 1 : MOST_WORKERS;
    if (wanted > tasks - 1) wanted = (int)(tasks - 1);
    Pool *pool = wanted > 0 ? pool_of_process() : nullptr;
    if (!pool || pthread_mutex_trylock(&pool->busy)) {
        if (tasks > 0) work(job, 0, tasks, 0);
        return;
    }
    hire(pool, wanted);
    pool->lookout.store(more_follow ? LOOKOUT_MICROSECONDS : 0);
    pool->work = work, pool->job = job, pool->tasks = tasks, pool->wanted = wanted;
    pool->next.store(0);
    pool->left.store(0);
    const uint64_t round = ROUND(pool->gate.load()) + 1;
    pool->gate.store(round << 32 | (uint64_t)wanted << 8);
    if (pool->sleeping.load()) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->lock);
    }
    do_tasks_as_caller(pool);
    wait_for_workers(pool, (int)ENTERED(pool->gate.fetch_or(CLOSED)));
    pthread_mutex_unlock(&pool->busy);
}
