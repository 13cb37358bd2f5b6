// The thread pool. A team of threads runs one function together (the caller is rank 0); between
// teams the workers sleep. Safe across fork: the child starts with a fresh pool.
#pragma once
#include "ops.h"

namespace fnn {

enum { kMaxThreads = 1024 };

int num_threads();
void set_num_threads(int n);  // 1 <= n <= kMaxThreads

// CPUs this process may use: affinity, and the cgroup's quota rounded up.
int available_cpus();

// How many threads pay for work that takes `nanoseconds` on one.
int team_size(double nanoseconds);

// f(context, team) on `size` threads at once; returns when all have returned. Runs on the caller
// alone when the pool is in use by another thread, or no thread can be created.
void run_team(int size, void (*f)(void* context, const Team& team), void* context);

template <class F> void run_team(int size, F&& f) {
  run_team(size, [](void* g, const Team& team) { (*static_cast<F*>(g))(team); }, &f);
}

}  // namespace fnn
