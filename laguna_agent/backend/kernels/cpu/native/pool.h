// Threads that share the tasks of one job.
#pragma once

#include <stdint.h>

// Task `task` of the job, done by worker `worker` (0 is the caller; fewer than the `threads` of `run_tasks`).
typedef void (*Work)(void *job, int64_t task, int worker);
// Tasks `begin` to `end`, one behind the other in memory.
typedef void (*RangeWork)(void *job, int64_t begin, int64_t end, int worker);

// Do tasks 0 .. tasks - 1, each once, on the calling thread and up to threads - 1 others; returns when all are done.
// May be called from any thread. Where another thread's job has the workers, the caller does its own alone. `more_follow`
// tells the workers to look out for the next job; without it they sleep at once, for torch's threads may come next.
// Whoever is free takes several tasks that follow one another: many while many are left, at the end one at a time.
void run_tasks(int threads, int64_t tasks, Work work, void *job, int more_follow);
// The same for work that gains by doing neighbours together.
void run_ranges(int threads, int64_t tasks, RangeWork work, void *job, int more_follow);

// Bind each thread to one of these processors from now on: callers to the first while they compute, workers to the others
// in turn; workers for whom there is none, and all where `count` is 0, may run anywhere.
void pin_threads(const int32_t *processors, int count);
