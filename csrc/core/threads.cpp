#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <mutex>
#include <string>
#include <vector>

namespace fnn {
namespace {

// Waiters look this often (about 160 us) before they sleep in the kernel: long enough to bridge
// what threads of a stage differ by and the caller's Python between two steps, short enough to
// leave the core to a busy neighbour. Who sleeps beside one is woken only at the end of its time
// slice, some milliseconds later.
enum { kSpins = 1 << 13 };

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void wait_while_equal(const std::atomic<u32>& word, u32 old) {
  for (int i = 0; i < kSpins; i++) {
    if (word.load(std::memory_order_acquire) != old) return;
    pause();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

// The thread that calls a team, and the CPU that it runs on. The kernel likes to wake a worker just
// there, where the two can only take turns: such a worker leaves, and keeps away.
struct Caller {
#ifdef __linux__
  pid_t thread;
  int cpu;
  Caller() : thread(gettid()), cpu(sched_getcpu()) {}
  void keep_away() const {
    cpu_set_t allowed;
    if (sched_getcpu() != cpu || sched_getaffinity(thread, sizeof allowed, &allowed)) return;
    CPU_CLR(cpu, &allowed);
    if (CPU_COUNT(&allowed)) sched_setaffinity(0, sizeof allowed, &allowed);
  }
#else
  void keep_away() const {}
#endif
};

struct Barrier {
  alignas(64) std::atomic<u32> arrived{0};
  alignas(64) std::atomic<u32> phase{0};

  void wait(u32 size) {
    u32 before = phase.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived.store(0, std::memory_order_relaxed);
      phase.fetch_add(1, std::memory_order_release);
      phase.notify_all();
    } else {
      wait_while_equal(phase, before);
    }
  }
};

struct Worker {
  alignas(64) std::atomic<u32> call{0};  // counts the teams this worker was called into
};

struct Pool {
  std::atomic<bool> in_use{false};
  std::vector<Worker*> workers;
  Barrier barrier;
  alignas(64) std::atomic<u32> finished{0};  // counts finished teams' workers
  void (*f)(void*, const Team&) = nullptr;
  void* context = nullptr;
  int size = 1;
  Caller caller;

  void work(Worker* self, int rank) {
    for (u32 seen = 0;; seen++) {
      wait_while_equal(self->call, seen);
      caller.keep_away();
      f(context, Team{rank, size, &barrier});
      finished.fetch_add(1, std::memory_order_release);
      finished.notify_one();
    }
  }

  bool add_worker();
  void run(int team, void (*g)(void*, const Team&), void* c);
};

struct Release {
  std::atomic<bool>& in_use;
  ~Release() { in_use.store(false, std::memory_order_release); }
};

struct Start {
  Pool* pool;
  Worker* worker;
  int rank;
};

void* worker_main(void* argument) {
  Start start = *static_cast<Start*>(argument);
  delete static_cast<Start*>(argument);
  start.pool->work(start.worker, start.rank);
  return nullptr;
}

bool Pool::add_worker() {
  workers.reserve(workers.size() + 1);  // what can throw comes first
  auto* worker = new Worker;
  auto* start = new Start{this, worker, static_cast<int>(workers.size()) + 1};
  // Signals belong to the interpreter's threads.
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  pthread_t thread;
  int error = pthread_create(&thread, nullptr, worker_main, start);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (error) {
    static std::atomic<bool> warned{false};
    if (!warned.exchange(true))
      fprintf(stderr, "fastnn: warning: can't create thread %d (%s); continuing with fewer\n",
              start->rank, strerror(error));
    delete start;
    delete worker;
    return false;
  }
  pthread_detach(thread);
  workers.push_back(worker);
  return true;
}

void Pool::run(int team, void (*g)(void*, const Team&), void* c) {
  while (static_cast<int>(workers.size()) < team - 1 && add_worker()) {}
  size = team = std::min(team, static_cast<int>(workers.size()) + 1);
  f = g;
  context = c;
  caller = Caller();
  u32 target = finished.load(std::memory_order_relaxed) + static_cast<u32>(team - 1);
  for (int i = 0; i < team - 1; i++) {
    workers[i]->call.fetch_add(1, std::memory_order_release);
    workers[i]->call.notify_one();
  }
  g(c, Team{0, team, &barrier});
  for (u32 now; (now = finished.load(std::memory_order_acquire)) != target;)
    wait_while_equal(finished, now);
}

// Never destroyed: sleeping workers may outlive main(). Replaced in a forked child, where the
// parent's workers don't exist; the parent's pool is left alone there, whatever state it was in.
std::atomic<Pool*> pool{nullptr};

Pool* get_pool() {
  Pool* now = pool.load(std::memory_order_acquire);
  if (now) return now;
  static std::once_flag registered;
  std::call_once(registered, [] {
    pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr, std::memory_order_release); });
  });
  auto* fresh = new Pool;
  if (pool.compare_exchange_strong(now, fresh)) return fresh;
  delete fresh;
  return now;
}

std::atomic<int> threads_wanted{0};

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// CPUs granted by one cgroup folder's quota, 0 if it sets none.
double quota_v2(const std::string& folder) {
  double quota, period;
  std::string line = read_line(folder + "/cpu.max");
  return sscanf(line.c_str(), "%lf %lf", &quota, &period) == 2 && period > 0 ? quota / period : 0;
}

double quota_v1(const std::string& folder) {
  double quota = atof(read_line(folder + "/cpu.cfs_quota_us").c_str());
  double period = atof(read_line(folder + "/cpu.cfs_period_us").c_str());
  return quota > 0 && period > 0 ? quota / period : 0;
}

// The tightest quota from this process's cgroup up to the root; 0 if there is none.
double cgroup_cpus() {
  double tightest = 0;
  auto add = [&](double cpus) {
    if (cpus > 0 && (tightest == 0 || cpus < tightest)) tightest = cpus;
  };
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = line.substr(first + 1, second - first - 1);
    bool v2 = controllers.empty();
    if (!v2 && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    std::string path = line.substr(second + 1);
    for (;;) {
      if (v2) add(quota_v2("/sys/fs/cgroup" + path));
      if (!v2) add(quota_v1("/sys/fs/cgroup/cpu" + path));
      size_t slash = path.rfind('/');
      if (slash == std::string::npos || path.empty()) break;
      path.resize(slash);
    }
  }
  return tightest;
}

}  // namespace

int available_cpus() {
  int cpus = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) cpus = CPU_COUNT(&set);
#endif
  double quota = cgroup_cpus();
  if (quota > 0) cpus = std::min(cpus, static_cast<int>(ceil(quota)));
  return std::clamp(cpus, 1, static_cast<int>(kMaxThreads));
}

int num_threads() {
  int n = threads_wanted.load(std::memory_order_relaxed);
  if (n) return n;
  threads_wanted.store(n = available_cpus(), std::memory_order_relaxed);
  return n;
}

void set_num_threads(int n) { threads_wanted.store(n, std::memory_order_relaxed); }

int team_size(double nanoseconds) {
  // Calling a worker that sleeps costs a few microseconds; below twice that one thread is faster.
  constexpr double kWorthAThread = 8000;
  double wanted = nanoseconds / kWorthAThread;
  int most = num_threads();
  return wanted < 2 ? 1 : wanted < most ? static_cast<int>(wanted) : most;
}

void run_team(int size, void (*f)(void*, const Team&), void* context) {
  if (size > 1) {
    Pool* p = get_pool();
    if (!p->in_use.exchange(true, std::memory_order_acquire)) {
      Release release{p->in_use};
      return p->run(size, f, context);
    }
  }
  f(context, Team{0, 1, nullptr});
}

}  // namespace fnn

extern "C" void fnn_team_barrier(const Team* team) {
  static_cast<fnn::Barrier*>(team->barrier)->wait(static_cast<u32>(team->size));
}
